"""Fetching, from a server on this machine: what is right is put, what is not leaves nothing."""

import gzip
import hashlib
import io
import os
import re
import stat
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hmoe import cli
from hmoe.data import KNOWN_SETS, KnownFile, KnownSet
from hmoe.data.fetching import fetch
from hmoe.data.known import Archive
from hmoe.errors import DataError

ONE, TWO = b"one\n" * 1000, b"two\n" * 50_000
ANSWERS: dict[str, bytes] = {}
ASKED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers with what ANSWERS has; a path that begins with /broken breaks off half-way."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        content = ANSWERS.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = self.path.startswith("/broken")
        self.wfile.write(content[: len(content) // 2] if half else content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files lie in a folder that must be empty in the end."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    ANSWERS.clear()
    ASKED.clear()
    yield
    assert list(scratch.iterdir()) == []


def file(name: str, content: bytes, url: str | None, **more: str) -> KnownFile:
    digest = hashlib.sha256(content).hexdigest()
    return KnownFile(name=name, sha256=digest, size=len(content), url=url, **more)


def known(*files: KnownFile, **more: object) -> KnownSet:
    made = {"name": "plays", "title": "Plays", "licence": "free", "source": "us", "files": files}
    return KnownSet(**(made | more))


def quiet(name: str, done: int, total: int) -> None:
    pass


def everything(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_right_files_are_put_plain_whatever_came(server: str, tmp_path: Path) -> None:
    ANSWERS.update({"/one.txt": ONE, "/two.txt.gz?download=1": gzip.compress(TWO, mtime=0)})
    plays = known(
        file("one.txt", ONE, f"{server}/one.txt"),
        file("sub/two.txt", TWO, f"{server}/two.txt.gz?download=1"),
    )
    shown: list[tuple[str, int, int]] = []
    root = tmp_path / "plays"
    paths = fetch(plays, root, show=lambda *args: shown.append(args))
    assert paths == [root / "one.txt", root / "sub" / "two.txt"]
    assert [path.read_bytes() for path in paths] == [ONE, TWO]
    assert everything(root) == ["one.txt", "sub/two.txt"]
    assert ("one.txt", len(ONE), len(ONE)) in shown
    fetch(plays, root, show=quiet)
    assert len(ASKED) == 2  # what is there is not asked for again


def test_a_file_has_the_permissions_of_any_other(server: str, tmp_path: Path) -> None:
    ANSWERS["/one.txt"] = ONE
    before = os.umask(0o022)
    try:
        (path,) = fetch(known(file("one.txt", ONE, f"{server}/one.txt")), tmp_path, show=quiet)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (
            "/one.txt",
            b"X" + ONE[1:],
            r"one\.txt: expected sha256 \w+ .*found sha256 .*another edit",
        ),
        ("/one.txt", ONE + bytes(2**17), r"expected at most \d+ bytes, found more"),
        (
            "/one.txt.gz",
            gzip.compress(ONE + b"x", mtime=0),
            r"expected at most 4000 bytes, found more",
        ),
        (
            "/one.txt.gz",
            gzip.compress(ONE, mtime=0)[:-4],
            r"expected a whole file.*one\.txt\.gz\. Try",
        ),
        ("/broken/one.txt", ONE, r"one\.txt: broke off after 2000 of 4000 bytes\. Try again"),
        ("/one.txt", None, r"one\.txt: does not answer: Not Found\. Try again"),
    ],
)
def test_what_is_not_right_leaves_nothing(
    server: str, tmp_path: Path, path: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        ANSWERS[path] = content
    root = tmp_path / "plays"
    with pytest.raises(DataError, match=message):
        fetch(known(file("one.txt", ONE, server + path)), root, show=quiet)
    assert not root.exists()


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not answer: .*refused"):
        fetch(known(file("one.txt", ONE, "http://127.0.0.1:1/one.txt")), tmp_path, show=quiet)


def test_an_interrupt_leaves_nothing(server: str, tmp_path: Path) -> None:
    ANSWERS["/two.txt"] = TWO

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(known(file("two.txt", TWO, f"{server}/two.txt")), tmp_path / "plays", show=stop)
    assert not (tmp_path / "plays").exists()


def test_a_write_that_fails_leaves_nothing(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ANSWERS["/one.txt"] = ONE

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    root = tmp_path / "plays"
    with pytest.raises(DataError, match=r"one\.txt: cannot be written: No space left"):
        fetch(known(file("one.txt", ONE, f"{server}/one.txt")), root, show=quiet)
    assert everything(root) == []


@pytest.mark.parametrize("name", ["one.txt", "one.txt.gz"])
def test_a_wrong_file_that_is_there_is_told_and_kept(
    server: str, tmp_path: Path, name: str
) -> None:
    ANSWERS["/one.txt"] = ONE
    (tmp_path / name).write_bytes(
        gzip.compress(b"mine", mtime=0) if name.endswith(".gz") else b"mine"
    )
    before = (tmp_path / name).read_bytes()
    with pytest.raises(DataError, match=r"one\.txt.*expected sha256 .*found sha256"):
        fetch(known(file("one.txt", ONE, f"{server}/one.txt")), tmp_path, show=quiet)
    assert (tmp_path / name).read_bytes() == before
    assert ASKED == []


def test_a_packed_file_that_is_there_is_enough(tmp_path: Path) -> None:
    (tmp_path / "one.txt.gz").write_bytes(gzip.compress(ONE, mtime=0))
    plays = known(file("one.txt", ONE, None), advice="Ask its makers.")
    assert fetch(plays, tmp_path, show=quiet) == [tmp_path / "one.txt.gz"]


def test_a_set_without_an_address_says_how_to_get_it(tmp_path: Path) -> None:
    plays = known(file("one.txt", ONE, None), advice="Ask its makers.")
    with pytest.raises(DataError, match=r"plays: no address is known\. Ask its makers\."):
        fetch(plays, tmp_path, show=quiet)


def archive_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def in_archive(server: str, content: bytes, sha256: str | None = None) -> KnownSet:
    ANSWERS["/all.zip"] = content
    return known(
        file("one.txt", ONE, None, member="all/1.txt"),
        file("two.txt", TWO, None),
        archive=Archive(
            url=f"{server}/all.zip", most=100_000, most_unpacked=300_000, sha256=sha256
        ),
    )


def test_members_of_an_archive_are_put_under_their_own_names(server: str, tmp_path: Path) -> None:
    content = archive_of({"README": b"x", "all/1.txt": ONE, "two.txt": TWO})
    digest = hashlib.sha256(content).hexdigest()
    fetch(in_archive(server, content, digest), tmp_path / "plays", show=quiet)
    assert everything(tmp_path / "plays") == ["one.txt", "two.txt"]
    assert (tmp_path / "plays" / "two.txt").read_bytes() == TWO
    assert ASKED == ["/all.zip"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"all/1.txt": b"else"}, r"all\.zip, all/1\.txt: expected sha256"),
        ({"README": b"x"}, r"expected all/1\.txt, two\.txt in it, found none of that name"),
        ({"../../one.txt": ONE}, r"expected names inside the archive, found '\.\./\.\./one\.txt'"),
        ({"all/x": bytes(300_001)}, r"at most 300000 bytes in all, unpacked, found more"),
    ],
)
def test_a_wrong_archive_leaves_nothing(
    server: str, tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fetch(in_archive(server, archive_of(files)), tmp_path / "plays", show=quiet)
    assert everything(tmp_path) == []


def test_an_archive_with_another_digest_is_not_opened(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", None)
    plays = in_archive(server, b"PK\x03\x04 something else", "0" * 64)
    with pytest.raises(DataError, match=r"all\.zip: expected sha256 0000.*another edition"):
        fetch(plays, tmp_path / "plays", show=quiet)
    assert everything(tmp_path) == []


# ------------------------------------------------------------------- the command


def fetched(*words: str) -> object:
    """The exit status of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["fetch", *words])
    return ended.value.code


def test_the_command_says_where_it_lies_and_the_licence(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ANSWERS["/one.txt"] = ONE
    plays = known(file("one.txt", ONE, f"{server}/one.txt"))
    monkeypatch.setitem(KNOWN_SETS, "plays", replace(plays, licence="CC BY 4.0"))
    monkeypatch.chdir(tmp_path)
    assert fetched("plays") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "plays: Plays",
        "source: us",
        "licence: CC BY 4.0",
        "folder: data/plays",
        "data/plays/one.txt",
    ]
    assert Path("data/plays/one.txt").read_bytes() == ONE
    assert fetched("plays", "root=elsewhere") == 0
    assert Path("elsewhere/plays/one.txt").read_bytes() == ONE


def test_what_it_is_and_where_it_would_go_is_told_before_an_address_fails(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KNOWN_SETS, "plays", known(file("one.txt", ONE, f"{server}/none")))
    monkeypatch.chdir(tmp_path)
    assert fetched("plays") == 2
    out, err = capsys.readouterr()
    assert out == "plays: Plays\nsource: us\nlicence: free\nfolder: data/plays\n"
    assert err.startswith(f"hmoe fetch: {server}/none: does not answer")
    assert err.endswith("Try again, or put the file into data/plays yourself.\n")
    assert err.count("\n") == 1


def test_files_go_where_they_are_looked_for_below_the_home_folder(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ANSWERS.update({"/one.txt": ONE, "/all.zip": archive_of({"two.txt": TWO})})
    archive = Archive(url=f"{server}/all.zip", most=100_000, most_unpacked=300_000)
    files = file("one.txt", ONE, f"{server}/one.txt"), file("two.txt", TWO, None)
    monkeypatch.setitem(KNOWN_SETS, "plays", known(*files, archive=archive))
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert fetched("plays", "root='~/data'") == 0
    assert everything(home) == ["data/plays/one.txt", "data/plays/two.txt"]
    assert everything(here) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny_shakespear"], r"no such set\. Did you mean 'tiny_shakespeare'\? There are "),
        ([], r"NAME: 0 names given, 1 expected\. There are .*wikitext2"),
        (["wikitext2", "rot=x"], r"'rot' is not an option here; there are root"),
        (["wikitext2", "root=5"], r"root = 5: expected a folder\."),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetched(*words) == 2
    assert re.search(message, capsys.readouterr().err)
