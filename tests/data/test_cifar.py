"""CIFAR: records of both sets by hand, names, and the archives as they are handed out."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.data import KNOWN_SETS, Cifar10, Cifar100
from hmoe.data.cifar import CLASSES_10, CLASSES_100, SUPERCLASSES_100
from hmoe.data.fetching import fetch
from hmoe.errors import ConfigError, DataError
from tests.made import MADE, made_sets, write_set

KINDS = {"cifar10": Cifar10, "cifar100": Cifar100}


def make(name: str, root: Path | str, **changes: Any) -> Cifar10 | Cifar100:
    given: dict[str, Any] = {"root": str(root), "batch_size": 4, "seed": 0, "val_share": 0.5}
    return KINDS[name](**(given | changes))


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        for name in KINDS:
            write_set(name, tmp_path)
        yield tmp_path


def test_names_go_by_the_alphabet() -> None:
    assert (len(CLASSES_10), len(CLASSES_100), len(set(CLASSES_100))) == (10, 100, 100)
    assert list(CLASSES_10) == sorted(CLASSES_10)
    assert list(SUPERCLASSES_100) == sorted(SUPERCLASSES_100)
    assert {len(names) for names in SUPERCLASSES_100.values()} == {5}
    # As published: 0 apple, 2 baby, 90 train, 99 worm.
    assert [CLASSES_100[n] for n in (0, 2, 90, 99)] == ["apple", "baby", "train", "worm"]


def test_a_record_of_cifar_10_by_hand(made: Path) -> None:
    """The label, then 1,024 bytes a colour; pixel 255 is 1 and 0 is -1."""
    data = make("cifar10", made / "cifar10")
    raw = np.frombuffer(MADE["cifar10"]()["test_batch.bin"], np.uint8).reshape(4, 3073)
    (batch,) = data.test_dataloader()
    assert batch["y"].tolist() == [0, 9, 0, 9]
    torch.testing.assert_close(batch["x"], torch.tensor(raw[:, 1:] / 255 * 2 - 1).float())
    assert (data.in_dim, data.out_dim) == (3072, 10)
    assert data.label_names == {"class": CLASSES_10}
    assert "domain" not in batch


def test_a_record_of_cifar_100_by_hand(made: Path) -> None:
    data = make("cifar100", made / "cifar100")
    raw = np.frombuffer(MADE["cifar100"]()["test.bin"], np.uint8).reshape(6, 3074)
    first = next(iter(data.test_dataloader()))
    torch.testing.assert_close(first["x"], torch.tensor(raw[:4, 2:] / 255 * 2 - 1).float())
    labels = data.labels(first)
    assert list(labels) == list(data.label_names) == ["superclass", "class"]
    named = {
        (data.label_names["superclass"][above], data.label_names["class"][y])
        for above, y in zip(labels["superclass"], labels["class"], strict=True)
    }
    assert named == {("fruit_and_vegetables", "apple"), ("vehicles_1", "train")}


@pytest.mark.parametrize("name", KINDS)
def test_validation_is_carved_from_all_training_files_by_class(made: Path, name: str) -> None:
    data = make(name, made / name)
    (*val,) = data.val_dataloader()
    assert sum(len(batch["y"]) for batch in val) == 10
    counts = torch.cat([batch["y"] for batch in val]).unique(return_counts=True)[1]
    assert counts.tolist() == [5, 5]
    for batch in val if name == "cifar100" else []:
        above = batch["domain"][:, 0]
        assert torch.equal(above == 4, batch["y"] == 0), "labels stay with their pictures"


@pytest.mark.parametrize("name", KINDS)
def test_sizes_are_known_and_shares_checked_without_a_look_at_files(name: str) -> None:
    assert make(name, "nowhere").in_dim == 3 * 32 * 32
    with pytest.raises(ConfigError, match=r"data\.val_share=1\.5"):
        make(name, "nowhere", val_share=1.5)


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz of files in folders."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, inner in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(inner)
            archive.addfile(member, io.BytesIO(inner))
    return content.getvalue()


@pytest.mark.parametrize("name", KINDS)
def test_an_archive_is_fetched_by_digest_and_its_files_read(tmp_path: Path, name: str) -> None:
    with made_sets():
        known, files = KNOWN_SETS[name], MADE[name]()
        assert known.archive is not None
        inside = {file.member or "": files[file.name] for file in known.files}
        content = packed({**inside, "elsewhere/readme.html": b"not asked for"})
        path = tmp_path / "made.tar.gz"
        path.write_bytes(content)
        sound = replace(
            known.archive,
            url=path.as_uri(),
            most=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        wrong = replace(known, archive=replace(sound, sha256="0" * 64))
        with pytest.raises(DataError, match=r"expected sha256 000.*another edition"):
            fetch(wrong, tmp_path / "wrong", show=lambda *_: None)
        assert not (tmp_path / "wrong").exists()
        found = fetch(replace(known, archive=sound), tmp_path / name, show=lambda *_: None)
        assert {file.name: file.read_bytes() for file in found} == files
        assert make(name, tmp_path / name).train_batch(0)["x"].shape == (4, 3072)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_was_changed_is_refused(made: Path, name: str) -> None:
    file = sorted((made / name).iterdir())[0]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{file.name}: expected sha256.*hmoe fetch {name}"):
        make(name, made / name).setup()
