"""Fetching a known set: every file is compared with its digest before it gets its name.

The only place in hmoe that opens a connection, and only `hmoe fetch` comes here.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from hmoe.data.archives import PACKINGS, members, read_packed
from hmoe.data.known import KnownFile, KnownSet
from hmoe.errors import DataError
from hmoe.files import write_atomically

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
        DataError: no address is known, the address does not answer, what came is not what was
            published, or it cannot be written. A file of that name that is there and wrong is
            told, never overwritten.
    """
    missing = [file for file in known.files if not _there(known, root, file)]
    if missing and not known.fetchable:
        raise DataError(f"{known.name}: no address is known. {known.remedy(root)}")
    for file in missing:
        if file.url is not None:
            with _download(file.url, file.size + _SLACK, file.size, show, root) as path:
                remedy = f"It is of {file.url}. {_again(root)}"
                content = read_packed(path, most=file.size, remedy=remedy)
            _put(root, file, content, file.url)
    if archived := [file for file in missing if file.url is None]:
        _fetch_archive(known, root, archived, show)
    return [known.find(root, file.name) for file in known.files]


def _there(known: KnownSet, root: Path, file: KnownFile) -> bool:
    """Whether a file is there, and right; raises DataError if it is wrong."""
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
    with _download(archive.url, archive.most, archive.most, show, root) as path:
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
    path = file.below(root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}.") from error


def _again(root: Path) -> str:
    return f"Try again, or put the file into {root} yourself."


@contextmanager
def _download(url: str, most: int, expected: int, show: Show, root: Path) -> Iterator[Path]:
    """Bring an address into a file that is gone afterwards, of at most so many bytes.

    The folder `root` is named where that fails.
    """
    place = PurePosixPath(urlsplit(url).path)
    ending = place.suffix if place.suffix in PACKINGS else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"download{ending}"
        with path.open("wb") as file:
            come = 0
            for chunk in _chunks(url, root):
                come += len(chunk)
                if come > most:
                    raise DataError(f"{url}: expected at most {most} bytes, found more.")
                file.write(chunk)
                show(place.name, come, expected)
        yield path


def _chunks(url: str, root: Path) -> Iterator[bytes]:
    """What an address answers, piece by piece, to its end."""
    come = 0
    try:
        request = Request(url, headers={"User-Agent": "hmoe"})
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            announced = answer.headers.get("Content-Length")
            while chunk := answer.read(_CHUNK):
                come += len(chunk)
                yield chunk
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise DataError(f"{url}: does not answer: {reason}. {_again(root)}") from error
    if announced is not None and come != int(announced):
        raise DataError(f"{url}: broke off after {come} of {announced} bytes. {_again(root)}")
