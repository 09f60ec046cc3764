"""UDHR: the Universal Declaration of Human Rights in 511 languages of 63 families.

The translations are those that Eric Muller's project gathered for the United Nations (in the public
domain) and marked as complete, where all 30 articles are there and the family is known; families
are Glottolog's (CC BY 4.0; isolates are one, made languages another). The paragraphs of the
articles, without titles and preamble, are 5.4 MB of UTF-8. Article 1 in English begins

    All human beings are born free and equal in dignity and rights.

so a window of 4 over "human" gives x = 104 117 109 97 ("huma"), y = 117 109 97 110 ("uman"), and
domain = (25, 111) (Indo-European, English [eng]) at each place.

No split is published. Articles 5, 10, .. 30 are for the test, the one before each of them for
validation: the same articles in all languages, so that no translation gives another away.
"""

import csv
from typing import NamedTuple
from xml.etree import ElementTree

from hmoe.data.archives import members
from hmoe.data.language import Piece
from hmoe.data.loader import Split
from hmoe.data.published_text import PublishedText

TRANSLATIONS, LANGUAGES = "udhr_xml.tar", "languages.tsv"
NUM_ARTICLES = 30
COMPLETE = ("4", "5")
_MOST = 2**24
_SPACE = "{http://efele.net/udhr}"


class Language(NamedTuple):
    """A translation: its file, its family, and its name with its key."""

    file: str
    family: str
    name: str


class Udhr(PublishedText):
    """The translations as bytes; domains are (family, language). See `PublishedText`."""

    known = "udhr"
    domain_labels = ("family", "language")

    def _pieces(self) -> list[Piece]:
        archive = self._root / TRANSLATIONS
        files = dict(members(archive, self._read(TRANSLATIONS), most=_MOST))
        pieces = []
        for language in languages(self._read(LANGUAGES)):
            found = articles(files[language.file])
            if found.keys() != set(range(1, NUM_ARTICLES + 1)):
                continue
            for number, text in sorted(found.items()):
                path = f"{language.file}:{number:02}"
                domain = (language.family, language.name)
                pieces.append(Piece(path, split_of(number), domain, text))
        return pieces


def split_of(article: int) -> Split:
    """Return the split of an article by its number, from 1."""
    if article % 5 == 0:
        return "test"
    return "val" if article % 5 == 4 else "train"


def languages(table: bytes) -> list[Language]:
    """Return the complete translations of a known family, in the order of the table."""
    lines = table.decode().splitlines()
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Language(row["file"], row["family"], f"{row['name']} [{row['key']}]")
        for row in rows
        if row["stage"] in COMPLETE and row["family"]
    ]


def articles(translation: bytes) -> dict[int, bytes]:
    """Return the paragraphs of each article by its number, a line each, in UTF-8."""
    # Of known digest, so no entities are waiting to unfold.
    root = ElementTree.fromstring(translation)
    return {
        int(article.attrib["number"]): "".join(
            f"{''.join(paragraph.itertext()).strip()}\n"
            for paragraph in article.iter(f"{_SPACE}para")
        ).encode()
        for article in root.findall(f"{_SPACE}article")
    }
