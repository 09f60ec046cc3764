"""Observing: one pass of evaluation, and what every mixture layer did with every token.

What is kept is bounded: a row is 12 bytes, and of the inputs of a layer there is a sample.

Letters: T tokens, W rows of the data, D width, R rows, N nodes, E experts, K experts per token, L
levels, S sampled tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hmoe.data import SplitLoader
from hmoe.inspection.run import TrainedRun
from hmoe.layer import HMoE, Routing, Tree
from hmoe.layer.tree_ops import sum_below
from hmoe.metrics import NONE, Doubt, heaviest_of

_SAMPLED = 16_384  # inputs of a layer that k-means sees
_MOST_ROWS = 2**23  # rows of a layer that are kept, 100 MB


@dataclass(frozen=True)
class Seen:
    """What one layer did, on the CPU. Tokens are counted once, however many heads there are.

    Attributes:
        tree: its organisation.
        num_tokens: T.
        token_R, expert_R, weight_R: the rows asked for, by token.
        dropped: share of rows that a capacity took away.
        entropy_L, margin_L: see `Doubt`; NaN where the gate does not score all nodes.
        sample_S: numbers of the tokens whose inputs are kept.
        input_SD: what the layer read of them, float32.
    """

    tree: Tree
    num_tokens: int
    token_R: Tensor
    expert_R: Tensor
    weight_R: Tensor
    dropped: float
    entropy_L: np.ndarray
    margin_L: np.ndarray
    sample_S: Tensor
    input_SD: Tensor

    @property
    def load_E(self) -> Tensor:
        """Rows of every expert."""
        return torch.bincount(self.expert_R, minlength=self.tree.num_experts)

    @property
    def load_N(self) -> np.ndarray:
        """Share of all rows at every node."""
        load_N = sum_below(self.load_E, self.tree).double()
        return (load_N / max(1, len(self.expert_R))).numpy()

    @property
    def heaviest_T(self) -> Tensor:
        """The expert that weighs most for each token, of all heads, the first row's of equals.

        `NONE` for a token without rows.
        """
        return heaviest_of(self.token_R, self.expert_R, self.weight_R, self.num_tokens)

    @property
    def chosen_TK(self) -> Tensor:
        """The experts of each token; `NONE` where it has fewer than others."""
        place_R = torch.arange(len(self.token_R))
        place_R = place_R - torch.searchsorted(self.token_R, self.token_R)
        most = int(place_R.max()) + 1 if len(place_R) else 1
        chosen_TK = torch.full((self.num_tokens, most), NONE)
        chosen_TK[self.token_R, place_R] = self.expert_R
        return chosen_TK


@dataclass(frozen=True)
class Observation:
    """A pass.

    Attributes:
        loss: the mean loss.
        num_tokens: T.
        labels: label -> its value for every token, (T,).
        layers: place in the model -> what the layer did.
        group_W: what rows of the data hang together by (`StreamData.row_group`), (W,); or None.
    """

    loss: float
    num_tokens: int
    labels: Mapping[str, Tensor]
    layers: Mapping[str, Seen]
    group_W: Tensor | None


def fitting(run: TrainedRun, tokens: int) -> int:
    """How many tokens to look at, so that the rows of a layer can be kept: at most `tokens`.

    Only where very many experts work on every token is it fewer.
    """
    most = max(len(layer.try_out(1).token_R) for layer in run.layers.values())
    return min(tokens, max(run.tokens_per_row, _MOST_ROWS // most))


def observe(
    run: TrainedRun,
    batches: SplitLoader,
    show: Callable[[], None] = lambda: None,
    *,
    inputs: bool = True,
) -> Observation:
    """Let the model answer some batches and write down what its layers did.

    Args:
        show: called after every batch.
        inputs: whether to keep a sample of what layers read.
    """
    num_rows = sum(len(batch["x"]) for batch in batches)
    num_tokens = num_rows * run.tokens_per_row
    num_kept = min(_SAMPLED, num_tokens) if inputs else 0
    sample_S = torch.arange(num_kept) * num_tokens // max(1, num_kept)
    watches = {n: _Watch(layer, sample_S, run.device) for n, layer in run.layers.items()}
    labels: dict[str, list[Tensor]] = {label: [] for label in run.data.label_names}
    groups: list[Tensor] = []
    total, num_items = 0.0, 0
    with _watching(watches.values()):
        for batch in batches:
            loss, routings = run.answer(batch)
            total += loss.item() * batch["y"].numel()
            num_items += batch["y"].numel()
            for watch, routing in zip(watches.values(), routings, strict=True):
                watch.add(routing)
            for label, value_T in run.data.labels(batch).items():
                # What is known of a picture is known of all its patches.
                patches = len(batch["x"]) * run.tokens_per_row // len(value_T)
                labels[label].append(value_T.repeat_interleave(patches))
            if run.data.row_group:
                groups.append(batch[run.data.row_group])
            show()
    return Observation(
        loss=total / num_items,
        num_tokens=num_tokens,
        labels={label: torch.cat(parts) for label, parts in labels.items()},
        layers={name: watch.seen() for name, watch in watches.items()},
        group_W=torch.cat(groups) if groups else None,
    )


@dataclass
class _Watch:
    """What is written down of one layer, batch by batch."""

    layer: HMoE
    sample_S: Tensor
    device: torch.device
    num_tokens: int = 0
    num_left: int = 0
    rows: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.doubt = Doubt(tree=self.layer.tree).to(self.device)

    def read(self, layer: HMoE, args: tuple[Tensor, ...]) -> None:
        """Keep of a batch's tokens those that are in the sample; `add` counts them afterwards."""
        x_TD = args[0].reshape(-1, args[0].shape[-1])
        here_S = self.sample_S - self.num_tokens
        here_S = here_S[(here_S >= 0) & (here_S < len(x_TD))]
        self.inputs.append(x_TD[here_S.to(x_TD.device)].float().cpu())

    def add(self, routing: Routing) -> None:
        asked = routing.before_drops
        # Heads have the same tokens, one after the other.
        num_tokens = routing.num_tokens // self.layer.gate.num_heads
        token_R = asked.token_R % num_tokens + self.num_tokens
        weight_R = asked.weight_R.float()
        self.rows.append((token_R.int().cpu(), asked.expert_R.int().cpu(), weight_R.cpu()))
        self.num_left += len(routing.token_R)
        self.num_tokens += num_tokens
        self.doubt.update(routing)

    def seen(self) -> Seen:
        token_R, expert_R, weight_R = (torch.cat(parts) for parts in zip(*self.rows, strict=True))
        order_R = token_R.argsort(stable=True)
        entropy_L, margin_L = self.doubt.compute()
        return Seen(
            tree=self.layer.tree,
            num_tokens=self.num_tokens,
            token_R=token_R[order_R].long(),
            expert_R=expert_R[order_R].long(),
            weight_R=weight_R[order_R],
            dropped=1 - self.num_left / max(1, len(token_R)),
            entropy_L=entropy_L,
            margin_L=margin_L,
            sample_S=self.sample_S,
            input_SD=torch.cat(self.inputs),
        )


@contextmanager
def _watching(watches: Iterable[_Watch]) -> Iterator[None]:
    """Show the layers' inputs to their watches."""
    handles = [watch.layer.register_forward_pre_hook(watch.read) for watch in watches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
