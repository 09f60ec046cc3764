"""Made files in place of known sets: tiny, of the same form, under the names of the real ones."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hmoe.data import KNOWN_SETS
from tests.made.images import IMAGES
from tests.made.tables import TABLES
from tests.made.texts import TEXTS

MADE: dict[str, Callable[[], Mapping[str, bytes]]] = {**TEXTS, **TABLES, **IMAGES}
"""Name of a known set -> its files, by name, with what they hold."""


def write_set(name: str, root: Path) -> Path:
    """Write the made files of a set into root/<name>; returns that folder."""
    folder = root / name
    for file, content in MADE[name]().items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


@contextmanager
def made_sets() -> Iterator[None]:
    """Within it the made files are what the known sets are known for."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in MADE.items():
            known, contents = KNOWN_SETS[name], make()
            files = tuple(
                replace(
                    file,
                    sha256=hashlib.sha256(contents[file.name]).hexdigest(),
                    size=len(contents[file.name]),
                )
                for file in known.files
            )
            patch.setitem(KNOWN_SETS, name, replace(known, files=files))
        yield
