"""UDHR: articles by hand, the same ones held out in all languages, labels of each byte."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmoe.data import Udhr
from hmoe.data.udhr import articles, split_of
from tests.made import made_sets, write_set


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Udhr]:
    with made_sets():
        root = write_set("udhr", tmp_path)
        yield Udhr(
            root=str(root), batch_size=2, context=16, vocabulary=None, seed=0, eval_bytes=10**6
        )


def test_an_article_is_its_paragraphs_a_line_each() -> None:
    space = 'xmlns="http://efele.net/udhr"'
    text = (
        f"<udhr {space}><preamble><para>no</para></preamble><article number='2'><title>no</title>"
        "<para> Tous\n</para><orderedlist><listitem><para>1<sup>er</sup> é</para></listitem>"
        "</orderedlist></article></udhr>"
    )
    assert articles(text.encode()) == {2: "Tous\n1er é\n".encode()}


def test_every_fifth_article_is_the_test_and_the_one_before_validates() -> None:
    assert [n for n in range(1, 31) if split_of(n) == "test"] == [5, 10, 15, 20, 25, 30]
    assert [n for n in range(1, 31) if split_of(n) == "val"] == [4, 9, 14, 19, 24, 29]


def test_only_complete_translations_of_a_known_family_count(data: Udhr) -> None:
    pieces = data._pieces()
    assert Counter(piece.domain for piece in pieces) == {
        ("Indo-European", 'In "eng [eng]'): 30,
        ("Uralic", 'In "fin [fin]'): 30,
    }
    assert Counter(piece.split for piece in pieces) == {"train": 36, "val": 12, "test": 12}
    assert pieces[3].content == "Artículo 4 eng.\nEveryone has a right, 4.\n".encode()
    assert (pieces[3].path, pieces[3].split) == ("udhr_eng.xml:04", "val")


def test_bytes_are_labelled_by_family_and_language(data: Udhr) -> None:
    data.setup()
    assert data.domain_names == (
        ("Indo-European", "Uralic"),
        ('In "eng [eng]', 'In "fin [fin]'),
    )
    for batch in data.test_dataloader():
        for family, language in batch["domain"].reshape(-1, 2).tolist():
            assert family == language
