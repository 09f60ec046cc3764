"""Search strings to distributions, draws to overrides, branches that come and go."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler, TPESampler

from hmoe.errors import ConfigError
from hmoe.study.space import Space, parse_space, settings_of

optuna.logging.set_verbosity(optuna.logging.ERROR)

WHEN = {
    "balance=switch": ["balance.weight=tag(log, interval(1e-3, 1e-1))", "balance.z=choice(0,1)"],
    "balance=bias": ["balance.weight=interval(0.0, 0.5)"],
    "balance.z=1": ["balance.z_weight=int(interval(3, 9))"],
    "selection=descend": ["selection.k=range(1, 4)"],
}
LINES = ["optim.lr=tag(log, interval(1e-4, 1e-2))", "balance=choice(none, switch, bias)"]


def study(sampler: Any = None) -> optuna.Study:
    return optuna.create_study(sampler=sampler or RandomSampler(seed=0))


def draws(space: Space, settings: Mapping[str, str], times: int) -> list[dict[str, str]]:
    searching = study()
    drawn = [space.suggest(searching.ask(), settings) for _ in range(times)]
    return [dict(line.split("=", 1) for line in lines) for lines in drawn]  # type: ignore[misc]


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=choice(x,y)", CategoricalDistribution(("x", "y"))),
        ("a=choice(x)", CategoricalDistribution(("x",))),
        ("a=x,y", CategoricalDistribution(("x", "y"))),
        ("a=choice(true,2,2.5,text,null)", CategoricalDistribution((True, 2, 2.5, "text", None))),
        ("a=null,'1',1", CategoricalDistribution((None, "1", 1))),
        ("a=choice([4,4],[2, 8])", CategoricalDistribution(("[4,4]", "[2,8]"))),
        ("a=choice({x: 1},[y, 'z w'])", CategoricalDistribution(("{x:1}", "[y,'z w']"))),
        ("a=str(choice(1,2))", CategoricalDistribution(("1", "2"))),
        ("a=interval(1, 8)", FloatDistribution(1.0, 8.0)),
        ("a=interval(-1e-3, 1e-3)", FloatDistribution(-0.001, 0.001)),
        ("a=tag(log, interval(1e-3, 1e-2))", FloatDistribution(0.001, 0.01, log=True)),
        ("a=int(interval(1, 8))", IntDistribution(1, 8)),
        ("a=tag(log, int(interval(1, 8)))", IntDistribution(1, 8, log=True)),
        ("a=int(tag(log, interval(1, 8)))", IntDistribution(1, 8, log=True)),
        ("a=float(int(interval(1.5, 8.5)))", FloatDistribution(1.0, 8.0)),
        ("a=range(4)", IntDistribution(0, 3)),
        ("a=range(1, 4)", IntDistribution(1, 3)),
        ("a=range(1, 2)", IntDistribution(1, 1)),
        ("a=range(2, 9, 2)", IntDistribution(2, 8, step=2)),
        ("a=range(2, 10, 3)", IntDistribution(2, 8, step=3)),
        ("a=range(10, 1, -3)", IntDistribution(4, 10, step=3)),
        ("a=int(range(0.0, 5.0))", IntDistribution(0, 4)),
        ("a=float(range(1, 4))", FloatDistribution(1.0, 3.0, step=1.0)),
        ("a=range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a=range(0, 0.9, 0.3)", FloatDistribution(0.0, 0.6, step=0.3)),
        ("a=range(0, 0.95, 0.3)", FloatDistribution(0.0, 0.9, step=0.3)),
        ("a=range(1, 0, -0.5)", FloatDistribution(0.5, 1.0, step=0.5)),
    ],
)
def test_a_string_is_this_distribution(line: str, expected: BaseDistribution) -> None:
    (parameter,) = parse_space([line]).parameters
    assert parameter.distribution == expected
    assert type(parameter.distribution) is type(expected)
    assert (parameter.key, parameter.name) == ("a", "a")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=range(1, 4)", {"1", "2", "3"}),
        ("a=int(interval(1, 4))", {"1", "2", "3", "4"}),
        ("a=range(0, 1, 0.25)", {"0.0", "0.25", "0.5", "0.75"}),
        (
            "a=choice([4,4],{x: [1]},'1',1.0,null,false)",
            {"[4,4]", "{x:[1]}", "'1'", "1.0", "null", "false"},
        ),
    ],
)
def test_every_value_and_no_other_is_drawn(line: str, expected: set[str]) -> None:
    assert {draw["a"] for draw in draws(parse_space([line]), {}, 100)} == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optim.lr=0.1", "optim.lr=0.1: nothing to search; a fixed value goes under `overrides`"),
        ("a=[choice(1,2)]", "a=[choice(1,2)]: nothing to search"),
        ("a=choice([choice(1,2)],3)", "a search inside a value; choose between whole values"),
        ("a=choice(interval(1,2),3)", "a search inside a value"),
        ("a=choice()", "a=choice(): empty choice is not legal; a search is choice(a, b), range("),
        ("a=choice(1,1)", "a=choice(1,1): 1 cannot be told from the other values"),
        ("a=choice(1,true)", "true cannot be told from the other values"),
        ("a=choice([1],'[1]')", "'[1]' cannot be told from the other values"),
        ("a=choice(nan,1)", "nan cannot be told"),
        ("a=tag(log, choice(1,2))", "tag takes log and an interval: tag(log, interval(low, high))"),
        ("a=tag(log, range(1,4))", "tag takes log and an interval"),
        ("a=int(tag(log, range(1,4)))", "tag takes log and an interval"),
        ("a=tag(lag, interval(1,2))", "tag takes log and an interval"),
        ("a=tag(interval(1,2))", "tag takes log and an interval"),
        ("a=tag(log, interval(0,1))", "a=tag(log, interval(0,1)): a logarithm needs low > 0"),
        ("a=int(tag(log, interval(0.5,9)))", "a logarithm needs low > 0"),
        ("a=interval(2,1)", "a=interval(2,1): low < high is expected, both finite"),
        ("a=interval(1,1)", "low < high is expected"),
        ("a=interval(0,inf)", "low < high is expected, both finite"),
        ("a=interval(1)", "missing a required argument: 'end'; a search is"),
        ("a=range(4,1)", "a=range(4,1): holds no value between start and stop (excluded)"),
        ("a=range(1,4,0)", "holds no value"),
        ("a=range(0,inf)", "a=range(0,inf): finite numbers are expected"),
        ("a=range(true,3)", "finite numbers are expected"),
        ("a=glob(*)", "a=glob(*): Unknown function 'glob'; a search is choice(a, b)"),
        ("a=extend_list(1)", "Unknown function 'extend_list'; a search is"),
        ("a=shuffle(choice(1,2))", "Unknown function 'shuffle'; a search is choice(a, b), range(s"),
        ("a=sort(2,1)", "Unknown function 'sort'; a search is"),
        ("a=choice(1,2", "a=choice(1,2: no viable alternative at input"),
        ("a", "a: missing EQUAL at '<EOF>'"),
        ("+a=choice(1,2)", "+a=choice(1,2): a key is a group, or names joined by dots"),
        ("~a", "~a: a key is a group"),
        ("a@b=choice(1,2)", "a@b=choice(1,2): a key is a group"),
    ],
)
def test_parse_space_refuses(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_space([line])


def test_a_key_is_searched_once() -> None:
    with pytest.raises(ConfigError, match="a=range\\(3\\): 'a' is searched twice"):
        parse_space(["a=choice(1,2)", "a=range(3)"])


@pytest.mark.parametrize("when", [{"b": ["a=choice(1,2)"]}, {"b=choice(1,2)": ["a=choice(1,2)"]}])
def test_a_condition_is_one_plain_setting(when: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError):
        parse_space([], when)


def test_settings_are_canonical_and_the_later_wins() -> None:
    overrides = ["tree.spec=[4, 4]", "optim.lr=1e-3", "data=a", "data=b", "name='1'", "a@b=c"]
    expected = {"a@b": "c", "tree.spec": "[4,4]", "optim.lr": "0.001", "data": "b", "name": "'1'"}
    assert settings_of(overrides) == expected


# ------------------------------------------------------------------ branches


def test_keys_are_all_keys_in_order() -> None:
    assert parse_space(LINES, WHEN).keys() == (
        "optim.lr",
        "balance",
        "balance.weight",
        "balance.z",
        "balance.z_weight",
        "selection.k",
    )


def test_one_key_with_two_ranges_has_two_names_in_optuna() -> None:
    names = [p.name for branch in parse_space(LINES, WHEN).branches for p in branch.parameters]
    assert names == [
        "balance.weight@balance=switch",
        "balance.z",
        "balance.weight@balance=bias",
        "balance.z_weight",
        "selection.k",
    ]


def test_one_key_with_one_range_keeps_its_name() -> None:
    when = {"b=1": ["a=choice(1,2)"], "b=2": ["a=choice(1, 2)"], "c=1": ["a=1,2"]}
    space = parse_space([], when)
    assert [p.name for branch in space.branches for p in branch.parameters] == ["a", "a", "a"]
    assert draws(space, {"b": "1", "c": "1"}, 1)[0].keys() == {"a"}


@pytest.mark.parametrize(
    ("lines", "when", "message"),
    [
        (
            ["a=choice(1,2)"],
            {"b=1": ["a=range(5)"]},
            "in `space` and another under 'b=1'",
        ),
        (
            [],
            {"b=1": ["a=choice(1,2)"], "c=1": ["a=range(5)"]},
            "a: has one range under 'b=1' and",
        ),
        ([], {"b=0.1": ["a=choice(1,2)"], "b=1e-1": ["a=range(5)"]}, "one trial may meet both"),
        ([], {"b=1": ["a=choice([1],2)"], "c=1": ["a=choice('[1]',2)"]}, "one trial may meet both"),
    ],
)
def test_two_ranges_that_can_meet_are_refused(
    lines: Sequence[str], when: Mapping[str, Sequence[str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_space(lines, when)


@pytest.mark.parametrize("settings", [{}, {"selection": "descend"}, {"selection": "top_k"}])
def test_a_branch_is_drawn_exactly_while_its_condition_holds(settings: dict[str, str]) -> None:
    space = parse_space(LINES, WHEN)
    seen = set()
    for draw in draws(space, settings, 200):
        balance = draw["balance"]
        seen.add((balance, draw.get("balance.z")))
        assert ("balance.weight" in draw) == (balance != "none")
        assert ("balance.z" in draw) == (balance == "switch")
        assert ("balance.z_weight" in draw) == (draw.get("balance.z") == "1")
        assert ("selection.k" in draw) == (settings.get("selection") == "descend")
        if balance == "switch":
            assert 1e-3 <= float(draw["balance.weight"]) <= 1e-1
    assert seen == {("none", None), ("bias", None), ("switch", "0"), ("switch", "1")}


def test_a_draw_overrules_the_setting_of_the_arm() -> None:
    space = parse_space(
        ["balance=choice(none)"], {"balance=switch": ["balance.weight=interval(0,1)"]}
    )
    assert draws(space, {"balance": "switch"}, 1) == [{"balance": "none"}]


def test_conditions_compare_values_not_spellings() -> None:
    space = parse_space([], {"tree.spec=[4, 4]": ["a=choice(1)"], "optim.lr=1e-3": ["b=choice(1)"]})
    assert draws(space, {"tree.spec": "[4,4]", "optim.lr": "0.001"}, 1) == [{"a": "1", "b": "1"}]


def test_branches_may_be_written_before_what_opens_them() -> None:
    when = {"c=1": ["d=choice(1)"], "b=1": ["c=choice(1)"], "a=1": ["b=choice(1)"]}
    assert list(draws(parse_space(["a=choice(1)"], when), {}, 1)[0]) == ["a", "b", "c", "d"]


def test_reachable_is_what_an_arm_can_draw() -> None:
    space = parse_space(LINES, WHEN)
    assert space.reachable({}).keys() == space.keys()[:-1]
    assert space.reachable({"selection": "descend"}) == space
    only_weight = parse_space([], WHEN).reachable({"balance": "bias"})
    assert only_weight.keys() == ("balance.weight",)
    assert only_weight.branches[0].parameters[0].name == "balance.weight@balance=bias"
    by_number = parse_space(["n=range(1, 6, 2)"], {"n=2": ["a=choice(1)"], "n=3": ["b=choice(1)"]})
    assert by_number.reachable({}).keys() == ("n", "b")


def test_only_drops_keys_an_arm_does_not_have() -> None:
    space = parse_space(LINES, WHEN).only({"optim.lr"})
    assert [parameter.key for parameter in space.parameters] == ["optim.lr"]
    assert len(space.branches) == len(WHEN)


# ------------------------------------------------------------------ laws


def test_hydra_reads_back_what_was_suggested() -> None:
    lines = [
        "f=interval(-1, 1)",
        "log=tag(log, interval(1e-12, 1e20))",
        "step=range(0, 2, 0.1)",
        "int=int(interval(-9, 9))",
        "any=choice([4,[4]],{x: {y: null}},'1','a b',\"it's\",7,2.5,null,true)",
    ]
    space = parse_space(lines)
    values = {
        "any": [[4, [4]], {"x": {"y": None}}, "1", "a b", "it's", 7, 2.5, None, True],
    }
    texts = space.parameters[-1].texts
    searching = study()
    parser = OverridesParser.create()
    for _ in range(200):
        trial = searching.ask()
        for line in space.suggest(trial, {}):
            override = parser.parse_override(line)
            key, value = override.key_or_group, override.value()
            if key == "any":
                expected = values["any"][texts.index(line.removeprefix("any="))]
            else:
                expected = trial.params[key]
            assert value == expected
            assert type(value) is type(expected)


def test_enqueued_parameters_replay_the_same_overrides() -> None:
    space = parse_space(LINES, WHEN)
    first = study()
    settings = {"selection": "descend"}
    for _ in range(30):
        trial = first.ask()
        overrides = space.suggest(trial, settings)
        second = study(RandomSampler(seed=99))
        second.enqueue_trial(trial.params)
        assert space.suggest(second.ask(), settings) == overrides


def test_the_same_space_and_seed_give_the_same_overrides() -> None:
    assert draws(parse_space(LINES, WHEN), {}, 20) == draws(parse_space(LINES, WHEN), {}, 20)


@pytest.mark.filterwarnings("ignore:Argument ``group``")
def test_a_study_goes_on_with_a_space_that_is_read_anew() -> None:
    searching = study(TPESampler(seed=0, multivariate=True, group=True, n_startup_trials=5))
    for _ in range(25):
        trial = searching.ask()
        drawn = parse_space(LINES, WHEN).suggest(trial, {})
        searching.tell(trial, float(len(drawn)))
    assert len(searching.trials) == 25
