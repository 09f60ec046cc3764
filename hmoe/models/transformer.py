"""Transformer: a causal language model whose chosen blocks hold mixtures as feed-forwards.

Pre-norm (RMSNorm), rotary positions (Su et al. 2021), scaled dot-product attention, no biases.

Letters: B batch, S positions, D width, H heads; in `rotate` pairs of a head.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer import Routing, own_stream


class Transformer(nn.Module):
    """Tokens in, scores of the next token out.

    Args:
        in_dim: size of the vocabulary read.
        out_dim: size of the vocabulary predicted.
        context: positions S of a window.
        dim: width D, a multiple of 2 * num_heads.
        depth: number of blocks.
        num_heads: H.
        ffn: called as ffn(dim=) for the chosen blocks; a module (x, ids) -> (y, Routing or None).
        ffn_blocks: numbers of the chosen blocks, from 0.
        plain_ffn: called as plain_ffn(dim=) for all other blocks.

    Raises:
        ConfigError: sizes that do not go together, or a chosen block that does not exist.
    """

    input_kind: Literal["tokens"] = "tokens"

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        context: int,
        dim: int,
        depth: int,
        num_heads: int,
        ffn: Callable[..., nn.Module],
        ffn_blocks: Sequence[int],
        plain_ffn: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % (2 * num_heads):
            raise ConfigError(
                f"model.dim = {dim}: must be a multiple of 2 * model.num_heads = {2 * num_heads}."
            )
        self.context = context
        self.embed = nn.Embedding(in_dim, dim)
        self.blocks = Blocks(
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            context=context,
            causal=True,
            ffn=ffn,
            ffn_blocks=ffn_blocks,
            plain_ffn=plain_ffn,
        )
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, out_dim, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, token_BS: Tensor) -> tuple[Tensor, list[Routing]]:
        """int64 (B, S) -> scores (B, S, out_dim) and the routing of every mixture, in order."""
        if token_BS.shape[-1] > self.context:
            raise ConfigError(
                f"model.context = {self.context}: the data give windows of {token_BS.shape[-1]} "
                "positions. Leave it at data.context."
            )
        x_BSD, routings = self.blocks(self.embed(token_BS), token_BS)
        return self.head(self.norm(x_BSD)), routings


class Blocks(nn.ModuleList):
    """Blocks one after the other; the chosen ones hold `ffn`, all others `plain_ffn`.

    Raises:
        ConfigError: no block is chosen, or one that does not exist.
    """

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        context: int,
        causal: bool,
        ffn: Callable[..., nn.Module],
        ffn_blocks: Sequence[int],
        plain_ffn: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        strangers = sorted(set(ffn_blocks) - set(range(depth)))
        if strangers or not ffn_blocks:
            raise ConfigError(
                f"model.ffn_blocks = {list(ffn_blocks)}: name one or more of the blocks 0 to "
                f"{depth - 1}."
            )
        for i in range(depth):
            with own_stream():  # the rest starts the same, whatever these are
                inner = (ffn if i in ffn_blocks else plain_ffn)(dim=dim)
            sizes = {"dim": dim, "num_heads": num_heads, "context": context}
            self.append(Block(causal=causal, ffn=inner, **sizes))

    def forward(self, x_BSD: Tensor, token_BS: Tensor | None) -> tuple[Tensor, list[Routing]]:
        """Return what the last block says, and the routing of every mixture, in order."""
        routings = []
        for block in self:
            x_BSD, routing = block(x_BSD, token_BS)
            routings.append(routing)
        return x_BSD, [r for r in routings if r is not None]


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(
        self, *, dim: int, num_heads: int, context: int, causal: bool, ffn: nn.Module
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = Attention(dim=dim, num_heads=num_heads, context=context, causal=causal)
        self.ffn_norm = nn.RMSNorm(dim)
        self.ffn = ffn

    def forward(self, x_BSD: Tensor, token_BS: Tensor | None) -> tuple[Tensor, Routing | None]:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        y_BSD, routing = self.ffn(self.ffn_norm(x_BSD), token_BS)
        return x_BSD + y_BSD, routing


class Attention(nn.Module):
    """Attention: causal with rotary positions, or of a set, to which all places are alike."""

    def __init__(self, *, dim: int, num_heads: int, context: int, causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.context = context
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BSD: Tensor) -> Tensor:
        qkv = self.qkv(x_BSD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = (rotate(qkv[:2]) if self.causal else qkv[:2]).unbind(0)
        y = F.scaled_dot_product_attention(query, key, qkv[2], is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(-2))


def rotate(x: Tensor) -> Tensor:
    """Turn the pairs (first half, second half) of each head by the angle of the position.

    Axes before positions and the head's width are free. Angles are worked out anew each time: a
    table would have to be restored, moved, and kept from rounding with the weights.
    """
    half = x.shape[-1] // 2
    pair_H = torch.arange(half, device=x.device)
    position_S = torch.arange(x.shape[-2], device=x.device)
    angle_SH = torch.outer(position_S, 10000 ** -(pair_H / half))
    cos, sin = angle_SH.cos().to(x.dtype), angle_SH.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
