"""Tables: encoding by hand, laws of splits, what a schema and a file may not be."""

import ast
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hmoe.config import CONF, plain_values
from hmoe.data import TableData, Tabular
from hmoe.data.loader import Split
from hmoe.data.splits import split_by_hash, unit_hash
from hmoe.data.table_schema import Schema, Target
from hmoe.errors import ConfigError, DataError

FILE = """age,work,area,flag,part,pay,rich
10,farm,north,0,train,1.0,no
20,mill,south,1,train,2.0,yes
30,farm,south,0,train,3.0,no
?,mill,north,1,train,6.0,yes
50,sea,north,0,val,4.0,yes
40,,south,1,test,5.0,no
"""
SCHEMA = {"target": "pay", "kind": "regression", "numbers": ["age", "flag"], "categories": ["work"]}


def tabular(folder: Path, text: str = FILE, **changes: Any) -> Tabular:
    path = folder / "table.csv"
    path.write_text(text)
    options = {"schema": SCHEMA, "separator": ",", "missing": ["", "?"], "split": "part"}
    sizes = {"val_share": 0.1, "test_share": 0.2, "batch_size": 2, "seed": 0}
    return Tabular(**{"root": str(path), **options, **sizes, **changes})


def vectors(data: TableData, split: Split) -> torch.Tensor:
    """All rows of a split, as a model reads them."""
    return torch.cat([batch["x"] for batch in data.pass_over(split)])


# ------------------------------------------------------------------ by hand


