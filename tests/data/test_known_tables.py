"""Known tables: targets and inputs, widths, splits, and what is said of files not there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hmoe.config import build, compose
from hmoe.data import KnownTable
from hmoe.errors import ConfigError, DataError
from tests.made import made_sets, write_set
from tests.made.tables import BLOCKS


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield tmp_path


def known(name: str, root: Path) -> KnownTable:
    cfg = compose([f"data={name}", f"data.blocks={list(BLOCKS)}", "data.batch_size=2"])
    cfg.data.root = str(write_set(cfg.data.known, root))
    data: KnownTable = build(cfg.data)
    data.setup()
    return data


def test_the_census_has_two_targets_and_none_of_them_among_its_inputs(made: Path) -> None:
    data = known("census_income_kdd", made)
    assert data.target_names == ("income", "never_married")
    batch = next(iter(data.pass_over("val")))
    persons = [52, 53]  # the first after the training rows
    assert batch["y"].tolist() == [[n % 5 == 0, n % 3 != 0] for n in persons]
    columns = {name.partition("=")[0] for name in data.table.features}
    assert not columns & {"marital_stat", "income_50k", "instance_weight"}
    assert len(columns) == 39
    assert data.labels(batch)["sex"].tolist() == [1, 1]
    assert data.label_names["sex"] == ("Female", "Male")


def test_adult_reads_both_files_over_remark_and_empty_line(made: Path) -> None:
    data = known("adult", made)
    y = torch.cat([batch["y"] for batch in data.pass_over("test")])
    assert y[:, 0].tolist() == [n % 3 == 0 for n in range(64, 80)]


@pytest.mark.parametrize(
    ("name", "in_dim", "out_dim"),
    [("california_housing", 8, 1), ("covtype20k", 54, 7), ("letter", 16, 26), ("kin8nm", 8, 1)],
)
def test_widths_of_known_tables(name: str, in_dim: int, out_dim: int, made: Path) -> None:
    data = known(name, made)
    assert (data.in_dim, data.out_dim) == (in_dim, out_dim)
    rows = [batch["x"] for batch in data.pass_over("train")]
    assert torch.cat(rows).shape == (BLOCKS[0], in_dim)


def test_kin8nm_is_shuffled_as_the_usual_splits_are(made: Path) -> None:
    """np.random.seed(1), then np.random.choice(range(n), n, replace=False)."""
    _, rows, _ = known("kin8nm", made)._read()
    usual = np.random.RandomState(1).choice(range(80), 80, replace=False)
    assert np.concatenate([rows[s] for s in ("train", "val", "test")]).tolist() == usual.tolist()


def test_a_known_table_says_how_to_get_it(tmp_path: Path) -> None:
    data = build(compose(["data=letter", f"data.root={tmp_path}"]).data)
    with pytest.raises(DataError, match=r"nothing there\. Get it with: hmoe fetch letter"):
        data.setup()


def test_a_known_table_of_other_rows_is_refused(made: Path) -> None:
    root = write_set("letter", made)
    data = build(compose(["data=letter", "data.blocks=[1,2,3]", f"data.root={root}"]).data)
    with pytest.raises(DataError, match=r"expected 6 rows, as data\.blocks has them, found 80"):
        data.setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("known=leter", r"data\.known = leter: .* Did you mean 'letter'"),
        (
            "files=[letter-recognition.dat]",
            r"data\.files = letter-recognition\.dat: must be one of letter-recognition\.data, the "
            r"files of letter\. Did you mean 'letter-recognition\.data'",
        ),
        ("files=[]", r"data\.files = \[\]: must name some of letter-recognition\.data\."),
        (
            "blocks=[14000,6000]",
            r"data\.blocks = \[14000, 6000\]: must be three numbers of at least 1, the rows for "
            r"train, val, test\.",
        ),
        ("blocks=[]", r"data\.blocks = \[\]: must be three"),
        ("blocks=[-5000,24000,1000]", r"data\.blocks = \[-5000, 24000, 1000\]: must be three"),
    ],
)
def test_what_no_known_table_can_be_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(compose(["data=letter", f"data.{change}"]).data)
