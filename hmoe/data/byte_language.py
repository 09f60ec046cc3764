"""What the sets of text share: next-byte prediction over windows of bytes.

A set says which pieces of text belong to which split (`_pieces`); this module lays the pieces of a
split end to end and cuts windows. A window of context + 1 bytes gives x, all but its last byte, and
y, all but its first: y[b, s] follows x[b, s]. A context of 4 over "def f():" may give

    x = 100 101 102  32   ("def ")
    y = 101 102  32 102   ("ef f")

Training windows start at random places, so they may run from one file into the next; evaluation
windows are fixed, evenly spaced over the split and never overlap, so each byte is predicted once.
"""

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least, check_seed, data_error
from hmoe.data.loader import SPLITS, Batch, Split, SplitLoader, StreamData, random_state
from hmoe.errors import ConfigError

NUM_BYTES = 256


class Piece(NamedTuple):
    """A run of bytes of one file that lies in one split."""

    path: str
    split: Split
    domain: tuple[str, ...]
    """Where it comes from, coarse to fine, such as (package, module); () if there is one place."""
    content: bytes


class Corpus(NamedTuple):
    """The pieces of one split, laid end to end."""

    content: Tensor
    """uint8 (bytes,)."""
    first: Tensor
    """Where each piece begins: int64 (pieces,), ascending from 0."""
    domain: Tensor
    """Domain of each piece: int64 (pieces, levels)."""