def test_numbers_categories_and_targets_by_hand(tmp_path: Path) -> None:
    data = tabular(tmp_path)
    table = data.table
    # The ages 10, 20, 30 have mean 20 and deviation sqrt(200 / 3); the missing one counts as 20.
    assert table.features == ("age", "age=missing", "flag", "work=farm", "work=mill", "work=unseen")
    sd = np.sqrt(200 / 3)
    expected = [
        [-10 / sd, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 1, 0],
        [10 / sd, 0, 0, 1, 0, 0],
        [0, 1, 1, 0, 1, 0],
    ]
    np.testing.assert_allclose(vectors(data, "train"), expected, rtol=1e-6)
    # The sea and an empty cell are no value of a training row; a flag of 0 and 1 stays.
    np.testing.assert_allclose(vectors(data, "val"), [[30 / sd, 0, 0, 0, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(vectors(data, "test"), [[20 / sd, 0, 1, 0, 0, 1]], rtol=1e-6)
    # 1, 2, 3, 6 have mean 3 and deviation sqrt(14 / 4).
    np.testing.assert_allclose(table.sd, [np.sqrt(3.5)])
    np.testing.assert_allclose(table.y["val"], [[1 / np.sqrt(3.5)]], rtol=1e-6)


def test_a_missing_category_is_a_value_of_its_own(tmp_path: Path) -> None:
    text = FILE.replace("30,farm", "30,")
    data = tabular(tmp_path, text)
    assert data.table.features[3:] == ("work=farm", "work=mill", "work=missing", "work=unseen")
    assert vectors(data, "train")[2, 3:].tolist() == [0, 0, 1, 0]
    assert vectors(data, "test")[0, 3:].tolist() == [0, 0, 1, 0]


def test_classes_are_numbered_along_their_sorted_names(tmp_path: Path) -> None:
    schema = {"target": "area", "kind": "classification", "numbers": ["pay"], "domains": ["flag"]}
    data = tabular(tmp_path, schema=schema)
    data.setup()
    assert data.out_dim == 2
    assert data.label_names == {"flag": ("0", "1"), "class": ("north", "south")}
    batch = next(iter(data.pass_over("test")))
    assert batch["y"].tolist() == [1]
    assert data.labels(batch)["flag"].tolist() == [1]
    assert data.labels(batch)["class"].tolist() == [1]


@pytest.mark.parametrize(
    "target", ["rich", {"rich": {"column": "rich", "positive": "yes"}}], ids=["words", "told"]
)
def test_yes_is_one(target: Any, tmp_path: Path) -> None:
    data = tabular(tmp_path, schema={**SCHEMA, "kind": "yes_or_no", "target": target})
    assert data.target_names == ("rich",)
    assert data.table.y["train"].tolist() == [[0], [1], [0], [1]]


def test_of_several_columns_a_label_is_the_one_that_is_not_zero(tmp_path: Path) -> None:
    text = "a,b,pay,part\n1,0,1,train\n0,1,2,train\n0,0,3,val\n1,0,4,test\n"
    schema = {"target": "pay", "kind": "regression", "numbers": ["a", "b"]}
    table = tabular(tmp_path, text, schema={**schema, "domains": {"place": ["a", "b"]}}).table
    assert table.domain_names == (("a", "b", "none"),)
    assert [table.domain[s].tolist() for s in ("train", "val", "test")] == [
        [[0], [1]],
        [[2]],
        [[0]],
    ]


def test_parquet_and_csv_are_the_same_table(tmp_path: Path) -> None:
    import pandas as pd

    csv = tabular(tmp_path)
    frame = pd.read_csv(tmp_path / "table.csv", na_values=["?"])
    frame.to_parquet(tmp_path / "table.parquet")
    parquet = tabular(tmp_path, root=str(tmp_path / "table.parquet"))
    assert csv.table.features == parquet.table.features
    assert csv.digest == parquet.digest


def test_hmoe_can_be_imported_without_pandas() -> None:
    for path in (CONF.parent / "hmoe").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"pandas", "pyarrow"}, path


# ------------------------------------------------------------------ splits


def test_the_hash_is_splitmix64() -> None:
    """Its published first outputs from seed 0, as fractions of 2^64."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    np.testing.assert_allclose(unit_hash(np.arange(3)), np.array(published) / 2.0**64, rtol=1e-15)


def test_rows_stay_in_their_split_when_others_are_appended() -> None:
    small = split_by_hash(1000, val_share=0.1, test_share=0.2)
    large = split_by_hash(5000, val_share=0.1, test_share=0.2)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert set(small[split]) == {row for row in large[split] if row < 1000}
        assert len(large[split]) / 5000 == pytest.approx(share, abs=0.02)
    assert sorted(np.concatenate(list(large.values()))) == list(range(5000))


def test_a_digest_knows_the_values(tmp_path: Path) -> None:
    one = tabular(tmp_path).digest
    assert tabular(tmp_path).digest == one
    assert tabular(tmp_path, FILE.replace("5.0,no", "5.5,no")).digest != one


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": ["agee"]}, r"a column 'agee', found only age, .* Did you mean 'age'"),
        (
            {"numbers": ["work"], "categories": []},
            r"a number in column 'work', found 'farm' in row 1\..* categories",
        ),
        ({"target": "area"}, "a number in column 'area', found 'north' in row 1"),
        (
            {"target": "age", "numbers": ["flag"]},
            "a target in column 'age', found nothing in row 4",
        ),
        (
            {"target": "work", "kind": "classification", "categories": []},
            r"twice or more in column 'work', found 'missing' once|found nothing in row 6",
        ),
        (
            {"target": "area", "kind": "yes_or_no"},
            r"yes or no .* found 'north' in row 1\. Say what",
        ),
        (
            {"target": {"a": {"column": "area", "positive": "est"}}, "kind": "yes_or_no"},
            r"target 'a', found no alone\. The values of 'area' are north, south\.",
        ),
    ],
)
def test_a_file_that_is_not_as_the_schema_says_is_refused(
    change: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        tabular(tmp_path, schema={**SCHEMA, **change}).setup()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("sea", "farm").replace("40,,", "40,farm,"), None),
        (
            FILE.replace("40,,", "40,farm,"),
            "twice or more in column 'work', found 'sea' once in row 5",
        ),
        (
            FILE.replace("40,,", "40,sea,"),
            "in some training row in column 'work', found 'sea' in others alone in row 5",
        ),
    ],
)
def test_a_class_that_cannot_be_learnt_is_refused(
    text: str, message: str | None, tmp_path: Path
) -> None:
    schema = {"target": "work", "kind": "classification", "numbers": ["pay"]}
    data = tabular(tmp_path, text, schema=schema)
    if message is None:
        assert data.table.classes == ("farm", "mill")
        return
    with pytest.raises(DataError, match=message):
        data.setup()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "parts"}, "a column 'parts', found none.*Did you mean 'part'"),
        ({"split": "area"}, r"train, val or test in 'area', found 'north' in row 1\."),
        ({"root": "table.cvs"}, "expected a CSV or Parquet file, found nothing there"),
    ],
)
def test_what_else_a_file_may_not_be(
    changes: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        tabular(tmp_path, **changes).setup()


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a CSV or Parquet file, found a folder\. Name"):
        tabular(tmp_path, root=str(tmp_path))


@pytest.mark.parametrize(
    ("given", "written"), [(";", ";"), ("\t", r"\t"), ("|", "|")], ids=["semicolon", "tab", "bar"]
)
@pytest.mark.parametrize("decimal", [".", ","])
def test_another_separator_is_told_and_is_read_as_advised(
    given: str, written: str, decimal: str, tmp_path: Path
) -> None:
    text = FILE.replace(",", given)
    with pytest.raises(DataError, match="expected several columns, found one, 'age") as told:
        tabular(tmp_path, text.replace(".", decimal)).setup()
    remedy = f"'data.separator=\"{written}\"'"
    assert str(told.value).endswith(f"Give the separator of the file: {remedy}.")
    (typed,) = shlex.split(remedy)
    options = plain_values([typed.removeprefix("data.")], {"separator": ","})
    assert tabular(tmp_path, text, **options).digest == tabular(tmp_path).digest


@pytest.mark.parametrize(("row", "cells"), [("30,farm,south", 3), ("30,farm,south,0,train,3.0", 6)])
def test_a_row_with_too_few_cells_is_told_whether_its_target_is_there_or_not(
    row: str, cells: int, tmp_path: Path
) -> None:
    text = FILE.replace("30,farm,south,0,train,3.0,no", f"\n{row}")
    message = rf"as columns, found {cells} of 7 cells in row 3\. Complete"
    with pytest.raises(DataError, match=message):
        tabular(tmp_path, text).setup()


def test_an_empty_target_in_a_whole_row_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a target in column 'pay', found nothing in row 3"):
        tabular(tmp_path, FILE.replace("3.0", "")).setup()


def test_a_file_without_rows_for_a_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows for val, found none"):
        tabular(tmp_path, FILE.replace("val", "train")).setup()


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a table, found"):
        tabular(tmp_path, 'a,b\n1,2\n"1,2\n').setup()


@pytest.mark.parametrize(
    ("text", "separator"),
    [("a,b\n1,5,2,5\n3,5,4,5\n", ","), ("a::b\n1::5::2\n3::5::4\n", "::")],
    ids=["decimal commas", "a wide separator"],
)
def test_cells_beyond_the_last_column_are_not_left_out(
    text: str, separator: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"table\.csv: expected as many cells in a row as columns"):
        tabular(tmp_path, text, separator=separator).setup()


@pytest.mark.parametrize("separator", ["::", "§", r"\s+"])
def test_separators_that_are_no_single_byte_are_read(separator: str, tmp_path: Path) -> None:
    text = FILE.replace("40,,", "40,?,").replace(",", " " if separator == r"\s+" else separator)
    found = tabular(tmp_path, text, separator=separator)
    assert found.digest == tabular(tmp_path).digest


def test_a_separator_at_the_end_of_every_line_is_no_cell(tmp_path: Path) -> None:
    head, *rows = FILE.splitlines()
    text = "\n".join([head, *(f"{row}," for row in rows)])
    assert tabular(tmp_path, text).digest == tabular(tmp_path).digest


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, r"data\.schema=null: must be given, as in data\.schema=\{target"),
        ({"targets": "a"}, r"has 'targets': must be one of .* Did you mean 'target'"),
        ({"target": "a", "kind": "regresion"}, r"kind = regresion: .* Did you mean 'regression'"),
        ({"kind": "regression", "numbers": ["a"]}, "target = None: must name a column"),
        ({"target": "a", "kind": "regression"}, "has no inputs"),
        ({"target": "a", "kind": "regression", "numbers": ["a"]}, "the answer would be told"),
        ({"target": "a", "kind": "regression", "numbers": ["b", "b"]}, "has 'b' twice"),
        ({"target": ["a", "b"], "kind": "classification", "numbers": ["c"]}, "has 2 columns"),
        ({"target": "a", "kind": "regression", "numbers": [1]}, r"numbers = \[1\]: must be"),
        (
            {"target": {"a": {"column": "b"}}, "kind": "yes_or_no", "numbers": ["c"]},
            r"target\.a = .*: must be \{column",
        ),
        (
            {
                "target": {"a": {"column": "b", "positive": 1}},
                "kind": "regression",
                "numbers": ["c"],
            },
            "a mapping is for kind: yes_or_no",
        ),
    ],
)
def test_a_schema_that_is_none_is_refused(said: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Schema.parse(said)


def test_a_schema_reads_one_name_as_a_list_of_one() -> None:
    said = {"target": "a", "kind": "regression", "numbers": "b", "domains": "c"}
    schema = Schema.parse(said)
    assert schema.targets == (Target("a", "a"),)
    assert schema.numbers == ("b",)
    assert schema.domains == {"c": ("c",)}
    assert schema.columns == ("a", "b", "c")
