"""Known sets: published files with digest, licence and address, read if they are what they were.

A set lies in one folder, its root, by default data/<name>, where `hmoe fetch <name>` puts it. A
file may be packed (input.txt.gz for input.txt): what counts is the digest of the content.
"""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hmoe.config import literal
from hmoe.data.archives import PACKINGS, read_packed
from hmoe.data.checks import data_error
from hmoe.errors import DataError

_ELSEWHERE = "Or name a folder that has it: data.root=/path/to/folder."


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """One published file.

    Attributes:
        name: below the root, without the ending of a packing.
        sha256: of the content, unpacked; of an archive (zip, tar) of the archive itself.
        size: bytes of that.
        url: where to have it, plain or packed; None if it comes with the set's archive.
        member: its name in the set's archive, where that is another.
    """

    name: str
    sha256: str
    size: int
    url: str | None = None
    member: str | None = None

    def below(self, root: str | Path) -> Path:
        """Where it lies, unpacked, in the folder of its set; a ~ in that is the home folder."""
        return Path(root).expanduser() / self.name


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive by which publishers hand out several files.

    Attributes:
        url: where to have it.
        most: bytes it may have at most, packed, and
        most_unpacked: the files in it together.
        sha256: its digest, where it is known; its files have digests in any case.
    """

    url: str
    most: int
    most_unpacked: int
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A published set of files.

    Attributes:
        name: as in `data=<name>` and `hmoe fetch <name>`.
        title: what it is, in a line.
        licence: what one may do with it.
        source: who published it.
        files: by name.
        archive: what the files without an address of their own are handed out in.
        advice: how to get it where no address is known, or what else to know.
    """

    name: str
    title: str
    licence: str
    source: str
    files: tuple[KnownFile, ...]
    archive: Archive | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        for file in self.files:
            assert file.url or self.archive or self.advice, f"{file.name}: from nowhere"
            assert not file.name.endswith(tuple(filter(None, PACKINGS))), f"{file.name}: packed"

    @property
    def fetchable(self) -> bool:
        """Whether `hmoe fetch` knows an address for every file."""
        return self.archive is not None or all(file.url for file in self.files)

    def remedy(self, root: str | Path, elsewhere: str = _ELSEWHERE) -> str:
        """How to get the set, in a message.

        Args:
            root: the folder that was looked into.
            elsewhere: how to name another folder, in the words of the command.
        """
        how = f"Get it with: {self._command(Path(root))}." if self.fetchable else ""
        addresses = [self.archive.url] if self.archive else [f.url for f in self.files if f.url]
        where = f"It is published at {addresses[0]}." if addresses else ""
        return " ".join(filter(None, (how, where, self.advice, elsewhere)))

    def read(self, root: str | Path, name: str) -> bytes:
        """Return the content of one of the files.

        Args:
            root: the folder of the set.
            name: of the file.

        Raises:
            DataError: it is not there, or is not the file that was published.
        """
        file = self._file(name)
        path = self.find(root, name)
        # `hmoe fetch` leaves a file that is there as it is.
        remedy = f"It is damaged, or another edition: delete it. {self.remedy(root, '')}"
        if path.name == file.name and path.stat().st_size != file.size:
            raise _another(path, file, *_digest_on_disk(path), remedy)  # however large it is
        content = read_packed(path, most=file.size, remedy=remedy)
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise _another(path, file, found, len(content), remedy)
        return content

    def find(self, root: str | Path, name: str, elsewhere: str = _ELSEWHERE) -> Path:
        """Return the path of one of the files, plain before packed; its content is not looked at.

        Args:
            root: the folder of the set.
            name: of the file.
            elsewhere: see `remedy`.

        Raises:
            DataError: it is not there.
        """
        file = self._file(name)
        plain = file.below(root)
        for ending in PACKINGS:
            path = plain.with_name(plain.name + ending)
            if path.is_file():
                return path
        expected = f"sha256 {file.sha256} ({file.size} bytes), plain or as .gz, .xz, .bz2"
        folder = Path(root).expanduser()
        lacking = [f for f in (*reversed(folder.parents), folder) if not f.is_dir()]
        found = f"no such folder: {lacking[0]}" if lacking else "nothing there"
        raise data_error(plain, expected, found, self.remedy(root, elsewhere))

    def digest(self) -> str:
        """SHA-256 of the names and digests of all files."""
        lines = sorted(f"{file.sha256}  {file.name}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _command(self, root: Path) -> str:
        """What to type; a fetch puts files below a folder of the name of the set alone."""
        fetch = f"hmoe fetch {self.name}"
        if root == Path("data", self.name):
            return fetch
        if root.name == self.name:
            return f"{fetch} {shlex.quote(f'root={literal(str(root.parent))}')}"
        return f"{fetch}, then leave data.root= out"

    def _file(self, name: str) -> KnownFile:
        files: Mapping[str, KnownFile] = {file.name: file for file in self.files}
        return files[name]


def _another(path: Path, file: KnownFile, sha256: str, size: int, remedy: str) -> DataError:
    expected = f"sha256 {file.sha256} ({file.size} bytes)"
    return data_error(path, expected, f"sha256 {sha256} ({size} bytes)", remedy)


def _digest_on_disk(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
