"""What the sets of text share: prediction of the next token, a byte or a byte pair, over windows.

A set says which pieces of text belong to which split (`_pieces`); this module reads them as tokens,
lays the pieces of a split end to end and cuts windows. A window of context + 1 tokens gives x, all
but its last, and y, all but its first: y[b, s] follows x[b, s]. A context of 4 bytes over
"def f():" may give

    x = 100 101 102  32   ("def ")
    y = 101 102  32 102   ("ef f")

Training windows start at random places, so they may run from one file into the next; evaluation
windows are fixed, evenly spaced over the split and never overlap, so each token is predicted once.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hmoe.data.checks import check_at_least, check_seed, data_error
from hmoe.data.loader import SPLITS, Batch, Split, SplitLoader, StreamData, random_state
from hmoe.data.vocabulary import BytePairs, Bytes, Vocabulary, check_vocabulary
from hmoe.errors import ConfigError


class Piece(NamedTuple):
    """A run of bytes of one file that lies in one split."""

    path: str
    split: Split
    domain: tuple[str, ...]
    """Where it comes from, coarse to fine, such as (package, module); () if there is one place."""
    content: bytes


class Corpus(NamedTuple):
    """The pieces of one split as tokens, laid end to end."""

    content: Tensor
    """uint8 or int32 (tokens,)."""
    num_bytes: int
    """How many bytes they are."""
    first: Tensor
    """Where each piece begins: int64 (pieces,), ascending from 0."""
    domain: Tensor
    """Domain of each piece: int64 (pieces, levels)."""


class Language(StreamData):
    """Windows of tokens: x and y int64 (B, S), and domain int64 (B, S, levels) of the tokens of x.

    Args:
        batch_size: windows a batch, in training and in evaluation.
        context: tokens a window reads (S).
        vocabulary: number of tokens of a byte pair encoding that is learnt from the training text;
            None reads bytes.
        seed: seed of the training stream; splits and evaluation windows do not depend on it.
        eval_bytes: most bytes predicted in an evaluation of a split, about so many where tokens are
            not bytes; rounded down to windows.

    Raises:
        ConfigError: sizes out of range.
    """

    input_kind = "tokens"

    def __init__(
        self, *, batch_size: int, context: int, vocabulary: int | None, seed: int, eval_bytes: int
    ) -> None:
        super().__init__()
        check_at_least("batch_size", batch_size, 1)
        check_at_least("context", context, 2)
        check_vocabulary(vocabulary)
        check_seed(seed)
        if eval_bytes < context:
            raise ConfigError(
                f"data.eval_bytes={eval_bytes}: must be at least data.context={context}, a window."
            )
        self.batch_size = batch_size
        self.context = context
        self.seed = seed
        self.of_bytes = vocabulary is None
        self.task = "next_byte" if self.of_bytes else "next_token"
        self.in_dim = self.out_dim = vocabulary or len(Bytes.tokens)
        self._max_eval_bytes = eval_bytes
        self._corpora: dict[Split, Corpus] = {}
        self._vocabulary: Vocabulary = Bytes()
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
        """SHA-256 over path, SHA-256 of content, and split of the sorted pieces, and byte pairs."""
        self.setup()
        return self._digest

    @property
    def domain_names(self) -> tuple[tuple[str, ...], ...]:  # type: ignore[override]
        """As of every set; of text that lies in one file there are none."""
        self.setup()
        return self._domain_names

    @property
    def vocabulary(self) -> Vocabulary:
        """What the tokens stand for."""
        self.setup()
        return self._vocabulary

    @property
    def token_bytes(self) -> Tensor:
        """How many bytes each token stands for: int64 (out_dim,)."""
        return torch.tensor([len(token) for token in self.vocabulary.tokens])

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """As of every set, and the byte or token that is read."""
        return super().label_names | {self._unit: tuple(map(token_name, self.vocabulary.tokens))}

    def labels(self, batch: Batch) -> dict[str, Tensor]:
        """As of every set, and the byte or token that is read."""
        return super().labels(batch) | {self._unit: batch["x"].flatten()}

    @property
    def _unit(self) -> str:
        return "byte" if self.of_bytes else "token"

    @property
    def train_tokens(self) -> np.ndarray:
        """All training tokens: uint8 or int32 (tokens,)."""
        self.setup()
        return self._corpora["train"].content.numpy()

    def eval_windows(self, split: Split) -> np.ndarray:
        """Return the evaluation windows of `split`: uint8 or int32 (windows, context + 1).

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
        if not self.of_bytes:
            known = b"".join(piece.content for piece in pieces if piece.split == "train")
            self._vocabulary = BytePairs(content=known, size=self.out_dim)
        corpora = {
            split: _corpus([p for p in pieces if p.split == split], names, self._vocabulary)
            for split in SPLITS
        }
        for split, corpus in corpora.items():
            if len(corpus.content) <= self.context:
                raise data_error(
                    self._source(),
                    f"more than data.context={self.context} {self._unit}s in the {split} split",
                    f"{len(corpus.content)}",
                    "Give more text, a shorter data.context or another share.",
                )
        self._digest = _digest(pieces, [] if self.of_bytes else self._vocabulary.tokens)
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
        corpus = self._corpora[split]
        # The first token of the split is never predicted, so this many can be.
        num_tokens = len(corpus.content) - 1
        most = self._max_eval_bytes * len(corpus.content) // corpus.num_bytes
        num_windows = max(1, min(num_tokens, most) // self.context)
        return torch.arange(num_windows) * num_tokens // num_windows

    def _windows(self, split: Split, starts: Tensor) -> Tensor:
        """Return the tokens of the windows: uint8 or int32 (B, S + 1)."""
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


def token_name(token: bytes) -> str:
    """Return a token as people write it: "a", "space", "\\n", "\\xe9" beyond ASCII, " the"."""
    if token == b" ":
        return "space"
    return repr(token)[2:-1].replace("\\\\", "\\")


def _corpus(pieces: list[Piece], names: list[list[str]], vocabulary: Vocabulary) -> Corpus:
    number = [{name: index for index, name in enumerate(level)} for level in names]
    # No token goes from one piece into the next.
    contents = [vocabulary.encode(piece.content) for piece in pieces]
    lengths = np.array([len(content) for content in contents], dtype=np.int64)
    domain = [
        [level[name] for level, name in zip(number, piece.domain, strict=True)] for piece in pieces
    ]
    return Corpus(
        content=torch.from_numpy(np.concatenate([vocabulary.encode(b""), *contents])),
        num_bytes=sum(len(piece.content) for piece in pieces),
        first=torch.from_numpy(np.cumsum(lengths) - lengths),
        domain=torch.tensor(domain, dtype=torch.int64).reshape(len(pieces), len(names)),
    )


def _digest(pieces: list[Piece], byte_pairs: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in sorted(pieces):
        content = hashlib.sha256(piece.content).hexdigest()
        digest.update(f"{piece.path}\0{content}\0{piece.split}\n".encode())
    for token in byte_pairs:
        digest.update(f"{token.hex()}\n".encode())
    return digest.hexdigest()
