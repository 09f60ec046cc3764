"""What the published texts share: they are read from the files of a known set."""

from pathlib import Path

from hmoe.data.byte_language import ByteLanguage
from hmoe.data.known_sets import KNOWN_SETS


class PublishedText(ByteLanguage):
    """Bytes of a known set; a class of it names the set, its labels, and its pieces (`_pieces`).

    Args:
        root: the folder of the set; where `hmoe fetch` puts it is the default.
        batch_size, context, seed, eval_bytes: see `ByteLanguage`.

    Attributes:
        known: the name of the set in `KNOWN_SETS`.

    Raises:
        ConfigError: sizes out of range.
        DataError (from setup): a file is missing, or is not the one that was published.
    """

    known: str

    def __init__(
        self, *, root: str, batch_size: int, context: int, seed: int, eval_bytes: int
    ) -> None:
        super().__init__(batch_size=batch_size, context=context, seed=seed, eval_bytes=eval_bytes)
        self._root = Path(root).expanduser()

    def _source(self) -> Path:
        return self._root

    def _read(self, file: str) -> bytes:
        """Return the content of a file of the set."""
        return KNOWN_SETS[self.known].read(self._root, file)
