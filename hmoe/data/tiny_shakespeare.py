"""Tiny Shakespeare: a megabyte of plays, the first text that most language models are shown.

Andrej Karpathy's selection (char-rnn, 2015) of Shakespeare's plays: one file of 1,115,394 bytes,
ASCII, 65 kinds of them, 7,222 speeches of 309 speakers. The text is in the public domain, the
repository that publishes it under the MIT licence. It begins

    First Citizen:
    Before we proceed any further, hear me speak.

so a window of 4 over "First" gives x = 70 105 114 115 ("Firs"), y = 105 114 115 116 ("irst"), and
domain = (62,) (First Citizen) at each place. The name is part of the speech that follows it.

No split is published. Usual is the first 90 % for training and the rest to validate on; here that
rest is halved, into validation and then test, so a score on either is of half as many bytes as
those that others report.
"""

import re

from hmoe.data.byte_language import Piece
from hmoe.data.loader import Split
from hmoe.data.published_text import PublishedText
from hmoe.data.text import cut

FILE = "input.txt"
SHARES: dict[Split, float] = {"val": 0.05, "test": 0.05}
_SPEAKER = re.compile(rb"(?:\A|\n\n+)([^\n]+):(?=\n|\Z)")


class TinyShakespeare(PublishedText):
    """The plays as bytes; the domain of a byte is who speaks. See `PublishedText`."""

    known = "tiny_shakespeare"
    domain_labels = ("speaker",)

    def _pieces(self) -> list[Piece]:
        content = self._read(FILE)
        pieces, begin = [], 0
        for split, part in cut(content, SHARES):
            end = begin + len(part)
            for start, stop, speaker in speeches(content):
                # A speech that goes on in the next split is a piece of both.
                first, last = max(start, begin), min(stop, end)
                if first < last:
                    piece = content[first:last]
                    pieces.append(Piece(f"{FILE}:{first}", split, (speaker,), piece))
            begin = end
        return pieces


def speeches(content: bytes) -> list[tuple[int, int, str]]:
    """Return (first byte, byte after the last, speaker) of each speech; together they are all."""
    heads = list(_SPEAKER.finditer(content))
    starts = [head.start(1) for head in heads[1:]]
    return [
        (start, stop, head[1].decode())
        for start, stop, head in zip([0, *starts], [*starts, len(content)], heads, strict=True)
    ]
