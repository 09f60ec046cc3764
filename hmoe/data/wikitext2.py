"""WikiText-2: 720 good and featured articles of the English Wikipedia, words set apart by blanks.

Merity et al. (2016), "Pointer sentinel mixture models", CC BY-SA 3.0: 13,175,278 bytes of UTF-8 in
three files, the published splits of 600, 60 and 60 whole articles. Words that occur less than three
times are written <unk>, and "@-@" is a hyphen inside a word, so bits per byte are not those of
plain prose. The training file begins

     = Valkyria Chronicles III =

     Senjō no Valkyria 3 : <unk> Chronicles ( Japanese : ..

so a window of 4 over "lkyri" gives x = 108 107 121 114 ("lkyr"), y = 107 121 114 105 ("kyri"), and
domain = (648,) (Valkyria Chronicles III) at each place. No article is in two splits; articles whose
titles are the same once rare words are gone share a label.
"""

import re

from hmoe.data.byte_language import Piece
from hmoe.data.loader import Split
from hmoe.data.published_text import PublishedText

FILES: dict[Split, str] = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
# A title has an empty line above and below; a heading in an article has more signs of equality.
_TITLE = re.compile(rb"(?:\A|\n) \n = ([^=\n][^\n]*) = \n(?= \n)")


class WikiText2(PublishedText):
    """The articles as bytes; the domain of a byte is the title of its article.

    See `PublishedText`.
    """

    known = "wikitext2"
    domain_labels = ("article",)

    def _pieces(self) -> list[Piece]:
        return [
            Piece(f"{file}:{start}", split, (title,), text)
            for split, file in FILES.items()
            for start, title, text in articles(self._read(file))
        ]


def articles(content: bytes) -> list[tuple[int, str, bytes]]:
    """Return (first byte, title, text) of each article; together they are all of the content."""
    heads = list(_TITLE.finditer(content))
    starts = [0, *(head.start() for head in heads[1:])]
    return [
        (start, head[1].decode(), content[start:stop])
        for start, stop, head in zip(starts, [*starts[1:], len(content)], heads, strict=True)
    ]
