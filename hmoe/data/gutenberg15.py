"""Gutenberg 15: fifteen books of nine authors, from Austen to Whitman.

The Natural Language Toolkit's selection from Project Gutenberg (edition of November 2008), in the
public domain: a zip of 3.8 MB with 10,524,058 bytes of text, Latin-1 and nearly all of it ASCII,
41 % of it the King James Bible. Macbeth begins

    [The Tragedie of Macbeth by William Shakespeare 1603]

so a window of 4 over "[The " gives x = 91 84 104 101 ("[The"), y = 84 104 101 32 ("The "), and
domain = (7, 13) (shakespeare, shakespeare-macbeth) at each place.

No split is published. The last 10 % of every book is for the test, the 10 % before for validation.
"""

from pathlib import PurePosixPath

from hmoe.data.archives import members
from hmoe.data.language import Piece
from hmoe.data.loader import Split
from hmoe.data.published_text import PublishedText
from hmoe.data.text import cut

FILE = "gutenberg.zip"
SHARES: dict[Split, float] = {"val": 0.1, "test": 0.1}
_MOST = 2**24


class Gutenberg15(PublishedText):
    """The books as bytes; domains are (author, book). See `PublishedText`."""

    known = "gutenberg15"
    domain_labels = ("author", "book")

    def _pieces(self) -> list[Piece]:
        archive = self._root / FILE
        books = dict(members(archive, self._read(FILE), most=_MOST))
        return [
            Piece(path, split, (book.partition("-")[0], book), part)
            for path in sorted(books)
            if path.endswith(".txt")  # the other is a README
            for book in [PurePosixPath(path).stem]
            for split, part in cut(books[path], SHARES)
        ]
