"""Fetching a known set: every file is compared with its digest before it gets its name.

The only place in hmoe that opens a connection, and only `hmoe fetch` comes here.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.request import Request, urlopen

from hmoe.data.archives import PACKINGS, members, read_packed
from hmoe.data.known import KnownFile, KnownSet
from hmoe.errors import DataError

_CHUNK = 2**16
_TIMEOUT_S = 30
# A packing of what hardly packs adds a little; beyond this a download is not what it should be.
_SLACK = 2**16

Show = Callable[[str, int, int], None]


def fetch(known: KnownSet, root: Path, *, show: Show) -> list[Path]:
    """Download the files of a set that are not there, and return the paths of all.

    A file has its name only once it is whole and right; what was interrupted is begun anew.

    Args:
        known: the set.
        root: the folder to put it in; made if missing.
        show: called with a file's name, bytes that came, and bytes that are expected.

    Raises:
        DataError: no address is known, the address does not answer, or what came is not what was
            published. A file of that name that is there and wrong is told, never overwritten.
    """
    if not known.fetchable:
        raise DataError(f"{known.name}: no address is known. {known.remedy()}")
    missing = [file for file in known.files if not _there(known, root, file)]
    root.mkdir(parents=True, exist_ok=True)
    for file in missing:
        if file.url is not None:
            with _download(file.url, file.size + _SLACK, file.size, show) as path:
                content = read_packed(path, most=file.size)
            _put(root, file, content, file.url)
    if archived := [file for file in missing if file.url is None]:
        _fetch_archive(known, root, archived, show)
    return [known.find(root, file.name) for file in known.files]


def _there(known: KnownSet, root: Path, file: KnownFile) -> bool:
    try:
        known.find(root, file.name)
    except DataError:
        return False
    known.read(root, file.name)
    return True


def _fetch_archive(known: KnownSet, root: Path, files: list[KnownFile], show: Show) -> None:
    archive = known.archive
    assert archive is not None, "files without an address come in an archive"
    wanted = {file.member or file.name: file for file in files}
    with _download(archive.url, archive.most, archive.most, show) as path:
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if archive.sha256 not in (None, found):
            raise DataError(
                f"{archive.url}: expected sha256 {archive.sha256}, found sha256 {found} "
                f"({len(content)} bytes). The address has another edition now."
            )
        for name, inner in members(path, content, most=archive.most_unpacked):
            file = wanted.pop(name, None)
            if file is not None:
                _put(root, file, inner, f"{archive.url}, {name}")
    if wanted:
        raise DataError(
            f"{archive.url}: expected {', '.join(wanted)} in it, found none of that name."
        )


def _put(root: Path, file: KnownFile, content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{origin}: expected sha256 {file.sha256} ({file.size} bytes), found sha256 {found} "
            f"({len(content)} bytes). The address has another edition now."
        )
    path = root / PurePosixPath(file.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as aside:
        aside.write(content)
        aside.flush()
        os.fsync(aside.fileno())
    os.replace(aside.name, path)


@contextmanager
def _download(url: str, most: int, expected: int, show: Show) -> Iterator[Path]:
    """Bring an address into a file that is gone afterwards, of at most so many bytes."""
    ending = PurePosixPath(url).suffix
    name = f"download{ending if ending in PACKINGS else ''}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        try:
            request = Request(url, headers={"User-Agent": "hmoe"})
            with urlopen(request, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
                come = 0
                while chunk := answer.read(_CHUNK):
                    come += len(chunk)
                    if come > most:
                        raise DataError(f"{url}: expected at most {most} bytes, found more.")
                    file.write(chunk)
                    show(url.rpartition("/")[2], come, expected)
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise DataError(f"{url}: does not answer: {reason}") from error
        yield path
