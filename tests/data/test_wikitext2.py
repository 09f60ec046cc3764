"""WikiText-2: articles found by hand, the published splits, the label of every byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hmoe.data import WikiText2
from hmoe.data.wikitext2 import articles
from hmoe.errors import DataError
from tests.made import made_sets, write_set


def make(root: Path) -> WikiText2:
    return WikiText2(root=str(root), batch_size=2, context=64, seed=0, eval_bytes=10**6)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with made_sets():
        yield write_set("wikitext2", tmp_path)


def test_an_article_goes_from_a_title_to_the_next() -> None:
    # A heading has more signs, a line that is set like a title has no empty line above.
    first = (
        b" \n = Du Fu = \n \n He was a poet .\n \n = = Life = = \n \n Long\n = Points ; A = \n x\n"
    )
    second = b" \n = Caf\xc3\xa9 = Bar = \n \n Nice .\n"
    assert articles(first + second) == [
        (0, "Du Fu", first[:-1]),
        (len(first) - 1, "Café = Bar", b"\n" + second),
    ]


def test_the_splits_are_the_published_files(root: Path) -> None:
    data = make(root)
    assert data.train_bytes.tobytes() == (root / "train.txt").read_bytes()
    for split, file in (("val", "valid.txt"), ("test", "test.txt")):
        content = (root / file).read_bytes()
        assert data.eval_bytes(split)[0].tobytes() == content[:65]
        assert data.eval_bytes(split).shape == ((len(content) - 1) // 64, 65)


def test_labels_are_titles_over_all_splits(root: Path) -> None:
    data = make(root)
    (titles,) = data.domain_names
    assert titles == (
        *("<unk> @-@ class battleship", "River"),
        *("Town 0", "Town 1", "Town 2", "Town 3"),
    )
    for split, title in (("val", "River"), ("test", "<unk> @-@ class battleship")):
        for batch in data.pass_over(split):
            assert set(batch["domain"].flatten().tolist()) == {titles.index(title)}


def test_a_missing_file_is_named(root: Path) -> None:
    (root / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"valid\.txt: expected .*hmoe fetch wikitext2"):
        make(root).setup()
