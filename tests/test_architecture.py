"""The conventions that a machine can check; import rules are in pyproject.toml (import-linter)."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "hmoe").rglob("*.py"))
MAX_LINES = 320
# Where one machine keeps its files and packages; brackets keep this file from matching itself.
LOCAL = re.compile(
    r"[/]work/|[/]opt/(?:wheels|pypi)|py[p]i\.org|python[h]osted|download\.py[t]orch"
)
NOT_LOCKED = re.compile(r"(?:torch|triton|nvidia-.*|cuda-.*)==")
MAP_ENTRY = re.compile(r"^([\s|*`-]*)([\w./]+(?:/|\.py))(?=[\s`:|]|$)")


def mapped_paths(text: str) -> set[str]:
    """Paths below hmoe/ that a file map names, in full or by indentation under its folders."""
    paths: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (entry := MAP_ENTRY.match(line)):
            continue
        indent, name = len(entry[1]), entry[2]
        while folders and folders[-1][0] >= indent:
            folders.pop()
        paths.add(("".join(folder for _, folder in folders) + name).removeprefix("hmoe/"))
        if name.endswith("/"):
            folders.append((indent, name))
    return paths


def tracked_files() -> list[Path]:
    """The files git keeps, and those it would keep once added."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_stays_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "no module docstring"
    assert len(source.splitlines()) <= MAX_LINES


def test_a_file_map_is_read_in_both_spellings() -> None:
    text = "hmoe/\n  layer/   the algorithm\n    tree.py  the tree\n  cli.py  commands\n"
    assert mapped_paths(text) == {"", "layer/", "layer/tree.py", "cli.py"}
    assert mapped_paths("- `hmoe/layer/tree.py`: the tree") == {"layer/tree.py"}


def test_the_file_map_of_the_readme_is_complete() -> None:
    modules = {path.relative_to(ROOT / "hmoe").as_posix() for path in MODULES}
    wanted = {name for name in modules if not name.endswith("__init__.py")}
    wanted |= {f"{Path(name).parent}/" for name in modules if "/" in name}
    assert wanted - mapped_paths((ROOT / "README.md").read_text(encoding="utf-8")) == set()


def test_no_file_names_a_place_on_one_machine() -> None:
    found = {
        str(path.relative_to(ROOT)): hit[0]
        for path in tracked_files()
        if (hit := LOCAL.search(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert found == {}


def test_the_lock_pins_all_but_torch_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^[^\s#].*(?:\n\s+.*)*", lock, flags=re.MULTILINE)
    assert len(entries) > 50
    assert [entry for entry in entries if not re.match(r"[a-z0-9-]+==[^*]*--hash=", entry)] == []
    assert [entry for entry in entries if NOT_LOCKED.match(entry)] == []