class ByteLanguage(StreamData):
    """Windows of bytes: x and y int64 (B, S), and domain int64 (B, S, levels) of the bytes of x.

    Args:
        batch_size: windows a batch, in training and in evaluation.
        context: bytes a window reads (S).
        seed: seed of the training stream; splits and evaluation windows do not depend on it.
        eval_bytes: most bytes predicted in an evaluation of a split; rounded down to windows.

    Raises:
        ConfigError: sizes out of range.
    """

    task = "next_byte"
    input_kind = "tokens"
    in_dim = NUM_BYTES
    out_dim = NUM_BYTES

    def __init__(self, *, batch_size: int, context: int, seed: int, eval_bytes: int) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("context", context, 2)
        check_seed(seed)
        if eval_bytes < context:
            raise ConfigError(
                f"data.eval_bytes={eval_bytes}: must be at least data.context={context}, a window."
            )
        self.batch_size = batch_size
        self.context = context
        self.seed = seed
        self._max_eval_bytes = eval_bytes
        self._corpora: dict[Split, Corpus] = {}
        self._domain_names: tuple[tuple[str, ...], ...] = ()
        self._digest = ""

    @abstractmethod
    def _pieces(self) -> list[Piece]:
        """Read the text: pieces of every split in a fixed order, domains of one depth."""

    @abstractmethod
    def _source(self) -> Path:
        """Return the file or folder that the text is read from."""

    @property
    def digest(self) -> str:
        """SHA-256 over path, SHA-256 of content, and split of the sorted pieces."""
        self.setup()
        return self._digest

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """As of every set; of text that lies in one file there are none."""
        self.setup()
        return self._domain_names

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set, and the byte that is read."""
        return super().label_names | {"byte": tuple(map(byte_name, range(NUM_BYTES)))}

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """As of every set, and the byte that is read."""
        return super().labels(batch) | {"byte": batch["x"].flatten()}

    @property
    def train_bytes(self) -> np.ndarray:
        """All training bytes: uint8 (bytes,)."""
        self.setup()
        return self._corpora["train"].content.numpy()

    def eval_bytes(self, split: Split) -> np.ndarray:
        """Return the evaluation windows of `split`: uint8 (windows, context + 1).

        The loader of the split predicts exactly the columns 1, 2, .. of these, in this order, and
        knows nothing but what precedes them in their row. Column 0 is read, never predicted.
        """
        return self._windows(split, self._eval_starts(split)).numpy()

    def setup(self, stage: str | None = None) -> None:
        """Read the text into memory, once.

        Raises:
            DataError: there is no text, or a split is too small for one window.
        """
        if self._corpora:
            return
        pieces = self._pieces()
        # Over all splits, so that a number means the same domain in each of them.
        domains = (piece.domain for piece in pieces)
        names = [sorted(set(level)) for level in zip(*domains, strict=True)]
        corpora = {
            split: _corpus([piece for piece in pieces if piece.split == split], names)
            for split in SPLITS
        }
        for split, corpus in corpora.items():
            if len(corpus.content) <= self.context:
                raise data_error(
                    self._source(),
                    f"more than data.context={self.context} bytes in the {split} split",
                    f"{len(corpus.content)}",
                    "Give more text, a shorter data.context or another share.",
                )
        self._digest = _digest(pieces)
        self._domain_names = tuple(tuple(level) for level in names)
        self._corpora = corpora

    def train_batch(self, step: int) -> Batch:
        """Return the batch of `step`, a pure function of (seed, step)."""
        self.setup()
        num_starts = len(self._corpora["train"].content) - self.context
        draw = random_state(self.seed, step)
        starts = draw.randint(num_starts, size=self.batch_size, dtype=np.int64)
        return self._batch("train", torch.from_numpy(starts))

    def pass_over(self, split: Split) -> SplitLoader:
        """Return one pass over an evaluation split."""
        starts = self._eval_starts(split)
        return SplitLoader(
            num_rows=len(starts),
            batch_size=self.batch_size,
            batch_of=lambda rows: self._batch(split, starts[rows]),
        )

    def _eval_starts(self, split: Split) -> Tensor:
        """Return where the evaluation windows begin: int64 (windows,)."""
        self.setup()
        # The first byte of the split is never predicted, so this many can be.
        num_bytes = len(self._corpora[split].content) - 1
        num_windows = min(num_bytes, self._max_eval_bytes) // self.context
        return torch.arange(num_windows) * num_bytes // num_windows

    def _windows(self, split: Split, starts: Tensor) -> Tensor:
        """Return the bytes of the windows: uint8 (B, S + 1)."""
        return self._corpora[split].content[starts[:, None] + torch.arange(self.context + 1)]

    def _batch(self, split: Split, starts: Tensor) -> Batch:
        windows = self._windows(split, starts).long()
        batch = {"x": windows[:, :-1], "y": windows[:, 1:]}
        if self._domain_names:
            corpus = self._corpora[split]
            place = starts[:, None] + torch.arange(self.context)
            piece = torch.searchsorted(corpus.first, place, right=True) - 1
            batch["domain"] = corpus.domain[piece]
        return batch


def byte_name(byte: int) -> str:
    """Return a byte as people write it: "a", "space", "\\n", and "\\xe9" beyond ASCII."""
    if byte == ord(" "):
        return "space"
    return repr(bytes([byte]))[2:-1].replace("\\\\", "\\")


def _corpus(pieces: list[Piece], names: list[list[str]]) -> Corpus:
    number = [{name: index for index, name in enumerate(level)} for level in names]
    content = bytearray().join(piece.content for piece in pieces)
    lengths = np.array([len(piece.content) for piece in pieces], dtype=np.int64)
    domain = [
        [level[name] for level, name in zip(number, piece.domain, strict=True)] for piece in pieces
    ]
    return Corpus(
        content=torch.from_numpy(np.frombuffer(content, dtype=np.uint8)),
        first=torch.from_numpy(np.cumsum(lengths) - lengths),
        domain=torch.tensor(domain, dtype=torch.int64).reshape(len(pieces), len(names)),
    )


def _digest(pieces: list[Piece]) -> str:
    digest = hashlib.sha256()
    for piece in sorted(pieces):
        content = hashlib.sha256(piece.content).hexdigest()
        digest.update(f"{piece.path}\0{content}\0{piece.split}\n".encode())
    return digest.hexdigest()
