"""Text: windows worked out by hand, splits that are disjoint, domains that tell the file."""

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.data import Language, Text
from hmoe.data.text import cut, whole_file_splits
from hmoe.errors import ConfigError, DataError

HUNDRED = bytes(range(100))


def make(folder: Path, **changes: Any) -> Text:
    given: dict[str, Any] = {"root": str(folder), "suffixes": None, "batch_size": 3}
    given |= {
        "context": 4,
        "vocabulary": None,
        "seed": 0,
        "val_share": 0.1,
        "test_share": 0.1,
        "eval_bytes": 1000,
    }
    return Text(**(given | changes))


def write(root: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def letters(root: Path, count: int) -> Path:
    """Write files of one letter each, half of them in each of two folders."""
    for number in range(count):
        write(root, **{f"{'ab'[number % 2]}__{number:02}": bytes([65 + number]) * 50})
    return root


def bytes_of(data: Language) -> dict[str, np.ndarray]:
    return {
        "train": data.train_tokens,
        "val": data.eval_windows("val"),
        "test": data.eval_windows("test"),
    }


def test_a_file_of_100_bytes_gives_these_windows(tmp_path: Path) -> None:
    # Training is bytes 0 to 79, validation 80 to 89, test 90 to 99. Of the 10 bytes of a split the
    # first is never predicted; 9 // 4 = 2 windows fit, and begin at 0 * 9 // 2 and 1 * 9 // 2.
    (tmp_path / "file").write_bytes(HUNDRED)
    data = make(tmp_path / "file")
    assert data.train_tokens.tolist() == list(range(80))
    assert data.eval_windows("val").tolist() == [[80, 81, 82, 83, 84], [84, 85, 86, 87, 88]]
    assert data.eval_windows("test").tolist() == [[90, 91, 92, 93, 94], [94, 95, 96, 97, 98]]
    (batch,) = data.val_dataloader()
    assert batch["x"].tolist() == [[80, 81, 82, 83], [84, 85, 86, 87]]
    assert batch["y"].tolist() == [[81, 82, 83, 84], [85, 86, 87, 88]]
    assert set(batch) == {"x", "y"}  # one file: no domain
    assert data.domain_names == ()


def test_the_cap_leaves_windows_evenly_spaced(tmp_path: Path) -> None:
    # 79 bytes can be predicted; a cap of 14 leaves 14 // 4 = 3 windows, at 0, 79 // 3, 158 // 3.
    (tmp_path / "file").write_bytes(HUNDRED)
    data = make(tmp_path / "file", val_share=0.8, eval_bytes=14)
    assert data.eval_windows("val")[:, 0].tolist() == [10, 10 + 26, 10 + 52]


@pytest.mark.parametrize("size", [50, 51, 127, 1000])
@pytest.mark.parametrize("eval_bytes", [4, 9, 30, 1000])
def test_evaluation_windows_never_overlap_and_stay_inside(
    tmp_path: Path, size: int, eval_bytes: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    data = make(tmp_path / "file", val_share=0.4, test_share=0.4, eval_bytes=eval_bytes)
    starts = data._eval_starts("val")
    num_bytes = round(0.4 * size)
    assert (starts.diff() >= 4).all()
    assert starts[0] == 0
    assert starts[-1] + 5 <= num_bytes
    assert len(starts) == min(num_bytes - 1, eval_bytes) // 4


def test_cut_is_training_then_validation_then_test() -> None:
    parts = cut(HUNDRED, {"val": 0.2, "test": 0.3})
    assert parts == [("train", HUNDRED[:50]), ("val", HUNDRED[50:70]), ("test", HUNDRED[70:])]


@pytest.mark.parametrize("size", range(12))
def test_cut_loses_and_doubles_nothing(size: int) -> None:
    parts = cut(HUNDRED[:size], {"val": 0.51, "test": 0.48})
    assert b"".join(content for _, content in parts) == HUNDRED[:size]


def test_y_is_x_shifted_by_one_byte(tmp_path: Path) -> None:
    data = make(letters(tmp_path, 12))
    for batch in (*islice(data.train_dataloader(), 5), *data.val_dataloader()):
        assert torch.equal(batch["x"][:, 1:], batch["y"][:, :-1])
        assert batch["x"].dtype == batch["y"].dtype == batch["domain"].dtype == torch.int64


def test_eval_windows_are_what_the_loader_predicts(tmp_path: Path) -> None:
    data = make(letters(tmp_path, 20))
    for windows, loader in (
        (data.eval_windows("val"), data.val_dataloader()),
        (data.eval_windows("test"), data.test_dataloader()),
    ):
        x, y = (torch.cat([batch[key] for batch in loader]).numpy() for key in "xy")
        assert np.array_equal(x, windows[:, :-1])
        assert np.array_equal(y, windows[:, 1:])


def test_the_training_stream_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    root = letters(tmp_path, 20)
    one, again, other = make(root), make(root), make(root, seed=1)
    for step in (0, 5, 3):
        assert torch.equal(one.train_batch(step)["x"], again.train_batch(step)["x"])
    assert not torch.equal(one.train_batch(0)["x"], other.train_batch(0)["x"])
    assert not torch.equal(one.train_batch(0)["x"], one.train_batch(1)["x"])
    assert one.digest == other.digest
    assert np.array_equal(one.eval_windows("val"), other.eval_windows("val"))


def test_training_windows_start_anywhere_and_only_in_training_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(HUNDRED)
    data = make(tmp_path / "file", batch_size=4000)
    starts = data.train_batch(0)["x"][:, 0]
    assert sorted(starts.unique().tolist()) == list(range(76))  # 75 + 4 = 79, the last
    counts = starts.bincount()  # 4000 / 76 = 53 expected of each, standard deviation 7
    assert 20 < counts.min() <= counts.max() < 90


def test_ten_files_of_one_size_are_split_by_file(tmp_path: Path) -> None:
    data = make(letters(tmp_path, 10))
    kinds = {split: set(content.reshape(-1).tolist()) for split, content in bytes_of(data).items()}
    assert [len(kinds[split]) for split in ("train", "val", "test")] == [8, 1, 1]
    assert set().union(*kinds.values()) == set(range(65, 75))


def test_nine_files_are_each_cut(tmp_path: Path) -> None:
    data = make(letters(tmp_path, 9), eval_bytes=10**6, context=2)
    for content in bytes_of(data).values():
        assert set(content.reshape(-1).tolist()) == set(range(65, 74))


def test_a_file_too_large_for_a_share_stays_in_training() -> None:
    sizes = {f"{number}": 10 for number in range(50)} | {"large": 1000}
    splits = whole_file_splits(sizes, {"val": 0.1, "test": 0.1})
    assert splits is not None
    assert splits["large"] == "train"
    sums = {split: sum(10 for path in splits if splits[path] == split) for split in ("val", "test")}
    assert sums == {"val": 150, "test": 150}  # a tenth of 1500 each


def test_files_too_uneven_to_share_out_are_cut_instead() -> None:
    assert whole_file_splits({f"{n}": 4**n for n in range(12)}, {"val": 0.1, "test": 0.1}) is None


def test_domains_are_folder_and_file_of_each_byte(tmp_path: Path) -> None:
    data = make(letters(tmp_path, 12))
    folders, files = data.domain_names
    assert folders == ("a", "b")
    assert files == tuple(sorted(f"{'ab'[n % 2]}/{n:02}" for n in range(12)))
    for batch in (*islice(data.train_dataloader(), 20), *data.val_dataloader()):
        for byte, (folder, file) in zip(
            batch["x"].reshape(-1).tolist(), batch["domain"].reshape(-1, 2).tolist(), strict=True
        ):
            assert files[file] == f"{folders[folder]}/{byte - 65:02}"


def test_a_file_outside_all_folders_is_in_the_folder_dot(tmp_path: Path) -> None:
    data = make(write(tmp_path, a__x=HUNDRED, y=HUNDRED))
    assert data.domain_names == ((".", "a"), ("a/x", "y"))


def test_files_follow_one_another_by_path(tmp_path: Path) -> None:
    data = make(write(tmp_path, b=b"b" * 50, a__z=b"z" * 50, a__y=b"y" * 50))
    assert data.train_tokens.tobytes() == b"y" * 40 + b"z" * 40 + b"b" * 40


def test_hidden_empty_and_binary_files_are_left_out(tmp_path: Path) -> None:
    root = write(tmp_path, good=HUNDRED, empty=b"", binary=b"\xff\xfe" * 50, sub__fine=HUNDRED)
    write(root, **{".hidden": HUNDRED, ".git__config": HUNDRED})
    assert make(root).domain_names[1] == ("good", "sub/fine")


def test_suffixes_choose_the_files(tmp_path: Path) -> None:
    root = write(tmp_path, **{"a.txt": HUNDRED, "b.md": HUNDRED, "c.py": HUNDRED})
    assert make(root, suffixes=[".txt", ".md"]).domain_names[1] == ("a.txt", "b.md")


def test_digest_changes_with_a_byte_a_name_or_the_split(tmp_path: Path) -> None:
    root = letters(tmp_path, 20)
    digests = [make(root).digest, make(root, test_share=0.2).digest]
    write(root, a__00=b"B" * 50)
    digests.append(make(root).digest)
    (root / "a" / "00").rename(root / "a" / "000")
    digests.append(make(root).digest)
    assert len(set(digests)) == 4
    assert make(root).digest == digests[-1]


def test_domain_numbers_do_not_depend_on_the_split(tmp_path: Path) -> None:
    root = letters(tmp_path, 20)
    one, other = make(root), make(root, val_share=0.3)
    assert one.domain_names == other.domain_names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0: must be at least 1"),
        ({"context": 1}, r"data\.context=1: must be at least 2"),
        ({"eval_bytes": 3}, r"data\.eval_bytes=3: must be at least data\.context=4"),
        ({"val_share": -0.1}, r"data\.val_share=-0\.1: must be more than 0"),
        ({"val_share": 0.5, "test_share": 0.5}, r"the sum must be less than 1"),
        ({"suffixes": ["txt"]}, r"data\.suffixes=\['txt'\]: 'txt' must begin with a dot"),
        ({"root": None}, r"data\.root=null: must name a text file or a folder.*data\.root=/path"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, **changes)


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected a text file.*nothing there"):
        make(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected at least one non-empty UTF-8 file, found none"):
        make(tmp_path).setup()
    (tmp_path / "packed").write_bytes(gzip.compress(HUNDRED))
    with pytest.raises(DataError, match=r"packed: expected at least.*Unpack compressed text"):
        make(tmp_path / "packed").setup()
    (tmp_path / "small").write_bytes(HUNDRED[:40])
    with pytest.raises(DataError, match=r"small: expected more than data\.context=4.*val.*found 4"):
        make(tmp_path / "small").setup()
    with pytest.raises(DataError, match=r"whose name ends in \('\.md',\), found none"):
        make(tmp_path, suffixes=[".md"]).setup()


def test_labels_are_folder_file_and_byte(tmp_path: Path) -> None:
    data = make(write(tmp_path, a__x=b"A b\n" * 50, y=b"\xc3\xa9" * 100))
    names = data.label_names
    assert list(names) == ["folder", "file", "byte"]
    assert [names["byte"][byte] for byte in b"A \n\\'\xc3"] == [
        "A",
        "space",
        "\\n",
        "\\",
        "'",
        "\\xc3",
    ]
    for batch in data.val_dataloader():
        labels = data.labels(batch)
        assert torch.equal(labels["byte"], batch["x"].flatten())
        assert torch.equal(labels["file"], batch["domain"][..., 1].flatten())
        for byte, file in zip(labels["byte"].tolist(), labels["file"].tolist(), strict=True):
            assert (names["file"][file] == "y") == (byte in b"\xc3\xa9")


def test_one_file_has_bytes_and_no_domains(tmp_path: Path) -> None:
    data = make(write(tmp_path, y=HUNDRED))
    assert list(data.label_names) == ["byte"]
    assert set(data.labels(next(iter(data.val_dataloader())))) == {"byte"}
