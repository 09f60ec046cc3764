"""Vit: pictures as sequences of patches; the chosen blocks hold mixtures as feed-forwards.

A picture comes as a vector, channel by channel and line by line. Its square patches, each a linear
map of its pixels and a place of its own that is learnt, go through pre-norm blocks in which every
patch sees every other; the mean over the patches goes to the head. After Dosovitskiy et al. 2021,
"An Image is Worth 16x16 Words"; they have a token for the class in place of the mean, LayerNorm in
place of RMSNorm, and biases.

Letters: B pictures, S patches, D width, C channels, H patches on a side, P pixels on that of one.
"""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer import Routing
from hmoe.models.transformer import Blocks


class Vit(nn.Module):
    """Pictures in, scores of the classes, or values, out.

    Args:
        in_dim: values of a picture, channels x side x side.
        out_dim: classes, or values to predict.
        channels: C of a picture, 1 if it is grey.
        patch: side P of a patch in pixels; it divides that of the picture.
        dim: width D, a multiple of num_heads.
        depth: number of blocks.
        num_heads: of the attention.
        ffn: called as ffn(dim=) for the chosen blocks; a module (x, None) -> (y, Routing or None).
        ffn_blocks: numbers of the chosen blocks, from 0.
        plain_ffn: called as plain_ffn(dim=) for all other blocks.

    Raises:
        ConfigError: sizes that do not go together, or a chosen block that does not exist.
    """

    input_kind: Literal["vectors"] = "vectors"

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        channels: int,
        patch: int,
        dim: int,
        depth: int,
        num_heads: int,
        ffn: Callable[..., nn.Module],
        ffn_blocks: Sequence[int],
        plain_ffn: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(
                f"model.dim = {dim}: must be a multiple of model.num_heads = {num_heads}."
            )
        side = isqrt(in_dim // channels) if channels > 0 else 0
        if channels * side**2 != in_dim:
            raise ConfigError(
                f"model.channels = {channels}: the data give {in_dim} values a row, which are no "
                f"square picture of {channels} channels. Is it coloured (3) or grey (1)?"
            )
        if patch < 1 or side % patch:
            raise ConfigError(
                f"model.patch = {patch}: must divide the {side} pixels on a side of the picture."
            )
        self.channels, self.patch = channels, patch
        self.num_patches = (side // patch) ** 2
        self.embed = nn.Linear(channels * patch**2, dim)
        self.place_SD = nn.Parameter(torch.empty(self.num_patches, dim))
        self.blocks = Blocks(
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            context=self.num_patches,
            causal=False,
            ffn=ffn,
            ffn_blocks=ffn_blocks,
            plain_ffn=plain_ffn,
        )
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, out_dim)
        nn.init.normal_(self.place_SD, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """(B, in_dim) -> (B, out_dim) and the routing of every mixture, patches as tokens."""
        x_BSD = self.embed(self.patches(x)) + self.place_SD
        x_BSD, routings = self.blocks(x_BSD, None)
        return self.head(self.norm(x_BSD).mean(1)), routings

    def patches(self, x: Tensor) -> Tensor:
        """(B, in_dim) -> (B, S, C * P * P): patches line by line, each channel by channel."""
        high, wide = isqrt(self.num_patches), self.patch
        x_BCHPHP = x.unflatten(-1, (self.channels, high, wide, high, wide))
        return x_BCHPHP.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
