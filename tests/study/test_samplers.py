"""Samplers: each on a tiny space, paired between arms, the same after restarts; grid, bounds."""

import math

import optuna
import pytest

from hmoe.errors import ConfigError
from hmoe.study import best, check_search, load_sweep, plan_arms
from hmoe.study.search import Ended, Search, combinations_of
from hmoe.study.sections import Search as Section
from hmoe.study.spec import Sweep
from tests.tiny import sweep_overrides

LR, WEIGHT = "optim.lr", "balance.terms.switch.weight"
SPACE = "space=['optim.lr=tag(log, interval(1e-3, 1e-2))','data.batch_size=choice(16, 32, 64)']"
GRID = {
    "space": ["optim.lr=choice(1e-3, 3e-3, 1e-2)", "selection=choice(top_k, descend)"],
    "when": {
        "selection=descend": ["selection.k=choice(1, 2)"],
        "balance=switch": [f"{WEIGHT}=range(0.1, 0.4, 0.1)"],
    },
    "search": {"sampler": "grid"},
}
ONE_ARM = "arms={tree:{overrides:['tree.spec=[2,2]']}}"
SAMPLERS = ("tpe", "nsga2", "random")


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    """Tables in memory, one storage a place: what SQLite adds is tested with the search."""
    storages = {}

    def storage(runs):
        return storages.setdefault(runs, optuna.storages.InMemoryStorage())

    monkeypatch.setattr("hmoe.study.storage._open", storage)


def plan_of(tmp_path, *changes):
    overrides = sweep_overrides(tmp_path, "when={}", *changes)
    sweep = load_sweep("hierarchy", overrides[1:])
    return sweep, plan_arms(sweep)


def grid_of(tmp_path, trials):
    sweep, _ = plan_of(tmp_path)
    content = sweep.model_dump() | GRID | {"budget": {"trials": trials}}
    sweep = Sweep.model_validate(content)
    return sweep, plan_arms(sweep)


def metrics_of(ticket) -> dict[str, float]:
    """A trade-off in the learning rate: quality is best at 4e-3, balance at 1e-3."""
    lr = ticket.trial.params[LR]
    return {"val/loss": abs(math.log(lr / 4e-3)), "val/load/cv/expert": math.log(lr / 1e-3)}


