"""The search: slots and shares, paired draws, and that no crash changes what is drawn."""

import math
import shutil
from collections import Counter

import optuna
import pytest
from optuna.trial import Trial, TrialState

from hmoe.study import best, load_sweep, plan_arms
from hmoe.study.search import Ended, Search, Ticket
from tests.tiny import sweep_overrides

SPACE = (
    "space=['optim.lr=tag(log, interval(1e-3, 1e-2))','optim.weight_decay=interval(0.0, 0.1)',"
    "'data.batch_size=range(16, 65, 16)','selection=choice(top_k, descend)']"
)
LR, WEIGHT = "optim.lr", "balance.terms.switch.weight"


class Gone(BaseException):
    """Stands for the death of the owner."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A sweep of 2 arms and 24 trials over five settings, and its arms."""
    overrides = sweep_overrides(tmp_path_factory.mktemp("runs"), "budget.trials=24", SPACE)
    sweep = load_sweep("hierarchy", overrides[1:])
    return sweep, plan_arms(sweep)


@pytest.fixture
def search(plan, tmp_path):
    return Search(*plan, tmp_path)


def again(plan, tmp_path, trials=None) -> Search:
    """The search as the next owner opens it, recovered."""
    sweep, arms = plan
    if trials:
        budget = sweep.budget.model_copy(update={"trials": trials})
        sweep = sweep.model_copy(update={"budget": budget})
    new = Search(sweep, arms, tmp_path)
    new.recover()
    return new


def quality(ticket: Ticket) -> dict[str, float]:
    """Metrics that are a function of what was drawn, as after training."""
    values = {"val/loss": abs(math.log(ticket.trial.params[LR] / 4e-3)), "val/load/cv/expert": 1.0}
    return {metric: values[metric] for metric in ticket.arm.objectives}


def drawn(ticket: Ticket) -> tuple:
    return ticket.arm.name, ticket.slot, tuple(ticket.drawn)


def run_all(search: Search) -> list[tuple]:
    """Ask and tell, one trial at a time, until all have ended."""
    done = []
    while ticket := search.ask():
        search.tell(ticket, quality(ticket))
        done.append(drawn(ticket))
    return done


def final(search: Search) -> list[tuple]:
    """(arm, slot, params) of every slot as Optuna holds it, one row a trial that counts."""
    rows = []
    for name, study in search._studies.items():
        for trial in study.get_trials():
            if trial.user_attrs.get("hmoe.reason") != "interrupted":
                assert trial.state.is_finished()
                rows.append((name, trial.user_attrs["hmoe.slot"], tuple(trial.params.items())))
    return sorted(rows)


def states(search: Search) -> Counter:
    return Counter(t.state for study in search._studies.values() for t in study.get_trials())


@pytest.fixture(scope="module")
def history(plan, tmp_path_factory):
    """A search that is never disturbed, as its database was after 20 and after all 24 trials."""
    folder = tmp_path_factory.mktemp("undisturbed")
    search, files = Search(*plan, folder), {}
    for number in range(1, 25):
        ticket = search.ask()
        search.tell(ticket, quality(ticket))
        if number in (20, 24):
            files[number] = shutil.copy(folder / "optuna.db", folder / f"{number}.db")
    return files


