"""Archives of others: what is sound is read, what is not is refused before it does harm."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hmoe.data.archives import members, read_packed
from hmoe.errors import DataError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
FILES = {"a.txt": b"one", "b/c.txt": b"two" * 1000}
AT = Path("archive")


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("b/", b"")
        for name, content in files.items():
            member = zipfile.ZipInfo(name)
            member.compress_type, member.external_attr = method, mode << 16
            archive.writestr(member, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            member.linkname = "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def read(content: bytes, most: int = 10**6) -> dict[str, bytes]:
    return dict(members(AT, content, most=most))


# ------------------------------------------------------------------- packed files


@pytest.mark.parametrize("ending", PACK)
def test_a_file_is_read_however_it_is_packed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"f{ending}"
    path.write_bytes(PACK[ending](b"abc" * 100))
    assert read_packed(path, most=300) == b"abc" * 100
    with pytest.raises(
        DataError, match=r"at most 299 bytes, found more\. It is damaged, or another"
    ):
        read_packed(path, most=299)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
def test_what_is_cut_off_or_damaged_is_not_read(tmp_path: Path, ending: str) -> None:
    packed = PACK[ending](bytes(range(256)) * 10)
    middle = len(packed) // 2
    damaged = packed[:middle] + bytes([packed[middle] ^ 255]) + packed[middle + 1 :]
    for content in (packed[:-5], packed[:middle], damaged, b"plain"):
        path = tmp_path / f"f{ending}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"f\.\w+: expected a whole file, found .*\. Mend it"):
            read_packed(path, most=10**6, remedy="Mend it.")


def test_a_bomb_is_put_out_before_it_unfolds(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(2**26)))  # 64 MiB in 64 KiB
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"at most 1000 bytes, found more"):
            read_packed(path, most=1000)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------- archives


@pytest.mark.parametrize("ending", PACK)
def test_a_tar_gives_its_files_however_it_is_packed(ending: str) -> None:
    assert read(PACK[ending](tarred(FILES))) == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_its_files(method: int) -> None:
    assert read(zipped(FILES, method)) == FILES
    assert read(zipped(FILES, mode=stat.S_IFREG | 0o644)) == FILES


def test_a_tar_with_a_zip_in_it_is_a_tar() -> None:
    inner = zipped({"x": b"y"}, zipfile.ZIP_STORED)
    assert read(tarred({"inner.zip": inner})) == {"inner.zip": inner}


def test_names_come_without_detours() -> None:
    assert read(tarred({"./a//b": b"1"})) == {"a/b": b"1"}


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "C:/a", "a\\..\\b", "..", "//a", "."]
)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_that_lead_out_are_refused(make: Callable[..., bytes], name: str) -> None:
    with pytest.raises(DataError, match=r"archive: expected names inside the archive"):
        read(make({name: b"x"}))


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes) -> None:
    with pytest.raises(DataError, match=r"expected files and folders, found link or device 'x'"):
        read(tarred({"x": b""}, kind))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(kind: int) -> None:
    with pytest.raises(DataError, match=r"expected files and folders, found link or device 'x'"):
        read(zipped({"x": b"/etc/passwd"}, mode=kind | 0o644))


def test_a_name_that_is_there_twice_is_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("a/b", "a/./b"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"expected every name once, found 'a/b' twice"):
        read(stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", "other")
    with pytest.raises(DataError, match=r"expected every name once, found 'a' twice"):
        read(stream.getvalue())


def test_more_bytes_than_allowed_are_refused_all_files_together() -> None:
    # The files of a zip count, 3 and 3000; of a tar all of it does.
    assert read(zipped(FILES), most=3003) == FILES
    with pytest.raises(DataError, match=r"at most 3002 bytes in all, unpacked, found more"):
        read(zipped(FILES), most=3002)
    tar = tarred(FILES)
    assert read(gzip.compress(tar), most=len(tar)) == FILES
    with pytest.raises(DataError, match=r"expected at most .* bytes, found more"):
        read(gzip.compress(tar), most=len(tar) - 1)
    with pytest.raises(DataError, match=r"at most 3002 bytes in all"):
        read(tar, most=3002)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_zipfile_does_not_bound_are_refused(method: int) -> None:
    with pytest.raises(DataError, match=r"expected members stored or deflated, found 'a\.txt'"):
        read(zipped(FILES, method))


def test_an_encrypted_zip_is_refused() -> None:
    content = bytearray(zipped({"x": b"y"}, zipfile.ZIP_STORED))
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(start) + flags] |= 1
    with pytest.raises(DataError, match=r"a whole zip or tar archive, found .*encrypted"):
        read(bytes(content))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_what_is_cut_off_is_refused_wherever_it_is_cut(make: Callable[..., bytes]) -> None:
    # Of a tar all but two blocks of zeros, which are its end, are padding.
    content = make(FILES)
    end = len(content) if make is zipped else len(content.rstrip(b"\0")) + 100
    for length in range(0, end, 97):
        with pytest.raises(DataError, match=r"archive: expected "):
            read(content[:length])


def test_a_damaged_header_is_not_taken_for_the_end() -> None:
    content = bytearray(tarred(FILES))
    content[content.index(b"b/c.txt")] ^= 1  # the checksum no longer holds
    with pytest.raises(DataError, match=r"expected an end of the tar archive"):
        read(bytes(content))


def test_a_damaged_member_of_a_zip_is_refused() -> None:
    content = bytearray(zipped(FILES, zipfile.ZIP_STORED))
    content[content.index(b"twotwo")] ^= 1
    with pytest.raises(DataError, match=r"a whole zip or tar archive, found .*CRC"):
        read(bytes(content))


def test_a_long_header_is_not_read_into_memory() -> None:
    # A name of 64 MiB, in 64 KiB of gzip: the limit counts the headers of a tar, too.
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**26
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**26 + bytes(1024))
    with pytest.raises(DataError, match=r"expected at most 10000 bytes, found more"):
        read(bomb, most=10_000)
