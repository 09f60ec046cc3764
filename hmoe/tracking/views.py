"""The views of a study that MLflow opens by a link and offers in its menu "Views".

MLflow keeps a view as a tag of the experiment: an envelope with a name, and in it as JSON the state
of its page of runs: what is filtered, sorted, grouped, shown and drawn. It leaves out a column or a
chart of which no run has the metric. A version that knows no such tag shows its plain table.

Source: the views that the page itself stores, MLflow 3.17 (its ExperimentPageUIState). What belongs
to one visitor is not kept, such as which parents are unfolded; so a filter lists the children.
"""

import json
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow import MlflowClient

_TAG = "mlflow.sharedViewState."
_MODES = {"hmoe-by-arm": "TABLE", "hmoe-charts": "CHART", "hmoe-runs": "TABLE"}
_LEVELS = [*(f"level_{i}" for i in range(4)), "expert"]
_COSTS = ["cost/active_params", "cost/total_params", "cost/train_flops", "cost/seconds"]
_ARM = "hmoe.arm"
_WIDTHS = {"tags": 90, "metrics": 150}  # pixels


class View(NamedTuple):
    """A stored view: the end of its tag and of its link, its name in the menu, its state."""

    key: str
    name: str
    state: Mapping[str, Any]


def set_views(client: MlflowClient, parent: str, *, confirmed: bool) -> None:
    """Store the views of a study with its experiment; see `study_views`. Again leaves the same."""
    run = client.get_run(parent)
    objectives, arms = (json.loads(run.data.tags[f"hmoe.{key}"]) for key in ("objectives", "arms"))
    if not objectives:
        return
    experiment = client.get_experiment(run.info.experiment_id)
    for i, view in enumerate(study_views(objectives, arms, confirmed=confirmed)):
        created = (experiment.creation_time or 0) - i  # the menu begins with the newest
        envelope = {
            "name": view.name,
            "createdAt": created,
            "updatedAt": created,
            "state": json.dumps(view.state),
        }
        tag = f"{_TAG}{view.key}"
        client.set_experiment_tag(experiment.experiment_id, tag, json.dumps(envelope))


def view_places(experiment: str, tags: Container[str]) -> dict[str, str]:
    """By key, where MLflow's server shows those views whose tags an experiment has.

    Without the last word of the address MLflow shows its pages about prompts and traces.
    """
    return {
        key: f"#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode={mode}"
        "&workflowType=machine_learning"
        for key, mode in _MODES.items()
        if f"{_TAG}{key}" in tags
    }


def study_views(
    objectives: Sequence[tuple[str, str]], arms: Sequence[str], *, confirmed: bool
) -> list[View]:
    """A row for each arm, charts, and all runs; in the order in which they are worth a look.

    Args:
        objectives: (metric, "minimize" | "maximize"), at least one, quality first.
        arms: names of the arms.
        confirmed: whether runs confirm. Then arms are told by those alone, on the test set: trials
            of a search are where they are because of their values.
    """
    kind, split = ("confirm", "test") if confirmed else ("trial", "val")
    of_kind = f"tags.`hmoe.kind` = '{kind}'"
    first, way = objectives[0]
    told = [_final(metric, split) for metric, _ in objectives]
    searched = [_final(metric, "val") for metric, _ in objectives]
    by_arm = {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": _ARM}],
        },
        "groupsExpanded": {f"tag.{_ARM}.{arm}": False for arm in arms},
    }
    table = _table(
        of_kind, (_final(first, split), way), metrics=[*told, *_loads(f"final/{split}"), *_COSTS]
    )
    runs = _table(
        "tags.`hmoe.kind` != 'sweep'",
        (_final(first, "val"), way),
        tags=[_ARM, "hmoe.kind", "hmoe.state", "hmoe.seed"],
        metrics=[*searched, *told, *_loads("final/val"), *_COSTS],
    )
    charts = _charts(of_kind, [metric for metric, _ in objectives], told)
    return [
        View("hmoe-by-arm", "By arm: mean of its runs", table | by_arm),
        View("hmoe-charts", "Charts: mean and range of each arm", charts | by_arm),
        View("hmoe-runs", "All runs", runs),
    ]


def _final(objective: str, split: str) -> str:
    """The metric under which a finished run has an objective."""
    written_apart = objective.startswith(("best/", "final/", "cost/"))
    return objective if written_apart else f"final/{split}/{objective.removeprefix('val/')}"


def _loads(prefix: str) -> list[str]:
    """The coefficient of variation of the load, level by level."""
    return [f"{prefix}/load/cv/{level}" for level in _LEVELS]


def _table(
    where: str, sort: tuple[str, str], *, metrics: Sequence[str], tags: Sequence[str] = ()
) -> dict[str, Any]:
    """The runs of a filter, best value of a metric first."""
    columns = [("tags", tag) for tag in tags] + [("metrics", metric) for metric in metrics]
    widths = {f"{kind}.`{name}`": _WIDTHS[kind] for kind, name in columns}
    metric, way = sort
    return {
        "searchFilter": where,
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": way == "minimize",
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
    }


def _charts(where: str, objectives: Sequence[str], told: Sequence[str]) -> dict[str, Any]:
    """Curves of the objectives and where they ended, of the load level by level, and costs."""
    curves = [_line(metric) for metric in objectives]
    quality = [curves[0], _bar(told[0])]
    if len(objectives) > 1:
        quality = [curves[0], _scatter(told[1], told[0]), *curves[1:]]
    drawn = {line["metricKey"] for line in curves}
    loads = [key for key in _loads("val") if key not in drawn]
    sections = {
        "Objectives": quality,
        "Balance of every level": [_line(key) for key in loads],
        "Gates of every level: how much in doubt, what changes": [
            _line(f"val/gate/{what}/level_{i}") for what in ("entropy", "churn") for i in range(4)
        ],
        "Cost": [_bar(key) for key in _COSTS],
    }
    cards = [
        {**card, "uuid": f"{name}/{i}", "metricSectionId": name}
        for name, own in sections.items()
        for i, card in enumerate(own)
    ]
    return {
        "searchFilter": where,
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": True,
        "isAccordionReordered": True,
        "compareRunSections": [_section(name) for name in sections],
        "compareRunCharts": cards,
    }


def _section(name: str) -> dict[str, Any]:
    flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": name, **flags}


def _line(objective: str) -> dict[str, Any]:
    metric = objective.removeprefix("best/").removeprefix("final/")
    return {
        **_card("LINE"),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _bar(metric: str) -> dict[str, Any]:
    return _card("BAR") | {"metricKey": metric}


def _scatter(x: str, y: str) -> dict[str, Any]:
    return {
        **_card("SCATTER"),
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
    }


def _card(kind: str) -> dict[str, Any]:
    return {"type": kind, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
