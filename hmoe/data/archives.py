"""Archives and packed files of others, opened without trust: size first, then path, then content.

Members are read into memory and never unpacked by name, so that no archive can write anywhere.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hmoe.data.checks import data_error

PACKINGS: dict[str, Callable[..., Any]] = {
    "": open,
    ".gz": gzip.GzipFile,
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}
"""How one file may be packed, by the ending of its name."""

REMEDY = "Copy the file anew from where you have it."
_BROKEN = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    RuntimeError,  # zipfile, of a member that is encrypted
    NotImplementedError,  # zipfile, of a packing that it does not know
)


def read_packed(path: Path, *, most: int, remedy: str = REMEDY) -> bytes:
    """Return the content of a file, unpacked if its name ends in .gz, .xz or .bz2.

    Args:
        path: the file.
        most: bytes that the content may have; a packed file that unfolds to more is refused.
        remedy: what to do about an error.

    Raises:
        DataError: the file cannot be read to its end, or is too large.
    """
    unpack = PACKINGS.get(path.suffix, PACKINGS[""])
    try:
        with unpack(path, "rb") as file:
            content = file.read(most + 1)
    except _BROKEN as error:
        raise data_error(path, "a whole file", str(error), remedy) from error
    if len(content) > most:
        raise data_error(path, f"at most {most} bytes", "more", remedy)
    return content


def members(path: Path, content: bytes, *, most: int) -> Iterator[tuple[str, bytes]]:
    """Go through the files in a zip or tar archive, in its order: name with slashes, content.

    Folders are passed over. `content` is that of `path`, whose digest the caller has compared.

    Args:
        path: where the archive lies, for messages.
        content: the archive.
        most: bytes that all files together may have, unpacked.

    Raises:
        DataError: no archive, one that is damaged, a member that is a link or a device, a name that
            leads out of the archive, a name that is there twice, or more bytes than `most`.
    """
    left, seen = most, set()
    open_members = _zip if zipfile.is_zipfile(io.BytesIO(content)) else _tar
    try:
        for name, read in open_members(path, content):
            _check_name(path, name)
            if name in seen:
                raise data_error(path, "every name once", f"{name!r} twice", REMEDY)
            seen.add(name)
            found = read(left + 1)
            left -= len(found)
            if left < 0:
                raise data_error(path, f"at most {most} bytes in all, unpacked", "more", REMEDY)
            yield name, found
    except _BROKEN as error:
        raise data_error(path, "a whole zip or tar archive", str(error), REMEDY) from error


Reader = Callable[[int], bytes]


def _zip(path: Path, content: bytes) -> Iterator[tuple[str, Reader]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.external_attr >> 28 == 0o12:  # the type in a Unix mode: a symbolic link
                raise data_error(path, "files and folders", f"link {member.filename!r}", REMEDY)
            if not member.is_dir():

                def read(size: int, member: zipfile.ZipInfo = member) -> bytes:
                    with archive.open(member) as file:
                        return file.read(size)

                yield member.filename, read


def _tar(path: Path, content: bytes) -> Iterator[tuple[str, Reader]]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isfile():
                raise data_error(
                    path, "files and folders", f"link or device {member.name!r}", REMEDY
                )
            file = archive.extractfile(member)
            assert file is not None, "a regular file has content"
            yield member.name, file.read


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name.partition("/")[0]:
        raise data_error(path, "names inside the archive", f"{name!r}", REMEDY)
