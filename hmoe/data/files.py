"""Text files below a folder, and a number for each path that other files cannot change."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def read_text_files(root: Path, keep: Callable[[str], bool]) -> dict[str, bytes]:
    """Read `root`, a file, or the text files anywhere below it.

    Left out are hidden files and folders (named .something), empty files, files that cannot be
    read, and files that are not UTF-8 throughout, as binary files hardly ever are. Links to folders
    are not followed, so no file is read twice.

    Args:
        root: an existing file or folder.
        keep: whether to read the file of the given path, relative to root, with forward slashes.

    Returns:
        Content by relative path, sorted by path.
    """
    if root.is_file():
        paths = {root.name: str(root)}
    else:
        paths = {}
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            here = Path(folder).relative_to(root)
            # As text: a library with packages beside it has so many files that paths take seconds.
            below = "" if here == Path() else f"{here.as_posix()}/"
            for name in names:
                if not name.startswith("."):
                    paths[below + name] = os.path.join(folder, name)
    contents = {name: _text(paths[name]) for name in sorted(paths) if keep(name)}
    return {name: content for name, content in contents.items() if content}


def path_fraction(path: str) -> float:
    """Return a number in [0, 1) that depends on `path` alone: its SHA-256, scaled."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4]) / 2**32


def _text(path: str) -> bytes:
    """Return the content of a UTF-8 file, nothing for any other."""
    try:
        content = Path(path).read_bytes()
        content.decode()
    except (OSError, UnicodeDecodeError):
        return b""
    return content
