"""Text: any file or folder of yours, read as bytes; prose, code and logs alike, in any language.

    hmoe train data=text data.root=~/notes 'data.suffixes=[.md,.txt]'

A folder of two books, austen/emma.txt and tracts/swift.txt, gives rows such as

    x = 32 116 104 101   (" the")     domain = (0, 0)   (austen, austen/emma.txt)

Ten files or more are split by file, so that validation asks about files never seen; fewer are each
cut into a first part for training, then validation, then test. Size and licence are your text's: it
is read where it lies, kept in memory (a byte a byte), and never copied into a run.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hmoe.data.byte_language import ByteLanguage, Piece
from hmoe.data.checks import check_root, check_shares, data_error
from hmoe.data.files import path_fraction, read_text_files
from hmoe.data.loader import Split
from hmoe.errors import ConfigError

FEWEST_FILES = 10
"""From this many files on, whole files are split; below, a split would hang on a file or two."""


class Text(ByteLanguage):
    """Bytes of a file or folder; domains are (top folder, file) if there are several files.

    Args:
        root: the file or folder. Of a folder all UTF-8 files are read, hidden ones excepted.
        suffixes: endings of the files to read, such as [".txt", ".md"]; null for all.
        batch_size, context, seed, eval_bytes: see `ByteLanguage`.
        val_share: share of the text for validation.
        test_share: share of the text for the test.

    Raises:
        ConfigError: no root, sizes or shares out of range, a suffix without its dot.
        DataError (from setup): nothing at root, no text there, too little for one window.
    """

    domain_labels = ("folder", "file")

    def __init__(
        self,
        *,
        root: str | None,
        suffixes: Sequence[str] | None,
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
        for suffix in suffixes or ():
            if not suffix.startswith("."):
                raise ConfigError(
                    f"data.suffixes={list(suffixes or ())}: '{suffix}' must begin with a dot."
                )
        self._root = check_root(root, "a text file or a folder of text files")
        self._suffixes = None if suffixes is None else tuple(suffixes)

    def _source(self) -> Path:
        return self._root

    def _pieces(self) -> list[Piece]:
        files = read_text_files(
            self._root, lambda path: self._suffixes is None or path.endswith(self._suffixes)
        )
        if not files:
            named = "" if self._suffixes is None else f" whose name ends in {self._suffixes}"
            raise data_error(
                self._root,
                f"at least one non-empty UTF-8 file{named}",
                "none",
                "Unpack compressed text and convert other encodings, with iconv for instance.",
            )
        domains = {path: (_folder(path), path) if len(files) > 1 else () for path in files}
        splits = whole_file_splits({path: len(text) for path, text in files.items()}, self._shares)
        if splits is not None:
            return [Piece(path, splits[path], domains[path], files[path]) for path in files]
        return [
            Piece(path, split, domains[path], content)
            for path in files
            for split, content in cut(files[path], self._shares)
        ]


def whole_file_splits(sizes: dict[str, int], shares: dict[Split, float]) -> dict[str, Split] | None:
    """Share whole files out so that "val" and "test" get about their share of the bytes.

    In the order of the hash of their path, files go to a split as long as they fit into its share;
    the rest is for training. So a large file never makes a small share large.

    Args:
        sizes: bytes of each file by path.
        shares: share of all bytes for "val" and "test".

    Returns:
        The split of each path; None if the files are too few or too uneven for it: fewer than
        `FEWEST_FILES`, or a split would end below half of its share.
    """
    if len(sizes) < FEWEST_FILES:
        return None
    splits: dict[str, Split] = dict.fromkeys(sizes, "train")
    order = sorted(sizes, key=path_fraction)
    for split, share in shares.items():
        wanted = share * sum(sizes.values())
        room = wanted
        for path in order:
            if splits[path] == "train" and sizes[path] <= room:
                splits[path] = split
                room -= sizes[path]
        if room > wanted / 2:
            return None
    return splits


def cut(content: bytes, shares: dict[Split, float]) -> list[tuple[Split, bytes]]:
    """Cut `content` into contiguous blocks: training first, then each split of `shares`."""
    parts: list[tuple[Split, bytes]] = []
    end = len(content)
    for split, share in reversed(shares.items()):
        start = end - round(share * len(content))
        parts.append((split, content[start:end]))
        end = start
    return [("train", content[:end]), *reversed(parts)]


def _folder(path: str) -> str:
    """Return the top folder of a relative path, "." for a file that is in none."""
    return PurePosixPath(path).parts[0] if "/" in path else "."
