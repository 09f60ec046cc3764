"""Hub: a folder on this machine stands for a set, so nothing is fetched here."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from hmoe.data import Hub
from hmoe.errors import ConfigError, DataError

ROWS = {
    "train": ["abc", "de\nf", "", "ünd"] * 10,
    "validation": ["val"] * 10,
    "test": ["test"] * 10,
}


def make(name: Path | str | None, **changes: Any) -> Hub:
    plain: dict[str, Any] = {"subset": None, "column": "text", "batch_size": 2, "context": 4}
    plain |= {"train": "train", "val": "validation", "test": "test"}
    plain |= {"vocabulary": None, "seed": 0, "eval_bytes": 1000}
    return Hub(name=None if name is None else str(name), **(plain | changes))


@pytest.fixture(params=["jsonl", "parquet"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, texts in ROWS.items():
        rows = [{"text": text, "number": n} for n, text in enumerate(texts)]
        if request.param == "jsonl":
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines)
        else:
            datasets.Dataset.from_list(rows).to_parquet(str(folder / f"{split}.parquet"))
    return folder


def test_a_column_is_text_a_line_a_row(folder: Path) -> None:
    data = make(folder)
    assert data.train_tokens.tobytes() == "".join(f"{row}\n" for row in ROWS["train"]).encode()
    assert data.eval_windows("val")[0].tobytes() == b"val\nv"
    assert data.eval_windows("test")[0].tobytes() == b"test\n"
    assert list(data.label_names) == ["byte"]


def test_a_part_of_a_split_stands_for_one_that_is_missing(folder: Path) -> None:
    data = make(folder, train="train[:50%]", val="train[50%:75%]")
    assert data.train_tokens.tobytes() == "abc\nde\nf\n\nünd\n".encode() * 5
    assert data.eval_windows("val")[0].tobytes() == b"abc\nd"
    assert data.digest != make(folder).digest


def test_what_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.column=txt: .* has .*Did you mean 'text'"):
        make(folder, column="txt").setup()
    with pytest.raises(ConfigError, match=r"data\.column=number: holds int, and text is expected"):
        make(folder, column="number").setup()
    with pytest.raises(DataError, match=r"split dev: cannot be loaded: .*dev.*Check data\.name"):
        make(folder, val="dev").setup()
    with pytest.raises(DataError, match=r"nowhere, split train: cannot be loaded"):
        make(folder.parent / "nowhere").setup()


def test_a_name_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"data\.name=null: must name a set of the Hub"):
        make(None)


def test_a_missing_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ConfigError, match=r"needs the library `datasets`: pip install 'hmoe\[hub\]"
    ):
        make("owner/set").setup()
