"""Made texts, tiny and of the form of the published ones."""

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


TEXTS: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "tiny_shakespeare": _tiny_shakespeare,
    "wikitext2": _wikitext2,
}