# ------------------------------------------------------------------- who draws


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_are_the_same_however_often_the_search_is_cut_off(sampler, tmp_path):
    """Thirty trials of an arm: past the ten random ones of TPE, three generations of NSGA-II."""
    changes = (ONE_ARM, SPACE, f"search.sampler={sampler}", "budget.trials=30")
    sweep, arms = plan_of(tmp_path, *changes)
    drawn = {}
    for folder, every in ((tmp_path / "lives", 0), (tmp_path / "dies", 3)):
        folder.mkdir()
        search, asked, rows = Search(sweep, arms, folder), 0, {}
        while ticket := search.ask():
            asked += 1
            if every and asked % every == 0:  # the owner is gone, the next one finds the trial
                search = Search(sweep, arms, folder)
                search.recover()
            else:
                rows[ticket.slot] = dict(ticket.trial.params)
                search.tell(ticket, metrics_of(ticket))
        drawn[folder.name] = rows
    assert drawn["lives"] == drawn["dies"]
    rates = [params[LR] for params in drawn["lives"].values()]
    assert all(1e-3 <= rate <= 1e-2 for rate in rates)
    assert len(set(rates[:10])) == 10
    # Children of NSGA-II have what a parent had, where they do not mutate.
    assert (len(set(rates)) < 30) == (sampler == "nsga2")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_arms_draw_alike_and_samplers_that_learn_do_so_after_ten_trials(sampler, tmp_path):
    sweep, arms = plan_of(tmp_path, SPACE, f"search.sampler={sampler}", "budget.trials=24")
    search, drawn = Search(sweep, arms, tmp_path), {}
    while ticket := search.ask():
        drawn[ticket.arm.name, ticket.slot] = ticket.trial.params
        # Arms differ in what they find, so that what is learnt from it differs.
        metrics = metrics_of(ticket)
        sign = -1 if ticket.arm.name == "dense" else 1
        search.tell(ticket, {metric: sign * value for metric, value in metrics.items()})
    same = [drawn["dense", slot] == drawn["tree", slot] for slot in range(12)]
    assert same[:10] == [True] * 10
    assert all(same) == (sampler == "random")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_what_learns_comes_nearer_than_what_does_not(sampler, tmp_path):
    """The mean distance of trials from the optimum, once all samplers have learnt."""
    space = "space=['optim.lr=interval(1e-3, 1e-1)','optim.weight_decay=interval(0.0, 1.0)']"
    changes = (ONE_ARM, space, "objectives=[val/loss]", "budget.trials=60")
    found = {}
    for name in (sampler, "random"):
        sweep, arms = plan_of(tmp_path, *changes, f"search.sampler={name}", f"name={name}")
        search, distances = Search(sweep, arms, tmp_path), []
        while ticket := search.ask():
            params = ticket.trial.params
            distances.append(abs(params[LR] - 0.03) / 0.1 + abs(params["optim.weight_decay"] - 0.3))
            search.tell(ticket, {"val/loss": distances[-1]})
        found[name] = sum(distances[30:])
    assert found[sampler] < 0.8 * found["random"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pruned_and_failed_trials_do_not_stop_a_sampler(sampler, tmp_path):
    pruning = "search.pruning={first: 0.4, keep: 0.5}"
    changes = (ONE_ARM, SPACE, f"search.sampler={sampler}", pruning, "budget.trials=25")
    sweep, arms = plan_of(tmp_path, *changes, "search.bounds={val/load/cv/expert: 1.0}")
    search, told = Search(sweep, arms, tmp_path), []
    while ticket := search.ask():
        if ticket.slot % 5 == 4:
            search.tell(ticket, None, "out of memory")
        elif ticket.slot % 5 == 0:
            search.tell(ticket, metrics_of(ticket))
        else:
            standing = {"excess": {"val/load/cv/expert": -0.5}}
            ticket.trial.set_user_attr("hmoe.rung_8", standing)
            search.tell(ticket, None, "pruned at rung 1", pruned=True)
        told.append(ticket.slot)
    assert told == list(range(25))
    states = [ended.state for ended in search.ended()]
    assert [states.count(s) for s in ("complete", "pruned", "failed")] == [5, 15, 5]


# ------------------------------------------------------------------- the grid


def test_a_grid_is_every_combination_once_with_its_branches(tmp_path):
    sweep, arms = grid_of(tmp_path, 54)
    check_search(sweep, arms)
    search, drawn = Search(sweep, arms, tmp_path), {"dense": [], "tree": []}
    while ticket := search.ask():
        drawn[ticket.arm.name].append(tuple(ticket.drawn))
        search.tell(ticket, metrics_of(ticket))
    rates = ("optim.lr=0.001", "optim.lr=0.003", "optim.lr=0.01")
    selections = (
        ("selection=top_k",),
        ("selection=descend", "selection.k=1"),
        ("selection=descend", "selection.k=2"),
    )
    weights = [f"{WEIGHT}={value}" for value in ("0.1", "0.2", "0.3")]
    wanted = {frozenset((r, *s, w)) for r in rates for s in selections for w in weights}
    assert len(drawn["tree"]) == 27
    assert set(map(frozenset, drawn["tree"])) == wanted
    # A dense arm reads the rate alone: it goes through its three nine times, with other seeds.
    assert drawn["dense"] == [(rate,) for rate in rates] * 9
    assert [row[0] for row in drawn["tree"]] == list(rates) * 9


def test_a_grid_draws_the_same_after_a_restart(tmp_path):
    sweep, arms = grid_of(tmp_path, 54)
    drawn = []
    for _ in range(2):
        search = Search(sweep, arms, tmp_path)
        search.recover()
        tickets = [search.ask() for _ in range(5)]
        drawn.append(sorted((t.arm.name, t.slot, tuple(t.drawn)) for t in tickets))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("trials", [2, 24, 36])
def test_a_budget_that_does_not_go_through_the_grid_is_told_how_many_there_are(trials, tmp_path):
    sweep, arms = grid_of(tmp_path, trials)
    told = rf"3 in arm 'dense', 27 in arm 'tree'; every arm gets {trials // 2} .*budget\.trials=54"
    with pytest.raises(ConfigError, match=told):
        check_search(sweep, arms)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("optim.lr=interval(1e-3, 1e-2)", r"optim\.lr lies anywhere between 0\.001 and 0\.01"),
        ("data.batch_size=int(interval(1, 22))", r"more than 20 combinations"),
    ],
)
def test_a_range_that_is_no_list_of_values_is_refused(space, told, tmp_path, monkeypatch):
    monkeypatch.setattr("hmoe.study.samplers._MOST", 20)
    sweep, arms = plan_of(tmp_path, f"space=['{space}']", "search.sampler=grid")
    with pytest.raises(ConfigError, match=told):
        check_search(sweep, arms)


