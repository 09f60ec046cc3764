"""Tiny Shakespeare: speeches found by hand, a split that is exact to the byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hmoe.data import TinyShakespeare
from hmoe.data.tiny_shakespeare import speeches
from hmoe.errors import DataError
from tests.made import made_sets, write_set


def make(root: Path, eval_bytes: int = 4096) -> TinyShakespeare:
    return TinyShakespeare(root=str(root), batch_size=2, context=64, seed=0, eval_bytes=eval_bytes)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield write_set("tiny_shakespeare", tmp_path)


def test_a_speech_goes_from_a_name_to_the_next() -> None:
    # The third name has no words, the fourth begins after two empty lines, and "hear:" is no name.
    content = b"All:\nSpeak.\n\nROMEO:\nOh\nhear:\nme\n\nTITUS:\n\n\nFirst Lord:\nNo."
    found = [(content[start:stop], speaker) for start, stop, speaker in speeches(content)]
    assert found == [
        (b"All:\nSpeak.\n\n", "All"),
        (b"ROMEO:\nOh\nhear:\nme\n\n", "ROMEO"),
        (b"TITUS:\n\n\n", "TITUS"),
        (b"First Lord:\nNo.", "First Lord"),
    ]


def test_the_first_nine_tenths_train_and_the_rest_is_halved(root: Path) -> None:
    content = (root / "input.txt").read_bytes()
    data = make(root, eval_bytes=10**6)
    tenth = round(0.05 * len(content))
    val, test = content[-2 * tenth : -tenth], content[-tenth:]
    assert data.train_bytes.tobytes() == content[: -2 * tenth]
    assert data.eval_bytes("val")[0].tobytes() == val[:65]
    assert data.eval_bytes("test")[0].tobytes() == test[:65]
    pieces = data._pieces()
    assert b"".join(piece.content for piece in pieces) == content
    assert len({piece.path for piece in pieces}) == len(pieces)


def test_the_label_of_a_byte_is_its_speaker(root: Path) -> None:
    data = make(root)
    (speakers,) = data.domain_names
    assert speakers == ("All", "First Citizen", "Ghost of King Henry VI", "ROMEO")
    content = (root / "input.txt").read_bytes()
    speaker_of = [name for start, stop, name in speeches(content) for _ in range(start, stop)]
    assert len(speaker_of) == len(content)
    (batch,) = data.val_dataloader().spread(2)
    for x, domain in zip(batch["x"], batch["domain"], strict=True):
        place = content.index(bytes(x.tolist()))  # speeches are numbered, so there is one
        said = [speakers[number] for number in domain[:, 0].tolist()]
        assert said == speaker_of[place : place + 64]
        assert len(set(said)) > 1


def test_another_file_and_a_missing_one_are_refused(root: Path) -> None:
    with (root / "input.txt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"input\.txt: expected sha256 .*damaged, or another"):
        make(root).setup()
    (root / "input.txt").unlink()
    with pytest.raises(DataError, match=r"nothing there.*hmoe fetch tiny_shakespeare"):
        make(root).setup()


def test_windows_have_the_labels_of_what_is_read(root: Path) -> None:
    batch = next(iter(make(root).val_dataloader()))
    assert batch["x"].shape == batch["y"].shape == (2, 64)
    assert batch["domain"].shape == (2, 64, 1)
    assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])
