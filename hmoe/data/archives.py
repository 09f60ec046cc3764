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
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
"""How one file may be packed, by the ending of its name."""

REMEDY = "It is damaged, or another edition: copy it anew from where you have it."
_BEGINNINGS = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"BZh": ".bz2"}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# The type in a Unix mode; 0 where the zip was not made on Unix.
_FOLDER, _FILE = 0o4, (0, 0o10)
_BROKEN = (
    EOFError,
    OSError,
    ValueError,  # of a number in a header
    MemoryError,  # xz, of a dictionary larger than this machine
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    RuntimeError,  # zipfile, of a member that is encrypted
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
    return _unpacked(path, path, path.suffix, most, remedy)


def members(path: Path, content: bytes, *, most: int) -> Iterator[tuple[str, bytes]]:
    """Go through the files in a zip or tar archive, in its order: name with slashes, content.

    Folders are passed over. `content` is that of `path`, whose digest the caller has compared.

    Args:
        path: where the archive lies, for messages.
        content: the archive; a tar may be packed.
        most: bytes that all files of a zip may have together, or the tar itself once unpacked.

    Raises:
        DataError: no archive, one that is damaged, a member that is a link or a device, a name that
            leads out of the archive, a name that is there twice, or more bytes than `most`.
    """
    left, seen = most, set()
    open_members = _zip if content.startswith(_ZIP) else _tar
    try:
        for given, read in open_members(path, content, most):
            name = _checked(path, given)
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


def _unpacked(path: Path, file: Path | io.BytesIO, packing: str, most: int, remedy: str) -> bytes:
    unpack = PACKINGS.get(packing, PACKINGS[""])
    try:
        with unpack(file, "rb") as stream:
            content = stream.read(most + 1)
    except _BROKEN as error:
        raise data_error(path, "a whole file", str(error), remedy) from error
    if len(content) > most:
        raise data_error(path, f"at most {most} bytes", "more", remedy)
    return content


def _zip(path: Path, content: bytes, most: int) -> Iterator[tuple[str, Reader]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            kind = member.external_attr >> 28
            if kind not in (_FOLDER, *_FILE):
                raise data_error(
                    path, "files and folders", f"link or device {member.filename!r}", REMEDY
                )
            # Other packings are unpacked by zipfile without a limit.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise data_error(
                    path, "members stored or deflated", f"{member.filename!r} packed else", REMEDY
                )
            if not member.is_dir():

                def read(size: int, member: zipfile.ZipInfo = member) -> bytes:
                    with archive.open(member) as file:
                        return file.read(size)

                yield member.filename, read


def _tar(path: Path, content: bytes, most: int) -> Iterator[tuple[str, Reader]]:
    # Unpacked first: tarfile would read headers of any length, and skip what is too long to read.
    packing = next((end for start, end in _BEGINNINGS.items() if content.startswith(start)), "")
    if packing:
        content = _unpacked(path, io.BytesIO(content), packing, most, REMEDY)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
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
        # tarfile takes a damaged header for the end; that is a block of zeros, and nothing else.
        rest = content[archive.offset :]
        if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
            raise data_error(path, "an end of the tar archive", "something else", REMEDY)


def _checked(path: Path, name: str) -> str:
    """The name of a member without detours; refuse one that leads out of the archive."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]:
        raise data_error(path, "names inside the archive", f"{name!r}", REMEDY)
    return "/".join(parts)