def test_a_grid_of_nothing_is_one_combination(tmp_path):
    sweep, arms = plan_of(tmp_path, "space=[]", "search.sampler=grid")
    assert [combinations_of(sweep, arm) for arm in arms] == [[{}], [{}]]


# ------------------------------------------------------------------- bounds


BOUND = "search.bounds={val/load/cv/expert: 0.5}"


def ended(slot: int, loss: float, excess: float, state: str = "complete") -> Ended:
    values = {"val/loss": loss} if state == "complete" else {}
    return Ended("tree", slot, state, values, "", (), {"val/load/cv/expert": excess})


def test_best_is_the_best_quality_within_the_bounds(tmp_path):
    sweep, _ = plan_of(tmp_path, BOUND)
    trials = [
        ended(4, 0.1, 0.01),
        ended(3, 0.2, 0.0),
        ended(2, 0.2, -0.4),
        ended(1, 0.3, -0.5),
        ended(0, 0.0, -0.5, state="pruned"),
    ]
    assert best(sweep, trials) == {"tree": trials[2]}
    assert best(sweep, trials[:1]) == {}


def test_best_follows_the_direction_of_the_metric(tmp_path):
    sweep, _ = plan_of(tmp_path, "objectives=[val/accuracy]")
    trials = [
        Ended("tree", slot, "complete", {"val/accuracy": value}, "", (), {})
        for slot, value in enumerate((0.5, 0.9, 0.7))
    ]
    assert best(sweep, trials) == {"tree": trials[1]}


def test_a_bound_holds_for_either_direction():
    section = Section(bounds={"val/load/cv/expert": 0.5, "val/accuracy": 0.9})
    excess = section.excess({"val/load/cv/expert": 0.75, "val/accuracy": 0.95, "val/loss": 1.0})
    assert excess == pytest.approx({"val/load/cv/expert": 0.25, "val/accuracy": -0.05})
    assert section.excess({"val/loss": 1.0}) == {}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_objective_under_a_bound(sampler, tmp_path):
    """Quality is best at 4e-3, beyond the bound, which is met below 1.65e-3: exp(0.5) * 1e-3."""
    changes = (BOUND, SPACE, "objectives=[val/loss]", f"search.sampler={sampler}")
    sweep, arms = plan_of(tmp_path, *changes, "budget.trials=60")
    search = Search(sweep, arms, tmp_path)
    while ticket := search.ask():
        metrics = metrics_of(ticket)
        if ticket.arm.name == "dense":  # it has no load, and so no bound to meet
            del metrics["val/load/cv/expert"]
        search.tell(ticket, metrics)
    found = best(sweep, search.ended())
    assert found["tree"].excess["val/load/cv/expert"] <= 0
    rates = {arm: float(one.drawn[0].partition("=")[2]) for arm, one in found.items()}
    within = [float(e.drawn[0].partition("=")[2]) for e in search.ended() if e.arm == "tree"]
    within = [rate for rate in within if rate <= 1e-3 * math.exp(0.5)]
    assert rates["tree"] == max(within)
    assert abs(math.log(rates["dense"] / 4e-3)) < 0.2
    if sampler == "tpe":  # it looks within the bound, where 22 % of the space lie
        assert len(within) > 0.35 * 30


def test_a_bound_on_what_no_arm_tells_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"arm 'tree': search\.bounds: val/load/cv/level_7 is no"):
        plan_of(tmp_path, "search.bounds={val/load/cv/level_7: 0.5}")
