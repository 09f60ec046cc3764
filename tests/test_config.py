"""Overrides to config, config to objects: what is refused, and with which words."""

import functools
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings, strategies
from omegaconf import DictConfig, OmegaConf

import hmoe
from hmoe import config
from hmoe.errors import ConfigError, DataError

FILES = {
    "config.yaml": """
        defaults: [tree: flat, data: digits, optim: adam, extra: none, _self_]
        system: null
        seed: 0
        name: null
        runs: runs
        test: true
        """,
    "tree/flat.yaml": "{_target_: hmoe.fake.make_tree, spec: [16]}",
    "tree/company.yaml": "{_target_: hmoe.fake.make_tree, spec: {sales: 2, support: 3}}",
    "data/digits.yaml": "{_target_: hmoe.fake.Data, batch_size: 32, seed: '${seed}'}",
    "data/stdlib.yaml": "{_target_: hmoe.fake.Data, batch_size: 64, seed: '${seed}'}",
    "optim/adam.yaml": """
        _target_: hmoe.fake.Adam
        lr: 1e-3
        betas: [0.9, 0.95]
        mode: fast
        schedule: {_target_: hmoe.fake.schedule, _partial_: true, warmup: 10}
        """,
    "extra/none.yaml": "{terms: {}, items: []}",
    "extra/term.yaml": "{terms: {switch: {weight: 0.1}}, items: [{a: 1}, {a: 2}]}",
    "extra/nested.yaml": "{defaults: [/tree@inner: flat], terms: {}, items: []}",
    "extra/more.yaml": "{terms: {entropy: {weight: 0.2}}}",
}


@dataclass(frozen=True)
class FakeTree:
    spec: Any


def make_tree(*, spec: "Sequence[int] | Mapping[str, Any]") -> FakeTree:
    return FakeTree(spec)


class Data:
    def __init__(self, *, batch_size: int, seed: int, root: str | None = None) -> None:
        if batch_size > 1000:
            raise ConfigError(f"batch_size = {batch_size}: at most 1000")
        if batch_size == 1000:
            raise DataError("truncated")
        self.batch_size, self.seed, self.root = batch_size, seed, root


class Adam:
    def __init__(
        self,
        *,
        lr: float,
        betas: tuple[float, float],
        mode: Literal["fast", "slow"],
        schedule: "functools.partial[float]",
        tree: FakeTree | None = None,
    ) -> None:
        if lr == 0:
            raise ValueError("no step")
        self.__dict__.update(locals())


def schedule(step: int, *, warmup: int) -> float:
    return step / warmup


def anything(**options: object) -> dict[str, object]:
    return options


