"""Stdlib: the source of the running Python's standard library, a text that everybody has.

Its packages are the natural test of an organisation: does the tree of experts find them? A window
of json/decoder.py gives rows such as

    x = 100 101 102 32   ("def ")     domain = (15, 429)   (json, json.decoder)

Python 3.11 has 728 such files, 11 MB, under the PSF licence (LICENSE.txt beside them). Python
itself brought them, so nothing is fetched. Versions of Python differ: compare bits per byte only
between runs of one `digest`.
"""

import sysconfig
from pathlib import Path

from hmoe.data.byte_language import ByteLanguage, Piece
from hmoe.data.checks import check_shares, data_error
from hmoe.data.files import path_fraction, read_text_files
from hmoe.data.loader import Split

INSTALLED = {"site-packages", "dist-packages", "lib-dynload", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}
GENERATED = {"pydoc_data"}
"""One file of documentation that, alone, would be nearly half of the split it falls into."""

BUILD_FILES = ("_sysconfigdata", "config-")
"""Beginnings of the names of files that the build of Python wrote for one platform."""

SINGLE_MODULES = "modules"


class Stdlib(ByteLanguage):
    """The standard library as bytes; domains are (top-level package, module).

    A module that is in no package belongs to the package "modules". With a package of its own each,
    the 160 of them would be most of the coarse level, and the coarse level would say little that
    the fine one does not; and each would lie in one split only.

    A file is in the split that the hash of its path says, so that a file that one version of Python
    adds or drops leaves all others where they are.

    Args:
        batch_size, context, seed, eval_bytes: see `ByteLanguage`.
        val_share: share of the files for validation.
        test_share: share of the files for the test.

    Raises:
        ConfigError: sizes or shares out of range.
        DataError (from setup): this Python comes without sources.
    """

    domain_labels = ("package", "module")

    def __init__(
        self,
        *,
        batch_size: int,
        context: int,
        seed: int,
        val_share: float,
        test_share: float,
        eval_bytes: int,
    ) -> None:
        super().__init__(batch_size=batch_size, context=context, seed=seed, eval_bytes=eval_bytes)
        check_shares(val_share=val_share, test_share=test_share)
        self._shares: dict[Split, float] = {"val": val_share, "test": test_share}

    def _source(self) -> Path:
        return stdlib_root()

    def _pieces(self) -> list[Piece]:
        files = read_text_files(stdlib_root(), is_library_source)
        if not files:
            remedy = "Use a Python whose library is not packed into a zip file."
            raise data_error(stdlib_root(), "sources of the standard library (.py)", "none", remedy)
        return [
            Piece(path, split_of(path, self._shares), domain_of(path), content)
            for path, content in files.items()
        ]


def stdlib_root() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def is_library_source(path: str) -> bool:
    """Say whether the file at `path`, relative to the library, is in the set."""
    parts = path.split("/")
    return (
        path.endswith(".py")
        and (INSTALLED | TESTS | GENERATED).isdisjoint(parts)
        and not any(part.startswith(BUILD_FILES) for part in parts)
    )


def domain_of(path: str) -> tuple[str, str]:
    """Return (top-level package, module) of a path, such as ("email", "email.mime.text")."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    package = path.split("/")[0] if "/" in path else SINGLE_MODULES
    return package, module


def split_of(path: str, shares: dict[Split, float]) -> Split:
    """Return the split of a file from the hash of its path alone."""
    place = path_fraction(path)
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"
