"""Hub: any text that the library `datasets` can load, by its name on the Hugging Face Hub.

    hmoe train data=hub data.name=roneneldan/TinyStories model=transformer

A name may also be a folder of parquet, JSON lines or CSV files on this machine. The library
fetches what it does not have and keeps it in a cache of its own: size and licence are the set's,
told on its page. The values of one column are text, and each is followed by a new line; of a row
"abc" and one "d" a window of 4 reads x = 97 98 99 10 ("abc\\n"), y = 98 99 10 100 ("bc\\nd").

Splits are named in the library's way, so a set without some can cut another: "train[:90%]".
"""

from pathlib import Path
from typing import Any

from hmoe.data.language import Language, Piece
from hmoe.data.loader import Split
from hmoe.errors import ConfigError, DataError, nearest


class Hub(Language):
    """A column of text of a set on the Hub, as bytes or byte pairs; there are no domains.

    Args:
        name: of the set, such as "roneneldan/TinyStories", or a folder of files.
        subset: of the set, where it has several; None for the only one.
        column: the column that holds the text.
        train, val, test: names of the splits, or parts of them, such as "train[90%:95%]".
        batch_size, context, vocabulary, seed, eval_bytes: see `Language`.

    Raises:
        ConfigError: no name, sizes out of range, no such column, or the library is missing.
        DataError (from setup): the set or a split cannot be loaded, or is too small.
    """

    def __init__(
        self,
        *,
        name: str | None,
        subset: str | None,
        column: str,
        train: str,
        val: str,
        test: str,
        batch_size: int,
        context: int,
        vocabulary: int | None,
        seed: int,
        eval_bytes: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            context=context,
            vocabulary=vocabulary,
            seed=seed,
            eval_bytes=eval_bytes,
        )
        if name is None:
            raise ConfigError(
                "data.name=null: must name a set of the Hub, as in "
                "data.name=roneneldan/TinyStories, or a folder."
            )
        self._name = name
        self._subset = subset
        self._column = column
        self._splits: dict[Split, str] = {"train": train, "val": val, "test": test}

    def _source(self) -> Path:
        return Path(self._name)

    def _pieces(self) -> list[Piece]:
        return [
            Piece(f"{self._name}:{name}", split, (), self._text(name))
            for split, name in self._splits.items()
        ]

    def _text(self, split: str) -> bytes:
        rows = self._loaded(split)
        if self._column not in rows.column_names:
            raise ConfigError(
                f"data.column={self._column}: {self._name} has {', '.join(rows.column_names)}."
                f"{nearest(self._column, rows.column_names)}"
            )
        values = rows[self._column]
        for value in values:
            if not isinstance(value, str):
                raise ConfigError(
                    f"data.column={self._column}: holds {type(value).__name__}, and text is "
                    "expected."
                )
        return "".join(f"{value}\n" for value in values).encode(errors="surrogatepass")

    def _loaded(self, split: str) -> Any:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ConfigError(
                "data=hub: needs the library `datasets`: pip install 'hmoe[hub]'."
            ) from error
        try:
            return load_dataset(self._name, self._subset, split=split)
        except Exception as error:  # of many kinds, and all say what is wrong with this set
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"{self._name}, split {split}: cannot be loaded: {reason}. Check data.name, "
                "data.subset, the names of the splits, and the connection."
            ) from error
