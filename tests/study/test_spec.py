"""Sweep files: what they may say, what the command line changes, when two are the same study."""

import json
import re
from pathlib import Path

import pytest

from hmoe.errors import ConfigError
from hmoe.study.loading import SWEEPS, load_sweep
from hmoe.study.registration import diff_fingerprints, fingerprint
from hmoe.study.spec import Sweep

TEXT = """\
# Does a tree beat a flat gate?
question: Does a tree beat a flat gate?
objectives: [val/bits_per_byte, val/load/cv/expert]
contract: {match: active_params, reference: flat}
budget: {trials: 15}
workers: 2
overrides: [data=stdlib, model=transformer]
arms:
  dense: {overrides: [model=transformer_dense], dial: model.ffn.hidden_dim}
  flat: {overrides: [tree=flat, "tree.spec=[16]"], dial: experts.hidden_dim}
  grid: {overrides: [tree=grid, "tree.spec=[4, 4]"], dial: experts.hidden_dim}
space:
  - optim.lr=tag(log, interval(1e-3, 1e-2))
  - balance=choice(none, switch)
when:
  balance=switch: ["balance.terms.switch.weight=tag(log, interval(1e-3, 1e-1))"]
  tree=grid: ["selection.k=choice(1, 2)"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hierarchy.yaml").write_text(TEXT)
    return tmp_path


def change(folder: Path, old: str, new: str) -> None:
    assert old in TEXT
    (folder / "hierarchy.yaml").write_text(TEXT.replace(old, new))


def load(folder: Path, *overrides: str) -> Sweep:
    return load_sweep("hierarchy", overrides, folder=folder)


def test_the_default_folder_is_beside_the_package() -> None:
    assert SWEEPS.name == "sweeps"


def test_a_file_says_what_it_says(folder: Path) -> None:
    sweep = load(folder)
    assert (sweep.name, sweep.question) == ("hierarchy", "Does a tree beat a flat gate?")
    assert sweep.objectives == ["val/bits_per_byte", "val/load/cv/expert"]
    assert sweep.directions == ["minimize", "minimize"]
    assert (sweep.contract.match, sweep.contract.reference) == ("active_params", "flat")
    assert (sweep.contract.tolerance, sweep.seed, sweep.workers) == (0.02, 0, 2)
    assert (sweep.budget.trials, sweep.trials_per_arm) == (15, 5)
    assert list(sweep.arms) == ["dense", "flat", "grid"]
    assert sweep.arms["grid"].dial == "experts.hidden_dim"
    assert sweep.arm_overrides("dense") == [
        "data=stdlib",
        "model=transformer",
        "model=transformer_dense",
    ]
    assert sweep.settings("dense") == {"data": "stdlib", "model": "transformer_dense"}
    assert sweep.settings("grid")["tree.spec"] == "[4,4]"
    assert sweep.searched.reachable(sweep.settings("flat")).keys() == (
        "optim.lr",
        "balance",
        "balance.terms.switch.weight",
    )


def test_the_command_line_changes_the_sweep_or_all_arms(folder: Path) -> None:
    sweep = load(
        folder,
        "workers=3",
        "data=digits",
        "budget.trials=6",
        "seed=7",
        "name=small",
        "contract.tolerance=0.1",
        "objectives=[val/accuracy]",
        "arms.flat.dial=null",
        "trainer.max_steps=10",
    )
    assert (sweep.workers, sweep.seed, sweep.name, sweep.trials_per_arm) == (3, 7, "small", 2)
    assert (sweep.contract.tolerance, sweep.contract.match) == (0.1, "active_params")
    assert (sweep.objectives, sweep.directions) == (["val/accuracy"], ["maximize"])
    assert (sweep.arms["flat"].dial, sweep.arms["flat"].overrides[0]) == (None, "tree=flat")
    assert sweep.overrides == [
        "data=stdlib",
        "model=transformer",
        "data=digits",
        "trainer.max_steps=10",
    ]
    assert sweep.settings("flat")["data"] == "digits"


def test_a_branch_may_lose_its_arm_by_the_command_line(folder: Path) -> None:
    change(folder, "  - balance=choice(none, switch)\n", "")
    with pytest.raises(ConfigError, match="holds in no arm"):
        load(folder)
    text = TEXT.replace("  - balance=choice(none, switch)\n", "")
    text = text.replace("[data=stdlib,", "[balance=switch, data=stdlib,")
    (folder / "hierarchy.yaml").write_text(text)
    assert load(folder, "balance=none").settings("flat")["balance"] == "none"


def test_an_unknown_sweep_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"\. Write sweep=hierarchy\. Sweeps: hierarchy"):
        load_sweep("sweeps/hierarchy.yaml", folder=folder)
    message = f"sweep=hierachy: no such file in {folder}. Did you mean 'hierarchy'? Sweeps: hier"
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_sweep("hierachy", folder=folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "workers: 2",
            "workes: 2",
            "sweep hierarchy: 'workes' is not a key of the sweep file here. Did",
        ),
        ("workers: 2", "workes: 2", "Did you mean 'workers'? Allowed: name, question, objectives,"),
        (
            "{trials: 15}",
            "{trails: 15}",
            "budget={trails:15}: 'trails' is not a key of the sweep file",
        ),
        ("{trials: 15}", "{trails: 15}", "Did you mean 'trials'? Allowed: trials."),
        ("{trials: 15}", "{}", "budget.trials: must be given"),
        ("budget: {trials: 15}\n", "", "budget: must be given"),
        (
            "dial: model",
            "dail: model",
            "'dail' is not a key of the sweep file here. Did you mean 'dial'",
        ),
        ("  dense:", "  Dense-1:", "arms.Dense-1=Dense-1: an arm is named with a-z 0-9 _"),
        ("dial: model.ffn.hidden_dim", "dial: model ffn", "names joined by dots are expected"),
        (
            "{trials: 15}",
            "{trials: 16}",
            "budget.trials=16: must be a multiple of the number of arms (3),",
        ),
        ("{trials: 15}", "{trials: 16}", "(3), e.g. 15 or 18"),
        (
            "{trials: 15}",
            "{trials: 1}",
            "budget.trials=1: must be a multiple of the number of arms (3), e.g.",
        ),
        ("{trials: 15}", "{trials: 1}", "e.g. 3 or 6"),
        ("{trials: 15}", "{trials: 0}", "budget.trials=0: must be greater than or equal to 1"),
        ("{trials: 15}", "{trials: 1.5}", "budget.trials=1.5: must be a"),
        ("workers: 2", "workers: 0", "workers=0: must be greater than or equal to 1"),
        ("workers: 2", "seed: -1", "seed=-1: must be greater than or equal to 0"),
        (
            "match: active_params",
            "match: params_active",
            "contract.match=params_active: must be 'active_p",
        ),
        (
            "reference: flat",
            "reference: flap",
            "contract.reference=flap: is not an arm. Did you mean 'fl",
        ),
        (
            "reference: flat",
            "reference: flat, tolerance: 1.5",
            "contract.tolerance=1.5: must be less than 1",
        ),
        ("val/load/cv/expert]", "val/bits_per_byte]", "must differ"),
        ("val/load/cv/expert]", "val/bits_per_bite]", "Did you mean 'val/bits_per_byte'?"),
        (
            "val/load/cv/expert]",
            "val/loss, val/accuracy]",
            "objectives=[val/bits_per_byte,val/loss,val/acc",
        ),
        (
            "[val/bits_per_byte, val/load/cv/expert]",
            "[]",
            "objectives=[]: must have at least 1 item, not 0",
        ),
        (
            "[data=stdlib,",
            "['data=a,b',",
            "overrides.0: data=a,b: a search belongs in a sweep",
        ),
        ("[tree=flat,", "['tree',", "arms.flat.overrides.0: tree: does not read as key=value"),
        (
            "choice(none, switch)",
            "none",
            "balance=none: nothing to search; a fixed value goes under",
        ),
        ("choice(none, switch)", "glob(*)", "Unknown function 'glob'; a search is"),
        (
            "tree=grid: [",
            "tree=gird: [",
            "when.tree=gird: holds in no arm; the value must be among the",
        ),
        ("tree=grid: [", "balance=swich: [", "when.balance=swich: holds in no arm"),
        (
            "[data=stdlib,",
            "[optim.lr=1e-3,",
            "arms.dense: optim.lr=0.001 is fixed by an override, and 'o",
        ),
        (
            "[tree=grid,",
            "[selection.k=1, tree=grid,",
            "arms.grid: selection.k=1 is fixed by an override",
        ),
        (
            "dial: model.ffn.hidden_dim",
            "dial: optim.lr",
            "arms.dense.dial=optim.lr: the contract sets it, so it cannot be searched. A dial is a",
        ),
        ("# Does", "# Do", "the first line must be the question: # Does a tree beat a flat gate?"),
        ("workers: 2", "workers: 2\ntolerance: 0.1", "Did you mean 'contract.tolerance'?"),
        ("workers: 2", "workers: 2\npruning: {first: 0.1}", "Did you mean 'search.pruning'?"),
        (
            "workers: 2",
            "workers: 2\n"
            "confirm: {margins: {val/bits_per_byte: 0.02}, arms: [grid], against: {grid: dens}}",
            "confirm.against: dens is not an arm that is confirmed. Confirmed: flat, grid.",
        ),
        (
            "workers: 2",
            "workers: 2\n"
            "confirm: {margins: {val/bits_per_byte: 0.02}, arms: [grid], against: {dense: grid}}",
            "confirm.against: dense is not an arm that is confirmed. Confirmed: flat, grid.",
        ),
        (
            "workers: 2",
            "workers: 2\n"
            "confirm: {margins: {val/bits_per_byte: 0.02}, arms: [grid], against: {grid: grid}}",
            "confirm.against: grid=grid: compares an arm with itself",
        ),
        (
            "workers: 2",
            "workers: 2\n"
            "confirm: {margins: {val/bits_per_byte: 0.02}, arms: [grid], against: {flat: grid}}",
            "confirm.against: flat=grid: flat is the contract's reference",
        ),
        ("workers: 2", "workers: [2", "hierarchy.yaml: cannot be read"),
        ("workers: 2", "workers: 2\nworkers: 3", "hierarchy.yaml: cannot be read"),
    ],
)
def test_a_file_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    change(folder, old, new)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(folder)


@pytest.mark.parametrize("text", ["", "[1]", "words"])
def test_a_file_that_is_no_mapping_is_refused(folder: Path, text: str) -> None:
    (folder / "hierarchy.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load(folder)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trails=3", "'trails' is not a key of the sweep file here. Did you mean 'trials'?"),
        ("budget=3", "budget=3: must be"),
        ("seed.x=3", "seed.x=3: the sweep has no keys under 'seed'."),
        ("arms.flt.dial=a", "the sweep has no keys under 'flt'. Did you mean 'flat'?"),
        (
            "budget.trials=4",
            "budget.trials=4: must be a multiple of the number of arms (3), e.g. 3 or 6",
        ),
        (
            "optim.lr=0.1",
            "arms.dense: optim.lr=0.1 is fixed by an override, and 'optim.lr' is searched",
        ),
        ("workers=1,2", "workers=1,2: a search belongs in a sweep"),
        ("name=a/b", "name=a/b: 1 to 80 of"),
        # Keys of sections, without their section.
        ("tolerance=0.03", "tolerance=0.03: no such key. Did you mean 'contract.tolerance'? Keys"),
        ("tolerence=0.03", "Did you mean 'contract.tolerance'?"),
        ("bounds={a:1}", "Did you mean 'search.bounds'? Keys of the sweep: name, question,"),
        ("pruning=null", "Did you mean 'search.pruning'?"),
        ("seeds=3", "Did you mean 'confirm.seeds'?"),
        ("contarct.tolerance=0.03", "Did you mean 'contract.tolerance'?"),
        ("oprim.lr=0.03", "Did you mean 'optim.lr'?"),
        ("contract.match=active_param", "Did you mean 'active_params'?"),
        ("search.sampler=tpee", "'random' or 'grid'. Did you mean 'tpe'?"),
        ("arms.flat=[a]", "arms.flat=[a]: must be a mapping, as in {key: value}"),
        ("objectives=[a,b,c]", "objectives=[a,b,c]: must have at most 2 items, not 3"),
        ("space=[optim.lr=interval(1,2)]", "\"space=['optim.lr=tag(log,interval(1e-3,1e-2))']\""),
    ],
)
def test_the_command_line_is_refused(folder: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(folder, override)


def test_all_faults_of_a_file_are_listed(folder: Path) -> None:
    change(folder, "workers: 2", "workers: 0\nseed: x")
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert [line.partition("=")[0] for line in str(caught.value).splitlines()] == [
        "sweep hierarchy: seed",
        "sweep hierarchy: workers",
    ]


# ------------------------------------------------------------------ identity of a study


def test_a_fingerprint_survives_json(folder: Path) -> None:
    one = fingerprint(load(folder))
    assert json.loads(json.dumps(one)) == one
    assert diff_fingerprints(json.loads(json.dumps(one)), one) == []


@pytest.mark.parametrize(
    "override",
    [
        "name=x",
        "workers=5",
        "budget.trials=30",
        "question='Is it so?'",
        "runs=/tmp/x",
    ],
)
def test_what_does_not_change_the_study(folder: Path, override: str) -> None:
    assert fingerprint(load(folder, override)) == fingerprint(load(folder))


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=3", ["seed: 0 -> 3"]),
        ("contract.tolerance=0.1", ["contract.tolerance: 0.02 -> 0.1"]),
        ("arms.flat.dial=null", ["arms.flat.dial: experts.hidden_dim -> null"]),
        ("data=digits", ["overrides: + data=digits"]),
        ("objectives=[val/bits_per_byte]", ["objectives: - val/load/cv/expert"]),
        (
            "objectives=[val/load/cv/expert,val/bits_per_byte]",
            ["objectives: in another order"],
        ),
        (
            "space=['optim.lr=interval(0,1)','balance=choice(none, switch)']",
            [
                "space: - optim.lr=tag(log, interval(1e-3, 1e-2))",
                "space: + optim.lr=interval(0,1)",
            ],
        ),
        (
            "arms={flat: {overrides: ['tree=grid']}}",
            [
                "arms.dense.overrides: ['model=transformer_dense'] -> (absent)",
                "arms.dense.dial: model.ffn.hidden_dim -> (absent)",
                "arms.flat.overrides: - tree=flat",
                "arms.flat.overrides: - tree.spec=[16]",
                "arms.flat.overrides: + tree=grid",
                "arms.flat.dial: experts.hidden_dim -> null",
            ],
        ),
    ],
)
def test_what_changes_the_study_is_told(folder: Path, override: str, difference: list[str]) -> None:
    told = diff_fingerprints(fingerprint(load(folder)), fingerprint(load(folder, override)))
    assert told[: len(difference)] == difference
