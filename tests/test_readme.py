"""README keeps its word: its commands compose, and every system of its table can be built."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
import torch

import hmoe
from hmoe.balance import switch_loss
from hmoe.config import CONF, compose, options, read_experiment, read_system
from hmoe.data import KNOWN_SETS
from hmoe.layer import Tree, move_optimizer, regroup
from hmoe.models import ResidualMlp
from hmoe.reproductions import REPRODUCTIONS, read_result
from hmoe.study import load_sweep
from hmoe.training import assemble

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SYSTEMS = re.findall(
    r"^\| `(\w+)` \|",
    README.partition("## Known systems")[2].partition("\n## ")[0],
    flags=re.MULTILINE,
)
COMMANDS = sorted(
    {
        command.partition(" #")[0].strip()
        for command in [
            *re.findall(r"^    \.venv/bin/hmoe (.+)$", README, flags=re.MULTILINE),
            *re.findall(r"`hmoe (train [^`<]+)`", README),
        ]
    }
)


def test_the_commands_were_found() -> None:
    assert len(COMMANDS) >= 6


def test_the_table_of_systems_is_complete() -> None:
    assert sorted(SYSTEMS) == options("system")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_row_says_what_the_file_of_the_system_says(name: str) -> None:
    assert row(name) in README.splitlines()


def test_the_table_of_experiments_says_what_their_files_say() -> None:
    lines = table("## Real problems", "`")
    assert lines == {name: experiment_row(name) for name in options("experiment")}


def experiment_row(name: str) -> str:
    """An experiment's line of the table, from its file."""
    experiment = read_experiment(name, CONF)
    title = experiment.title.removesuffix(".")
    unmeasured = experiment.time == experiment.score
    spent = "-" if unmeasured else f"{experiment.time}, {experiment.hardware}"
    cells = [f"`{name}`", title, experiment.score, spent]
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_reproductions_says_what_is_stored() -> None:
    lines = table("## Published results", "[")
    assert lines.keys() == REPRODUCTIONS.keys()
    for name, reproduction in REPRODUCTIONS.items():
        folder = Path("reports/reproductions") / name
        verdict = read_result(reproduction, ROOT / folder)["verdict"]
        assert lines[name].startswith(f"| [{name}]({folder}/README.md) | **{verdict}** | ")


def table(heading: str, mark: str) -> dict[str, str]:
    """The lines of the table below a heading, by the name that begins each."""
    part = README.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"^(\| {re.escape(mark)}(\w+)[`\]].*)$", part, flags=re.MULTILINE)
    return {name: line for line, name in found}


def row(name: str) -> str:
    """A system's line of the table, from its file."""
    system = read_system(name, CONF)
    said = dict(choice.split("=", 1) for choice in system.choices)
    authors, year = re.match(r"(.*?) \((\d{4})\)", system.source).groups()
    authors = re.sub(r", .*", " et al.", authors) if authors.count(",") > 1 else authors
    tree = said.get("tree.spec") or {"flat": "[16]", "grid": "[4,4]"}[said["tree"]]
    tree = "named units" if tree.startswith("{") else f"`{tree}`"
    tree += " + shared" if "shared" in said else ""
    parts = r"gate(@gate\.gate|(\.gate)?\.(score|noise|link|pool))"
    gate = [said.get("gate", "-"), *(v for k, v in said.items() if re.fullmatch(parts, k))]
    options = {k.partition(".")[2]: v for k, v in said.items() if k.startswith("selection.")}
    selection = [said.get("selection", "-"), *(options.get(k, "") for k in ("k", "weights"))]
    selection += [f"{k} {options[k]}" for k in ("beam", "capacity") if k in options]
    if "selection@eval_selection" in said:
        selection[0] += f", then {said['selection@eval_selection']}"
    cells = [f"`{name}`", f"{authors} {year}", tree, " ".join(gate)]
    cells += [" ".join(filter(None, selection)), said["balance"]]
    return "| " + " | ".join(cells) + " |"


def test_the_lines_for_other_models_run() -> None:
    lines = re.findall(r"^    ((?:layer|y|loss)\b.* = .+)$", README, flags=re.MULTILINE)
    names = {"hmoe": hmoe, "switch_loss": switch_loss, "task_loss": torch.Tensor.sum}
    exec("\n".join(lines[:3]), names | {"x": torch.randn(2, 3, 512)}, found := {})
    assert found["y"].shape == (2, 3, 512)
    assert found["loss"].requires_grad


def test_the_lines_that_move_a_tree_run() -> None:
    start = README.index("    layer, move = regroup")
    lines = [line.strip() for line in README[start:].splitlines()[:3]]
    ffn = partial(hmoe.build, "tree=flat", hidden_dim=8)
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=1, ffn=ffn)
    names = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "Tree": Tree}
    exec("\n".join(lines), names | {"regroup": regroup, "move_optimizer": move_optimizer})
    assert str(model.ffns[0].tree) == "4x4"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, tmp_path: Path) -> None:
    name, *overrides = shlex.split(command)
    if name in ("sweep", "plan", "status", "report", "confirm"):
        sweep = overrides[0].removeprefix("sweep=")
        own = ("paper=true", "watch=true")
        assert load_sweep(sweep, [o for o in overrides[1:] if o not in own]).arms
    elif name == "fetch":
        assert set(overrides) <= KNOWN_SETS.keys()
    elif name == "reproduce":
        assert {o for o in overrides if "=" not in o} <= {"all", "--check", *REPRODUCTIONS}
    elif name == "generate":
        assert overrides[1] == "--prompt"
    elif name in ("compare", "repro", "inspect"):
        wanted = {study: set(load_sweep(study).arms) for study in ("hierarchy",)}
        for place in overrides:
            study, arm, *_ = place.removeprefix("runs/").replace("/confirm/", "/").split("/")
            assert arm in wanted[study]
    else:
        (tmp_path / "a.txt").write_text("hierarchy " * 2000)
        overrides = [o.replace("$HOME/notes", str(tmp_path)) for o in overrides]
        assert assemble(compose(overrides), device="meta").model