def crash(*, depth: int) -> None:
    raise RuntimeError("a defect")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the targets above where configs may look for them: in hmoe."""
    module = ModuleType("hmoe.fake")
    for target in (FakeTree, make_tree, Data, Adam, schedule, anything, crash):
        monkeypatch.setattr(target, "__module__", "hmoe.fake")
        setattr(module, target.__name__, target)
    module.join = Path.joinpath  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hmoe.fake", module)
    monkeypatch.setattr(hmoe, "fake", module, raising=False)


@pytest.fixture
def conf_dir(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "conf"


@pytest.fixture
def compose(conf_dir: Path) -> "functools.partial[DictConfig]":
    return functools.partial(config.compose, conf_dir=conf_dir)


def plain(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg, resolve=True)


def test_import_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'pytorch_lightning', 'mlflow', 'optuna', 'numpy', 'scipy', 'sklearn'}"
    code = f"import hmoe.config, sys; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_the_default_folder_is_beside_the_package() -> None:
    assert config.CONF.name == "conf"


# ------------------------------------------------------------------ compose


def test_compose_without_overrides_gives_the_defaults(compose: Any) -> None:
    cfg = compose([])
    assert plain(cfg.tree) == {"_target_": "hmoe.fake.make_tree", "spec": [16]}
    assert (cfg.seed, cfg.name, cfg.data.batch_size, cfg.optim.lr) == (0, None, 32, 0.001)


def test_groups_and_values_are_told_apart(compose: Any) -> None:
    cfg = compose(["data=stdlib", "data.batch_size=8", "seed=3", "optim.betas.1=0.5"])
    assert (cfg.data.batch_size, cfg.data.seed, cfg.optim.betas) == (8, 3, [0.9, 0.5])


def test_the_later_override_wins(compose: Any) -> None:
    cfg = compose(["optim.lr=1", "data=stdlib", "optim.lr=2", "data=digits"])
    assert (cfg.optim.lr, cfg.data.batch_size) == (2, 32)


def test_several_options_of_one_group_are_merged_by_hydra(compose: Any) -> None:
    assert set(compose(["extra=[term,more]"]).extra.terms) == {"switch", "entropy"}


@pytest.mark.parametrize(
    ("overrides", "spec"),
    [
        (["tree.spec={a: 2, b: 3}"], {"a": 2, "b": 3}),
        (["tree=company", "tree.spec={a: 2, b: 3}"], {"a": 2, "b": 3}),
        (["tree.spec={a: 2, b: 3}", "tree=company"], {"a": 2, "b": 3}),
        (["tree=company", "tree.spec=[4,4]"], [4, 4]),
        (["tree=company", "tree.spec.sales=9"], {"sales": 9, "support": 3}),
        (["tree.spec={a: 2}", "tree.spec={b: {c: 1}}", "tree.spec.b.c=7"], {"b": {"c": 7}}),
        (["tree.spec=[1,2,3]", "tree.spec.1=5"], [1, 5, 3]),
        (["+tree.spec=[2]"], [2]),
        (["++tree.spec={a: 1}"], {"a": 1}),
    ],
)
def test_a_value_replaces_what_was_there(compose: Any, overrides: list[str], spec: object) -> None:
    assert plain(compose(overrides).tree.spec) == spec


def test_a_group_inside_a_group_is_chosen_by_its_place(compose: Any) -> None:
    cfg = compose(["extra=nested", "tree@extra.inner=company"])
    assert plain(cfg.extra.inner.spec) == {"sales": 2, "support": 3}
    assert cfg.tree.spec == [16]


def test_plus_before_a_group_in_use_is_harmless(compose: Any) -> None:
    assert compose(["+data=stdlib"]).data.batch_size == 64


def test_values_keep_hydras_types(compose: Any) -> None:
    cfg = compose(
        ["name='007'", "optim.lr=1e-5", "data.batch_size=${seed}", "extra.items=[a,null]"]
    )
    assert (cfg.name, cfg.optim.lr, cfg.data.batch_size) == ("007", 1e-5, 0)
    assert plain(cfg)["extra"]["items"] == ["a", None]


def test_the_config_is_closed_and_hydra_is_left_alone(compose: Any) -> None:
    cfg = compose([])
    with pytest.raises(AttributeError):
        cfg.optim.lrr = 1
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=mlp", "modle=mlp: no such key."),
        ("dat=digits", "no such key. Did you mean 'data'? Groups: data, extra, optim, tree."),
        ("data=digit", "data=digit: no such option of the group 'data'. Did you mean 'digits'?"),
        ("data=digit", "Options: digits, stdlib."),
        ("data=null", "data=null: no such option of the group 'data'. Options: digits, stdlib."),
        ("data={a: 1}", "data={a: 1}: no such option"),
        (
            "extra=[term,mor]",
            "extra=[term,mor]: no such option of the group 'extra'. Did you mean 'm",
        ),
        ("optim.lrr=1", "optim.lrr=1: no such key. Did you mean 'optim.lr'? Allowed there: lr, be"),
        ("lr=1", "lr=1: no such key. Did you mean 'optim.lr'?"),
        (
            "sed=1",
            "Did you mean 'seed'? Groups: data, extra, optim, tree. Keys: system, seed, name, runs",
        ),
        ("optim.lr.x=1", "optim.lr.x=1: no such key. Did you mean 'optim.lr'?"),
        ("optim.betas.2=1", "optim.betas.2=1: no such key."),
        ("optim/lr=1", "optim/lr=1: no such key."),
        ("+new.key=1", "+new.key=1: no such key."),
        ("++optim.new=1", "++optim.new=1: no such key. Did you mean"),
        ("hydra.verbose=true", "hydra.verbose=true: no such key."),
        ("~optim.lr", "~optim.lr: nothing can be deleted"),
        ("~data", "~data: nothing can be deleted"),
        ("data@x=digits", "data@x=digits: cannot compose: Could not override 'data@x'."),
        (
            "data@x=digit",
            "data@x=digit: no such option of the group 'data'. Did you mean 'digits'?",
        ),
        ("dat@x=digits", "dat@x=digits: no such key."),
        ("=1", "=1: a key is a group"),
        ("optim.lr=", "optim.lr=: a value is missing"),
        ("digits", "digits: does not read as key=value"),
        ("tree.spec=[4,4", "tree.spec=[4,4: does not read as key=value; check brackets and quotes"),
        ("tree.spec={a: 2", "does not read as key=value"),
        ("name='x", "does not read as key=value"),
        ("tree.spec=fold(1)", "Unknown function 'fold'"),
        ("optim.lr=choice(1,2)", "optim.lr=choice(1,2): a search belongs in a sweep"),
        (
            "optim.lr=1,2",
            "a search belongs in a sweep: write it under `space` of a file in sweeps/",
        ),
        ("optim.lr=interval(1,2)", "a search belongs in a sweep"),
        ("data=glob(*)", "a search belongs in a sweep"),
        ("tree.spec=[choice(1,2)]", "a search belongs in a sweep"),
        ("tree.spec={a: range(3)}", "a search belongs in a sweep"),
        ("optim.mode='${'", "optim.mode='${': cannot compose"),
        ("tree.spec={null: 1}", "tree.spec={null: 1}: cannot compose"),
        ("optim._target_=torch.hub.load", "optim._target_=torch.hub.load: a name that starts with"),
        ("tree.spec=[[{_target_: os.system}]]", "tree.spec.0.0._target_=os.system: a name that"),
        ("tree.spec={a: {_target_: hmoe_evil.x}}", "tree.spec.a._target_=hmoe_evil.x: a name that"),
        ("tree._target_=${optim.mode}", "tree._target_='${optim.mode}': a name that starts with"),
    ],
)
def test_compose_refuses(compose: Any, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose([override])


def test_compose_reports_a_broken_file(compose: Any, conf_dir: Path) -> None:
    (conf_dir / "data/digits.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="cannot compose"):
        compose([])
    with pytest.raises(ConfigError, match="cannot compose"):
        config.compose([], conf_dir=conf_dir / "nowhere")


def test_compose_sees_a_file_that_has_changed(compose: Any, conf_dir: Path) -> None:
    file = conf_dir / "data/digits.yaml"
    before = plain(compose([]))
    text = file.read_text()
    file.write_text(text.replace("batch_size: 32", "batch_size: 48"))
    assert compose([]).data.batch_size == 48
    file.write_text(text)
    assert plain(compose([])) == before


def test_each_composition_is_its_own(compose: Any) -> None:
    before = plain(compose([]))
    assert plain(compose(["tree.spec=[3]"])) != before
    one = compose([])
    OmegaConf.set_struct(one, False)
    one.tree.spec = "changed"
    assert plain(compose([])) == before


def test_options_lists_a_group(conf_dir: Path) -> None:
    assert config.options("tree", conf_dir) == ["company", "flat"]
    with pytest.raises(
        ConfigError, match=r"tre: no such group. Did you mean 'tree'\? Groups: data"
    ):
        config.options("tre", conf_dir)


def test_keys_are_inner_nodes_and_leaves(compose: Any) -> None:
    names = config.keys(compose(["tree=company"]))
    assert {"tree", "tree.spec", "tree.spec.sales", "seed", "optim.schedule.warmup"} <= set(names)
    assert not any("_target_" in name for name in names)


# ------------------------------------------------------------------ check


def test_a_sound_config_passes(compose: Any) -> None:
    config.check(compose([]))
    config.check(compose(["optim.lr=1", "tree=company", "optim.mode=slow", "name=a.b-c_1"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=abc", "optim.lr=abc: a float is expected"),
        ("optim.lr=true", "optim.lr=true: a float is expected"),
        ("optim.lr=[1]", "optim.lr=[1]: a float is expected"),
        ("data.batch_size=2.5", "data.batch_size=2.5: an int is expected"),
        ("data.batch_size=true", "data.batch_size=true: an int is expected"),
        ("data.batch_size=null", "data.batch_size=null: an int is expected"),
        ("optim.betas=[0.9]", "optim.betas=[0.9]: a list of 2 floats is expected"),
        ("optim.betas=[0.9,x]", "optim.betas=[0.9,x]: a list of 2 floats is expected"),
        ("optim.mode=fats", "optim.mode=fats: one of fast, slow is expected. Did you mean 'fast'?"),
        (
            "tree.spec=5",
            "tree.spec=5: a list of ints or a mapping of strings to anything is expected",
        ),
        ("optim.schedule.warmup=x", "optim.schedule.warmup=x: an int is expected"),
        ("tree._target_=hmoe.fake.make_tre", "'hmoe.fake' has no 'make_tre'. Did you mean 'make_t"),
        ("tree._target_=hmoe.fakes.make_tree", "'hmoe' has no 'fakes'. Did you mean 'fake'?"),
        (
            "tree._target_=hmoe.errors.x.y",
            "tree._target_=hmoe.errors.x.y: 'hmoe.errors' has no 'x'",
        ),
        ("tree._target_=hmoe.fake", "a class or function defined in hmoe is expected"),
        ("tree._target_=hmoe.fake.join", "a class or function defined in hmoe is expected"),
        ("tree._target_=hmoe.config.text.re.compile", "a class or function defined in hmoe is exp"),
        (
            "tree._target_=hmoe.fake.crash",
            "tree.depth: must be given, hmoe.fake.crash has no default",
        ),
        (
            "tree._target_=hmoe.fake.crash",
            "tree.spec=[16]: no such argument of hmoe.fake.crash. Argum",
        ),
        ("data.batch_size=???", "data.batch_size=???: must be given"),
        ("data.batch_size=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("data.batch_size=${nothing}", "data.batch_size: Interpolation key 'nothing' not found"),
        (
            "tree.spec='${oc.create:{_target_: os.system}}'",
            "tree.spec._target_=os.system: a name that",
        ),
        ("seed=-1", "seed=-1: must be greater than or equal to 0"),
        ("seed=1.5", "seed=1.5: must be a"),
        ("test=1", "test=1: must be a valid boolean"),
        (
            "name=2024",
            "name=2024: must be a valid string; text that reads as something else is writ",
        ),
        ("name=a/b", "name=a/b: 1 to 80 of A-Z a-z 0-9 . _ - are allowed"),
        ("name=..", "name=..: 1 to 80"),
        ("runs=null", "runs=null: must be a valid string"),
    ],
)
def test_check_refuses(compose: Any, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.check(compose([override]))


def test_a_fault_of_a_shared_part_is_told_once() -> None:
    cfg = config.compose(["gate.score=cosin", "experts.hidden_dim=1.5"])
    with pytest.raises(ConfigError) as found:
        config.check(cfg)
    lines = str(found.value).splitlines()
    assert [line.partition("=")[0] for line in lines] == ["gate.score", "experts.hidden_dim"]


def test_check_lists_all_faults_one_a_line(compose: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(compose(["optim.lr=abc", "seed=-1", "data.batch_size=x"]))
    assert [line.partition("=")[0] for line in str(caught.value).splitlines()] == [
        "seed",
        "data.batch_size",
        "optim.lr",
    ]


def test_check_names_unknown_arguments(compose: Any, conf_dir: Path) -> None:
    (conf_dir / "data/digits.yaml").write_text(
        "{_target_: hmoe.fake.Data, batch_siz: 1, seed: 0, nested: [{_target_: os.system}]}"
    )
    with pytest.raises(ConfigError, match=r"data.nested.0._target_=os.system"):
        compose([])
    (conf_dir / "data/digits.yaml").write_text("{_target_: hmoe.fake.Data, batch_siz: 1, seed: 0}")
    message = (
        "data.batch_siz=1: no such argument of hmoe.fake.Data. Did you mean 'batch_size'?"
        " Arguments: batch_size, seed, root.\n"
        "data.batch_size: must be given, hmoe.fake.Data has no default for it"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.check(compose([]))


@pytest.mark.parametrize(
    "node", ["{_target_: hmoe.fake.anything, x: 1, y: {_target_: hmoe.fake.anything}}"]
)
def test_any_keyword_is_fine_where_the_target_takes_any(
    compose: Any, conf_dir: Path, node: str
) -> None:
    (conf_dir / "data/digits.yaml").write_text(node)
    config.check(compose([]))


def test_partial_nodes_may_leave_arguments_out(compose: Any, conf_dir: Path) -> None:
    (conf_dir / "data/digits.yaml").write_text(
        "{_target_: hmoe.fake.Data, _partial_: true, batch_size: '???'}"
    )
    cfg = compose([])
    config.check(cfg)
    assert config.build(cfg.data)(batch_size=1, seed=2).seed == 2


def test_missing_packages_are_not_blamed_on_the_config(
    compose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    monkeypatch.setattr(hmoe, "__path__", [*hmoe.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        config.check(compose(["tree._target_=hmoe.needy.thing"]))


# ------------------------------------------------------------------ build


def test_build_makes_inner_nodes_first_and_plain_containers(compose: Any) -> None:
    tree = FakeTree([3])
    made = config.build(compose([]).optim, tree=tree)
    assert type(made.betas) is list
    assert type(made.schedule) is functools.partial
    assert made.schedule(5) == 0.5
    assert made.tree is tree  # a dataclass is passed on as it is


def test_build_lets_keywords_win_and_resolves_interpolations(compose: Any) -> None:
    cfg = compose(["seed=7"])
    assert config.build(cfg.data).seed == 7
    assert config.build(cfg.data, seed=8).seed == 8


def test_build_makes_lists_mappings_nothing_and_partials() -> None:
    node = {"_target_": "hmoe.fake.make_tree", "spec": [2]}
    assert config.build([node, 1]) == [FakeTree([2]), 1]
    assert config.build({"a": node}) == {"a": FakeTree([2])}
    assert config.build(OmegaConf.create([node])) == [FakeTree([2])]
    assert config.build(None) is None
    partial = config.build({**node, "_partial_": True}, spec=[9])
    assert partial() == FakeTree([9])


def test_build_leaves_inner_nodes_alone_when_told_so() -> None:
    inner = {"_target_": "hmoe.fake.make_tree", "spec": [2]}
    made = config.build({"_target_": "hmoe.fake.anything", "_recursive_": False, "x": inner})
    assert made == {"x": inner}


def test_build_keeps_the_class_of_our_errors_and_adds_the_key(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"^data: batch_size = 1001: at most 1000$"):
        config.build(compose(["data.batch_size=1001"]).data)
    with pytest.raises(DataError, match=r"^data: truncated$"):
        config.build(compose(["data.batch_size=1000"]))
    with pytest.raises(ConfigError, match=r"^hmoe.fake.Data: batch_size"):
        config.build({"_target_": "hmoe.fake.Data", "batch_size": 1001, "seed": 0})


def test_build_explains_value_and_type_errors_only(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"^optim \(hmoe.fake.Adam\): no step$") as caught:
        config.build(compose(["optim.lr=0"]).optim)
    assert type(caught.value.__cause__) is ValueError
    with pytest.raises(ConfigError, match=r"node \(hmoe.fake.crash\): .*unexpected keyword"):
        config.build({"_target_": "hmoe.fake.crash", "no": 1})
    with pytest.raises(RuntimeError, match="a defect"):
        config.build({"_target_": "hmoe.fake.crash", "depth": 1})


def test_build_names_an_interpolation_that_leads_nowhere(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"^data.batch_size: Interpolation key 'no.where' not"):
        config.build(compose(["data.batch_size=${no.where}"]).data)


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "hmoe.config.text.re.compile"])
def test_build_runs_code_of_hmoe_only(target: str) -> None:
    with pytest.raises(ConfigError, match=f"x.0._target_={target}"):
        config.build({"x": [{"_target_": target}]})


# ------------------------------------------------------------------ digest and text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.001, "0.001"),
        (1e-5, "1e-05"),
        ("adam", "adam"),
        ("a/b-c.d", "a/b-c.d"),
        ("", "''"),
        ("1e3", "'1e3'"),
        ("null", "'null'"),
        ("it's", "'it\\'s'"),
        ([4, [4, "x y"]], "[4,[4,'x y']]"),
        ({"a": 2, "b c": None}, "{a:2,b\\ c:null}"),
    ],
)
def test_literal_by_hand(value: object, text: str) -> None:
    assert config.literal(value) == text


PLAIN_VALUES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False)
    | strategies.text()
    | strategies.sampled_from(["null", "1", "-1.", ".5", "1_0", "e5", "inf", "a,b", "\\'", "a\\"]),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.from_regex("[a-z][a-z _]*", fullmatch=True), inner)
    ),
    max_leaves=5,
)


@given(PLAIN_VALUES)
@settings(max_examples=300, deadline=None)
def test_hydra_reads_a_literal_back(value: object) -> None:
    back = config.parse(f"key={config.literal(value)}").value()
    assert back == value
    assert repr(back) == repr(value)  # True is not 1, 1.0 is not 1


def test_digest_is_the_identity_of_a_variant(compose: Any) -> None:
    one = config.digest(compose([]))
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert config.digest(compose(["seed=5", "name=x", "runs=/tmp"])) == one
    assert config.digest(compose(["optim.lr=0.001", "data=digits"])) == one
    assert config.digest(compose(["optim.lr=0.002"])) != one
    assert config.digest(compose(["data.seed=5"])) != one
    assert config.digest(compose(["test=false"])) != one


def test_digest_tells_departments_by_their_order(compose: Any) -> None:
    one = config.digest(compose(["tree.spec={a: 1, b: 2}"]))
    assert one != config.digest(compose(["tree.spec={b: 2, a: 1}"]))


def test_digest_does_not_change_the_config(compose: Any) -> None:
    cfg = compose(["seed=5"])
    config.digest(cfg)
    assert (cfg.seed, cfg.data.seed) == (5, 5)


def test_yaml_is_resolved_and_hides_the_environment(
    compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    overrides = [
        "seed=4",
        "runs='postgresql://me:${oc.env:DB_PASSWORD}@host'",
        "extra.terms={uri: '${runs}', all: '${oc.decode:${oc.env:DB_PASSWORD}}'}",
    ]
    cfg = compose(overrides)
    text = config.to_yaml(cfg)
    assert "hunter2" in cfg.runs
    assert "hunter2" not in text
    read = OmegaConf.create(text)
    assert (read.runs, read.extra.terms.uri, read.data.seed) == ("REDACTED", "REDACTED", 4)
    assert "hunter2" not in str(config.digest(cfg))
