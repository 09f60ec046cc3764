"""Recommender: what a user thinks of a thing, by an organisation for kinds of users.

Letters: B rows, D width, S tags of a thing.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from hmoe.errors import ConfigError
from hmoe.layer import Routing, own_stream


class Recommender(nn.Module):
    """Factorisation whose user's side passes blocks h + ffn(norm(h)), mixtures or their controls.

    The gate reads the user's vector alone, so that all rows of a user go to the same experts, and
    the organisation is one of kinds of users. A gate of ids, such as a hash, sees the user's id.
    h starts as the user's vector plus one that all users share; the value is h times the thing's
    vector, which is its own plus the mean of its tags', plus a number for the user, one for the
    thing, and the mean of its tags'. Id 0 is the vector 0: somebody, or something, unknown. (Koren,
    Bell & Volinsky 2009; the mixture on the user's side is ours.)

    Args:
        in_dim: ids, 0 among them, of users, things and tags together.
        out_dim: 1.
        dim: width D.
        depth: number of blocks.
        ffn: called as ffn(dim=); a module (x, ids) -> (y, Routing or None).

    Raises:
        ConfigError: out_dim is not 1.
    """

    input_kind: Literal["fields"] = "fields"

    def __init__(
        self, *, in_dim: int, out_dim: int, dim: int, depth: int, ffn: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        if out_dim != 1:
            raise ConfigError(f"model = Recommender: says one value, and the data ask {out_dim}.")
        self.embed = nn.Embedding(in_dim, dim, padding_idx=0)
        self.bias = nn.Embedding(in_dim, 1, padding_idx=0)
        self.common_D = nn.Parameter(torch.empty(dim))
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(depth))
        self.ffns = nn.ModuleList()
        for _ in range(depth):
            with own_stream():  # the rest starts the same, whatever these are
                self.ffns.append(ffn(dim=dim))
        nn.init.normal_(self.common_D, std=dim**-0.5)
        nn.init.normal_(self.embed.weight, std=0.1 * dim**-0.5)
        nn.init.zeros_(self.bias.weight)
        with torch.no_grad():
            self.embed.weight[0] = 0

    def forward(self, id_BC: Tensor) -> tuple[Tensor, list[Routing]]:
        """int64 (B, 2 + S), user, thing, its tags -> (B, 1) and the routing of every mixture."""
        user_B, thing_B, tag_BS = id_BC[:, 0], id_BC[:, 1], id_BC[:, 2:]
        h_BD = self.common_D + self.embed(user_B)
        routings = []
        for norm, ffn in zip(self.norms, self.ffns, strict=True):
            y_BD, routing = ffn(norm(h_BD), user_B)
            h_BD = h_BD + y_BD
            routings.append(routing)
        num_tags_B1 = (tag_BS > 0).sum(1, keepdim=True).clamp(min=1)
        thing_BD = self.embed(thing_B) + self.embed(tag_BS).sum(1) / num_tags_B1
        bias_B1 = self.bias(user_B) + self.bias(thing_B) + self.bias(tag_BS).sum(1) / num_tags_B1
        value_B1 = (h_BD * thing_BD).sum(1, keepdim=True) + bias_B1
        return value_B1, [routing for routing in routings if routing is not None]
