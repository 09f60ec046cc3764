"""Known sets: a file is read if its content is what was published, and else told in full."""

import gzip
import hashlib
import lzma
from pathlib import Path

import pytest

from hmoe.data import KNOWN_SETS, KnownFile, KnownSet
from hmoe.data.known import Archive
from hmoe.errors import DataError

CONTENT = b"to be, or not to be\n" * 20
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def known(url: str | None = "https://example.org/f.txt", advice: str = "") -> KnownSet:
    file = KnownFile(name="f.txt", sha256=DIGEST, size=len(CONTENT), url=url)
    return KnownSet(
        name="plays", title="Plays", licence="free", source="us", files=(file,), advice=advice
    )


@pytest.mark.parametrize(
    ("ending", "content"),
    [("", CONTENT), (".gz", gzip.compress(CONTENT, mtime=0)), (".xz", lzma.compress(CONTENT))],
)
def test_a_file_is_read_plain_or_packed(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"f.txt{ending}").write_bytes(content)
    assert known().read(tmp_path, "f.txt") == CONTENT


def test_the_plain_file_counts_before_the_packed(tmp_path: Path) -> None:
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    (tmp_path / "f.txt").write_bytes(b"other")
    assert known().find(tmp_path, "f.txt") == tmp_path / "f.txt"
    with pytest.raises(DataError):
        known().read(tmp_path, "f.txt")


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"X" + CONTENT[1:], b""])
@pytest.mark.parametrize("packed", [False, True])
def test_other_content_is_told_with_path_digests_and_remedy(
    tmp_path: Path, content: bytes, packed: bool
) -> None:
    path = tmp_path / ("f.txt.gz" if packed else "f.txt")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    with pytest.raises(DataError) as told:
        known().read(tmp_path, "f.txt")
    message = str(told.value)
    assert str(path) in message
    assert "hmoe fetch plays" in message
    if not packed or len(content) <= len(CONTENT):  # what unfolds to more is not read to its end
        assert f"expected sha256 {DIGEST} ({len(CONTENT)} bytes)" in message
        assert f"found sha256 {hashlib.sha256(content).hexdigest()}" in message
        assert f"({len(content)} bytes)" in message


def test_a_damaged_packing_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(CONTENT, mtime=0)[:-6])
    with pytest.raises(DataError, match=r"f\.txt\.gz: expected a whole file.*: delete it\. Get"):
        known().read(tmp_path, "f.txt")


def test_a_packed_file_of_more_bytes_is_told_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(CONTENT + b"more", mtime=0))
    with pytest.raises(DataError, match=r"more\. It is damaged, or another edition: delete it\."):
        known().read(tmp_path, "f.txt")


def test_a_missing_file_is_told_with_digest_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError) as told:
        known().read(tmp_path, "f.txt")
    assert str(told.value) == (
        f"{tmp_path / 'f.txt'}: expected sha256 {DIGEST} ({len(CONTENT)} bytes), plain or as .gz, "
        ".xz, .bz2, found nothing there. Get it with: hmoe fetch plays, then leave data.root= out. "
        "It is published at "
        "https://example.org/f.txt. Or name a folder that has it: data.root=/path/to/folder."
    )


@pytest.mark.parametrize(
    ("root", "command"),
    [
        ("data/plays", "hmoe fetch plays"),
        ("mine/plays", "hmoe fetch plays root=mine"),
        ("plays", "hmoe fetch plays root=."),
        ("other", "hmoe fetch plays, then leave data.root= out"),
    ],
)
def test_what_is_advised_puts_the_file_where_it_is_looked_for(root: str, command: str) -> None:
    assert known().remedy(root).startswith(f"Get it with: {command}. It is published at ")


def test_the_outermost_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "mine"
    with pytest.raises(DataError, match=rf"found no such folder: {missing}\."):
        known().find(missing / "plays", "f.txt")


def test_a_set_without_an_address_is_not_said_to_be_fetched() -> None:
    remedy = known(url=None, advice="Ask its makers.").remedy("here")
    assert remedy == "Ask its makers. Or name a folder that has it: data.root=/path/to/folder."


def test_a_file_from_nowhere_or_with_a_packed_name_is_a_defect() -> None:
    with pytest.raises(AssertionError, match=r"from nowhere"):
        known(url=None)
    packed = KnownFile(name="f.gz", sha256=DIGEST, size=1, url="https://example.org/f.gz")
    with pytest.raises(AssertionError, match=r"f\.gz: packed"):
        KnownSet(name="a", title="", licence="", source="", files=(packed,))


def test_known_sets_have_addresses_of_https_and_whole_digests() -> None:
    for name, one in KNOWN_SETS.items():
        assert one.name == name
        assert one.title
        assert one.licence
        assert one.source
        urls = [file.url for file in one.files if file.url]
        if isinstance(one.archive, Archive):
            urls.append(one.archive.url)
        assert all(url.startswith("https://") for url in urls)
        for file in one.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.size > 0
        assert len({file.name for file in one.files}) == len(one.files)
