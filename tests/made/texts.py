"""Made texts, tiny and of the form of the published ones."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping

SPEAKERS = ("First Citizen", "All", "ROMEO", "Ghost of King Henry VI")


def _tiny_shakespeare() -> dict[str, bytes]:
    speeches = [f"{SPEAKERS[n % 4]}:\nSpeech {n}:\nhear me.\n" for n in range(400)]
    return {"input.txt": "\n".join(speeches).encode()}


def _wikitext2() -> dict[str, bytes]:
    def article(title: str) -> str:
        return (
            f" \n = {title} = \n \n " + "Senjō no <unk> 3 . " * 30 + "\n \n = = Life = = \n \n x\n"
        )

    return {
        "train.txt": "".join(article(f"Town {n}") for n in range(4)).encode(),
        "valid.txt": article("River").encode(),
        "test.txt": article("<unk> @-@ class battleship").encode(),
    }


BOOKS = ("austen-emma", "blake-poems", "blake-songs")


def _gutenberg15() -> dict[str, bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in BOOKS:
            book = f"[{name}]\n" + f"A line of {name}, \xe6.\n" * 100
            _zipped(archive, f"gutenberg/{name}.txt", book.encode("latin-1"))
        _zipped(archive, "gutenberg/README", b"About")
    return {"gutenberg.zip": stream.getvalue()}


def _zipped(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), content)  # of 1980: the same bytes every time


# File, stage, family, number of articles; only the first two are complete, of a known family.
TRANSLATIONS = (
    ("eng", "4", "Indo-European", 30),
    ("fin", "5", "Uralic", 30),
    ("ike", "4", "Eskimo-Aleut", 23),
    ("xxx", "3", "Uralic", 30),
    ("yyy", "4", "", 30),
)


def _udhr() -> dict[str, bytes]:
    stream = io.BytesIO()
    table = ["file\tkey\tname\tstage\tfamily"]
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for key, stage, family, count in TRANSLATIONS:
            table.append(f'udhr_{key}.xml\t{key}\tIn "{key}\t{stage}\t{family}')
            articles = "".join(
                f'<article number="{n}"><title>No. {n}</title><para> Artículo {n} {key}. </para>'
                f"<orderedlist><listitem><para>Everyone has <sup>a</sup> right, {n}.</para>"
                "</listitem></orderedlist></article>"
                for n in range(1, count + 1)
            )
            space = 'xmlns="http://efele.net/udhr"'
            content = f"<udhr {space}><preamble><para>So</para></preamble>{articles}</udhr>"
            member = tarfile.TarInfo(f"udhr_{key}.xml")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return {"udhr_xml.tar": stream.getvalue(), "languages.tsv": "\n".join(table).encode()}


def _clinc150() -> dict[str, bytes]:
    intents = {f"domain_{d}": [f"intent_{d}_{n:02}" for n in range(15)] for d in range(10)}
    names = [name for of in intents.values() for name in of]

    def sentences(count: int) -> list[list[str]]:
        return [[f"please do {name} for me {n}", name] for name in names for n in range(count)]

    full = {"train": sentences(2), "val": sentences(1), "test": sentences(1)}
    full |= {f"oos_{split}": [["what else", "oos"]] for split in full}
    return {
        "data_full.json": json.dumps(full).encode(),
        "domains.json": json.dumps(intents).encode(),
    }


TEXTS: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "tiny_shakespeare": _tiny_shakespeare,
    "wikitext2": _wikitext2,
    "gutenberg15": _gutenberg15,
    "udhr": _udhr,
    "clinc150": _clinc150,
}
