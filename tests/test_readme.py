"""README keeps its word: its commands compose, and every system of its table can be built."""

import re
import shlex
from pathlib import Path

import pytest

from hmoe.config import compose, options
from hmoe.study import load_sweep
from hmoe.training import assemble

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, tmp_path: Path) -> None:
    name, *overrides = shlex.split(command)
    if name in ("sweep", "plan", "status", "report"):
        sweep = overrides[0].removeprefix("sweep=")
        assert load_sweep(sweep, overrides[1:]).arms
    else:
        (tmp_path / "a.txt").write_text("hierarchy " * 2000)
        overrides = [o.replace("$HOME/notes", str(tmp_path)) for o in overrides]
        assert assemble(compose(overrides), device="meta").model
