"""Views: what a page of MLflow reads from the tags, and where they are."""

import json

import pytest
from mlflow import MlflowClient

from hmoe.tracking import Store, links
from hmoe.tracking.views import study_views
from tests.tracking.fake import ARMS, OBJECTIVES, fake_study

TAG = "mlflow.sharedViewState."


def states(objectives=OBJECTIVES, *, confirmed=False):
    found = study_views(objectives, ["flat", "tree"], confirmed=confirmed)
    return {view.key: view.state for view in found}


def stored(runs, study):
    """By key the envelopes of the views of an experiment, in the order of the menu."""
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    tags = client.get_experiment_by_name(study).tags
    found = {k.removeprefix(TAG): json.loads(v) for k, v in tags.items() if k.startswith(TAG)}
    return dict(sorted(found.items(), key=lambda item: -item[1]["createdAt"]))


@pytest.mark.parametrize(
    ("confirmed", "kind", "split"), [(0, "trial", "val"), (1, "confirm", "test")]
)
def test_arms_are_told_by_the_runs_that_count(confirmed, kind, split):
    state = states(confirmed=confirmed)["hmoe-by-arm"]
    assert state["searchFilter"] == f"tags.`hmoe.kind` = '{kind}'"
    assert state["orderByKey"] == f"metrics.`final/{split}/bits_per_byte`"
    assert state["selectedColumns"][:2] == [
        f"metrics.`final/{split}/bits_per_byte`",
        f"metrics.`final/{split}/load/cv/expert`",
    ]
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "hmoe.arm"}]
    assert state["groupsExpanded"] == {"tag.hmoe.arm.flat": False, "tag.hmoe.arm.tree": False}


@pytest.mark.parametrize(("way", "ascending"), [("minimize", True), ("maximize", False)])
def test_the_best_run_comes_first(way, ascending):
    for key in ("hmoe-by-arm", "hmoe-runs"):
        assert states([("val/accuracy", way)])[key]["orderByAsc"] is ascending


def test_a_metric_that_training_wrote_apart_keeps_its_name():
    (first, *_) = states([("best/val/loss", "minimize")])["hmoe-runs"]["selectedColumns"][4:]
    assert first == "metrics.`best/val/loss`"
    cards = states([("best/val/loss", "minimize")])["hmoe-charts"]["compareRunCharts"]
    assert [card["metricKey"] for card in cards[:2]] == ["val/loss", "best/val/loss"]


@pytest.mark.parametrize("objectives", [OBJECTIVES, OBJECTIVES[:1]])
def test_every_chart_is_once_in_a_section_that_there_is(objectives):
    state = states(objectives)["hmoe-charts"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    cards = state["compareRunCharts"]
    assert {card["metricSectionId"] for card in cards} == sections
    assert len({card["uuid"] for card in cards}) == len(cards)
    lines = [card["metricKey"] for card in cards if card["type"] == "LINE"]
    assert sorted(set(lines)) == sorted(lines)
    assert {f"val/load/cv/level_{i}" for i in range(4)} <= set(lines)


def test_a_study_has_its_views_from_its_start_and_links_to_them(tmp_path):
    fake_study(tmp_path, arms=ARMS[:2], trials=1)
    assert list(stored(tmp_path, "fake")) == ["hmoe-by-arm", "hmoe-charts", "hmoe-runs"]
    addresses = links(tmp_path, 5001)["fake"]
    assert addresses[0] == (
        "http://127.0.0.1:5001/#/experiments/1/runs?viewStateShareKey=hmoe-by-arm"
        "&compareRunsMode=TABLE&workflowType=machine_learning"
    )
    assert len(addresses) == 3


def test_with_an_answer_the_views_turn_to_the_runs_that_confirm(tmp_path):
    parent = fake_study(tmp_path, arms=ARMS[:2], trials=1, confirm_seeds=1)
    before, store = stored(tmp_path, "fake"), Store(tmp_path)
    store.set_answer(parent, note="", pareto=[])
    after = stored(tmp_path, "fake")
    assert "'trial'" in before["hmoe-by-arm"]["state"]
    assert "'confirm'" in after["hmoe-by-arm"]["state"]
    assert [v["createdAt"] for v in after.values()] == [v["createdAt"] for v in before.values()]
    store.set_answer(parent, note="", pareto=[])
    assert stored(tmp_path, "fake") == after