@pytest.fixture
def late(plan, history, tmp_path):
    """A search that has learnt: its sampler begins to guess after ten trials of an arm."""
    shutil.copy(history[20], tmp_path / "optuna.db")
    return Search(*plan, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(plan, history, tmp_path_factory):
    """What the search that is never disturbed draws."""
    folder = tmp_path_factory.mktemp("all")
    shutil.copy(history[24], folder / "optuna.db")
    return final(Search(*plan, folder))


# ------------------------------------------------------------------- shares and pairs


def test_arms_take_turns_and_end_with_equal_shares(search):
    order = [(arm, slot) for arm, slot, _ in run_all(search)]
    assert order == [(arm, slot) for slot in range(12) for arm in ("dense", "tree")]
    assert search.ask() is None


def test_arms_are_paired_slot_by_slot(undisturbed):
    """Until its sampler has learnt from ten trials, an arm draws what the others draw."""
    by_slot = {}
    for _, slot, params in undisturbed:
        by_slot.setdefault(slot, []).append(dict(params))
    for slot in range(10):
        dense, tree = by_slot[slot]
        assert dense == {key: tree[key] for key in dense}
        assert set(tree) - set(dense) == {WEIGHT}
    assert len({trials[0][LR] for trials in by_slot.values()}) == 12


def test_the_sampler_learns(undisturbed):
    """From the eleventh trial on arms draw on what they have seen, no longer from one stream."""
    lr = {(arm, slot): dict(params)[LR] for arm, slot, params in undisturbed}
    assert any(lr["dense", slot] != lr["tree", slot] for slot in (10, 11))


def test_a_search_draws_the_same_again(plan, undisturbed, tmp_path):
    search = Search(*plan, tmp_path)
    run_all(search)
    assert final(search) == undisturbed


def test_another_seed_draws_otherwise(plan, search, tmp_path):
    sweep, arms = plan
    other = Search(sweep.model_copy(update={"seed": 1, "name": "other"}), arms, tmp_path)
    assert other.ask().drawn != search.ask().drawn


def test_running_trials_count_as_begun(search):
    tickets = [search.ask() for _ in range(24)]
    assert search.ask() is None
    assert Counter(ticket.arm.name for ticket in tickets) == {"dense": 12, "tree": 12}
    assert sorted(search.running()) == sorted((t.arm.name, t.slot) for t in tickets)
    assert search.ended() == []


# ------------------------------------------------------------------- how a slot ends


def test_a_dense_control_has_quality_alone(search):
    ticket = search.ask()
    assert (ticket.arm.name, ticket.arm.objectives) == ("dense", ("val/loss",))
    search.tell(ticket, {"val/loss": 0.5, "val/accuracy": 0.9})
    assert search.ended() == [
        Ended("dense", 0, "complete", {"val/loss": 0.5}, "", ticket.drawn, excess={})
    ]


def test_both_objectives_of_an_arm_with_gates_are_kept(search):
    search.ask()
    ticket = search.ask()
    values = {"val/loss": 0.5, "val/load/cv/expert": 0.25}
    search.tell(ticket, values)
    assert search.ended() == [Ended("tree", 0, "complete", values, "", ticket.drawn, excess={})]
    assert search.running() == [("dense", 0)]


def test_the_best_of_an_arm_is_by_the_first_objective_that_it_has(plan, tmp_path):
    """Balance comes first: of the tree the even trial, of a dense arm, without load, the better."""
    overrides = sweep_overrides(tmp_path, "objectives=[val/load/cv/expert,val/loss]")
    sweep = load_sweep("hierarchy", overrides[1:])
    search = Search(sweep, plan_arms(sweep), tmp_path)
    scores = {"dense": [(None, 0.5), (None, 0.4)], "tree": [(0.9, 0.3), (0.2, 0.6)]}
    while ticket := search.ask():
        values = zip(sweep.objectives, scores[ticket.arm.name][ticket.slot], strict=True)
        search.tell(ticket, {m: value for m, value in values if value is not None})
    found = {arm: (one.slot, dict(one.values)) for arm, one in best(sweep, search.ended()).items()}
    assert found == {
        "dense": (1, {"val/loss": 0.4}),
        "tree": (1, {"val/load/cv/expert": 0.2, "val/loss": 0.6}),
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_fails_with_the_reason(search, bad):
    search.ask()
    search.tell(search.ask(), {"val/loss": 0.5, "val/load/cv/expert": bad})
    (ended,) = search.ended()
    assert (ended.arm, ended.slot, ended.state, ended.values) == ("tree", 0, "failed", {})
    assert ended.reason == f"an objective is missing or not finite: [0.5, {bad}]"


def test_an_objective_that_a_run_left_out_fails_with_the_reason(search):
    search.tell(search.ask(), {"val/accuracy": 0.5})
    (ended,) = search.ended()
    assert (ended.arm, ended.state, ended.values) == ("dense", "failed", {})
    assert ended.reason == "an objective is missing or not finite: [nan]"


def test_a_trial_without_values_fails_with_the_reason_and_its_slot_has_ended(search):
    search.tell(search.ask(), None, "out of memory")
    (ended,) = search.ended()
    assert (ended.arm, ended.slot, ended.state, ended.values) == ("dense", 0, "failed", {})
    assert ended.reason == "out of memory"
    assert states(search) == {TrialState.FAIL: 1}
    assert (search.ask().arm.name, search.ask().slot) == ("tree", 1)


def test_a_slot_ends_once(search):
    ticket = search.ask()
    search.tell(ticket, {"val/loss": 0.5})
    with pytest.raises(ValueError, match="Cannot tell a COMPLETE trial"):
        search.tell(ticket, {"val/loss": 0.25})
    assert [ended.values for ended in search.ended()] == [{"val/loss": 0.5}]


# ------------------------------------------------------------------- owners that die


def test_what_a_lost_owner_left_running_is_asked_for_again(plan, search, tmp_path):
    lost = {drawn(search.ask()), drawn(search.ask())}
    new = Search(*plan, tmp_path)
    assert new.recover() == 2
    assert new.running() == []
    assert new.ended() == []
    assert {drawn(new.ask()), drawn(new.ask())} == lost


def test_a_trial_stopped_on_purpose_is_asked_for_again(search):
    ticket = search.ask()
    search.interrupt(ticket)
    assert (search.running(), search.ended()) == ([], [])
    assert drawn(search.ask()) == drawn(ticket)


def test_a_trial_may_be_stopped_any_number_of_times(plan, late, tmp_path, undisturbed):
    first = drawn(late.ask())
    for _ in range(3):
        late = again(plan, tmp_path)
        ticket = late.ask()
        assert drawn(ticket) == first
        late.interrupt(ticket)
    run_all(late)
    assert final(late) == undisturbed


def test_nothing_is_running_or_waiting_at_the_end(plan, late, tmp_path):
    for _ in range(3):
        late.ask()
        late = again(plan, tmp_path)
    run_all(late)
    assert states(late) == {TrialState.COMPLETE: 24, TrialState.FAIL: 3}


@pytest.mark.parametrize("every", [1, 4])
def test_draws_do_not_depend_on_how_often_the_search_was_cut_off(
    plan, search, tmp_path, undisturbed, every
):
    """One worker, whose owner dies in every so-manieth trial."""
    asked = 0
    while ticket := search.ask():
        asked += 1
        if asked % (every + 1) == 0:
            search = again(plan, tmp_path)
        else:
            search.tell(ticket, quality(ticket))
    assert final(search) == undisturbed


@pytest.mark.slow
def test_two_workers_and_owners_that_die_draw_as_two_undisturbed_workers(plan, tmp_path):
    def run(folder, dies):
        """Keep two trials under way; the earlier of the two ends first."""
        folder.mkdir()
        search, under_way, ended = Search(*plan, folder), [], 0
        while True:
            while len(under_way) < 2 and (ticket := search.ask()):
                under_way.append(ticket)
            if not under_way:
                return final(search)
            if dies and ended % 3 == 1 and not search._studies["dense"].user_attrs.get(str(ended)):
                search._studies["dense"].set_user_attr(str(ended), True)
                search, under_way = again(plan, folder), []
            else:
                ticket = under_way.pop(0)
                search.tell(ticket, quality(ticket))
                ended += 1

    assert run(tmp_path / "dies", True) == run(tmp_path / "lives", False)


@pytest.mark.parametrize(
    ("kills", "nth"),
    [
        ("set_user_attr", 1),  # asked for, the slot not yet noted
        ("suggest_float", 1),  # the slot noted, nothing drawn
        ("suggest_int", 1),  # in the middle of the draws
        ("suggest_categorical", 1),
        ("set_user_attr", 2),  # all drawn, not yet noted as such
    ],
)
def test_an_owner_killed_in_the_middle_of_asking_changes_nothing(
    plan, late, tmp_path, undisturbed, monkeypatch, kills, nth
):
    calls, method = [], getattr(Trial, kills)

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            raise Gone
        return method(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, kills, deadly)
        with pytest.raises(Gone):
            late.ask()
    late = again(plan, tmp_path)
    run_all(late)
    assert final(late) == undisturbed


@pytest.mark.parametrize(
    ("place", "kills"),
    [(optuna.Study, "ask"), (optuna.Study, "tell"), (Trial, "set_user_attr")],
)
def test_an_owner_killed_while_it_gives_back_or_asks_again_changes_nothing(
    plan, late, tmp_path, undisturbed, monkeypatch, place, kills
):
    """Two deaths in a row, the second in the middle of mending the first."""
    late.ask(), late.ask()

    def deadly(*args, **kwargs):
        raise Gone

    with monkeypatch.context() as patch:
        patch.setattr(place, kills, deadly)
        with pytest.raises(Gone):
            again(plan, tmp_path).ask()
    late = again(plan, tmp_path)
    run_all(late)
    assert final(late) == undisturbed
    assert set(states(late)) == {TrialState.COMPLETE, TrialState.FAIL}


def test_a_budget_may_grow(plan, search, tmp_path, undisturbed):
    small = again(plan, tmp_path, trials=4)
    assert len(run_all(small)) == 4
    grown = again(plan, tmp_path, trials=8)
    assert len(run_all(grown)) == 4
    assert final(grown) == [row for row in undisturbed if row[1] < 4]


def test_a_budget_may_shrink_while_trials_wait_to_be_gone_on_with(plan, search, tmp_path):
    for _ in range(4):
        search.ask()
    small = again(plan, tmp_path, trials=2)
    assert [(arm, slot) for arm, slot, _ in run_all(small)] == [("dense", 0), ("tree", 0)]
