"""Gutenberg 15: every book is cut, and its bytes are labelled by author and book."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hmoe.data import Gutenberg15
from tests.made import made_sets, write_set
from tests.made.texts import BOOKS


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Gutenberg15]:
    with made_sets():
        root = write_set("gutenberg15", tmp_path)
        yield Gutenberg15(
            root=str(root), batch_size=2, context=16, vocabulary=None, seed=0, eval_bytes=10**6
        )


def test_of_every_book_the_last_tenth_is_the_test_and_the_one_before_validates(
    data: Gutenberg15,
) -> None:
    books = {
        name: (f"[{name}]\n" + f"A line of {name}, \xe6.\n" * 100).encode("latin-1")
        for name in BOOKS
    }
    parts: dict[str, list[bytes]] = {"train": [], "val": [], "test": []}
    for name in BOOKS:
        tenth = round(0.1 * len(books[name]))
        parts["train"].append(books[name][: -2 * tenth])
        parts["val"].append(books[name][-2 * tenth : -tenth])
        parts["test"].append(books[name][-tenth:])
    assert data.train_tokens.tobytes() == b"".join(parts["train"])
    for split in ("val", "test"):
        pieces = [piece.content for piece in data._pieces() if piece.split == split]
        assert pieces == parts[split]


def test_labels_are_author_and_book_and_the_readme_is_no_book(data: Gutenberg15) -> None:
    data.setup()
    assert data.domain_names == (("austen", "blake"), ("austen-emma", "blake-poems", "blake-songs"))
    for batch in data.val_dataloader():
        for author, book in batch["domain"].reshape(-1, 2).tolist():
            assert author == (book > 0)
