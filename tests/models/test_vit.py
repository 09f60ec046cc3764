"""Vit: patches by hand, the law of places, attention over all of them, costs, errors."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Mlp, Tree
from hmoe.models import Dense, Vit, cost
from hmoe.models.transformer import Attention
from tests.cases import DIM, best, dense, layer_of, mixture

PLAIN = partial(
    Dense,
    experts=partial(Mlp, hidden_dim=16, activation="gelu", dtype=None, implementation="loop"),
)


def vit(**changes: Any) -> Vit:
    """Pictures of 2 channels, 6 x 6: nine patches of 2 x 2; the second block holds a mixture."""
    sizes: dict[str, Any] = {
        **{"in_dim": 72, "out_dim": 3, "channels": 2, "patch": 2, "dim": DIM, "depth": 2},
        **{"num_heads": 2, "ffn": mixture("grid", "top_2"), "ffn_blocks": [1], "plain_ffn": PLAIN},
    }
    torch.manual_seed(0)
    return Vit(**(sizes | changes))


# ------------------------------------------------------------------ by hand


def test_patches_are_read_channel_by_channel_and_line_by_line() -> None:
    """Two channels of 4 x 4 pixels, numbered on; the first patch has the corners up on the left."""
    model = vit(in_dim=32)
    patches = model.patches(torch.arange(32.0)[None])
    assert patches.shape == (1, 4, 8)
    assert patches[0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    assert patches[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]
    assert patches[0, 2].tolist() == [8, 9, 12, 13, 24, 25, 28, 29]


@torch.no_grad()
def test_attention_of_a_set_is_a_softmax_over_all_places() -> None:
    attention = Attention(dim=4, num_heads=1, context=5, causal=False)
    x_SD = torch.randn(5, 4)
    query, key, value = (x_SD @ attention.qkv.weight.T).split(4, -1)
    weight_SS = torch.softmax(query @ key.T / 2, -1)
    expected = weight_SS @ value @ attention.out.weight.T
    torch.testing.assert_close(attention(x_SD[None])[0], expected)


@torch.no_grad()
def test_the_vit_is_what_it_says() -> None:
    model = vit()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 2.0)

    def normed(x: torch.Tensor, norm: nn.RMSNorm) -> torch.Tensor:
        return F.rms_norm(x, (DIM,)) * norm.weight

    x = torch.randn(3, 72)
    h = model.patches(x) @ model.embed.weight.T + model.embed.bias + model.place_SD
    for block in model.blocks:
        h = h + block.attention(normed(h, block.attention_norm))
        h = h + block.ffn(normed(h, block.ffn_norm))[0]
    expected = normed(h, model.norm).mean(1) @ model.head.weight.T + model.head.bias
    scores, routings = model(x)
    torch.testing.assert_close(scores, expected)
    assert [routing.num_tokens for routing in routings] == [3 * 9]


# ------------------------------------------------------------------ laws


def shuffled(model: Vit, x: torch.Tensor) -> torch.Tensor:
    """The pictures with their patches in another order."""
    order = torch.tensor([4, 0, 8, 2, 7, 1, 3, 6, 5])
    x_BSP = model.patches(x)[:, order]
    x_BHHCPP = x_BSP.unflatten(1, (3, 3)).unflatten(-1, (2, 2, 2))
    return x_BHHCPP.permute(0, 3, 1, 4, 2, 5).flatten(1)


@torch.no_grad()
def test_without_places_the_order_of_the_patches_is_nothing_and_with_them_it_is_something() -> None:
    model, x = vit(), torch.randn(4, 72)
    other = shuffled(model, x)
    assert not torch.equal(other, x)
    assert (model(other)[0] - model(x)[0]).abs().max() > 1e-5
    model.place_SD.zero_()
    torch.testing.assert_close(model(other)[0], model(x)[0])


@torch.no_grad()
def test_every_patch_sees_every_other() -> None:
    """Of one block: a change in any patch changes what is said of any other."""
    attention = vit().blocks[0].attention
    x = torch.randn(1, 9, DIM)
    for place in range(9):
        changed = x.clone()
        changed[:, place] += 1
        moved = (attention(changed) - attention(x)).abs().amax(-1)[0]
        assert (moved > 1e-6).all()


@torch.no_grad()
def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    model, x = vit().eval(), torch.randn(5, 72)
    torch.testing.assert_close(model(x)[0][2:3], model(x[2:3])[0])


def test_a_gradient_reaches_everything() -> None:
    model = vit(ffn=mixture("grid", "soft"))
    F.cross_entropy(model(torch.randn(16, 72))[0], torch.arange(16) % 3).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_rest_starts_the_same_whatever_the_blocks_hold() -> None:
    one, other = vit(), vit(ffn=dense())
    for name, parameter in other.named_parameters():
        if "blocks.1.ffn." not in name:
            assert torch.equal(parameter, dict(one.named_parameters())[name]), name


# ------------------------------------------------------------------ costs


def test_costs_by_hand() -> None:
    """Grey, 4 x 4, four patches: a grid of 2 x 2 experts, one a patch, in the only block."""
    experts = partial(Mlp, hidden_dim=16, activation="gelu", dtype=None, implementation="loop")
    ffn = layer_of(tree=Tree.from_spec([2, 2]), selection=best(1), experts=experts)
    model = vit(in_dim=16, channels=1, depth=1, ffn_blocks=[0], ffn=ffn)
    found, nodes, num_experts = cost(model), 6, 4
    expert, gate = 2 * 8 * 16, nodes * 8 + nodes
    attention = 3 * 8 * 8 + 8 * 8
    rest = (4 * 8 + 8) + 4 * 8 + 8 + 8 + attention + 8 + (8 * 3 + 3)
    assert found.total_params == rest + gate + num_experts * expert
    assert found.active_params == rest + gate + expert
    a_patch = 2 * 4 * 8 + 2 * attention + 4 * 4 * 8 + 2 * nodes * 8 + 2 * expert
    assert found.flops_per_token == 4 * a_patch + 2 * 8 * 3
    assert (found.num_mixtures, found.experts_per_token) == (1, 1.0)


# ------------------------------------------------------------------ errors and smoke


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": 1},
            r"model\.channels = 1: the data give 72 values a row, which are no square",
        ),
        ({"channels": 0}, r"model\.channels = 0: the data give 72"),
        ({"patch": 4}, r"model\.patch = 4: must divide the 6 pixels"),
        ({"patch": 0}, r"model\.patch = 0: must divide"),
        ({"num_heads": 3}, r"model\.dim = 8: must be a multiple of model\.num_heads = 3"),
        ({"ffn_blocks": [2]}, r"model\.ffn_blocks = \[2\]: name one or more of the blocks 0 to 1"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vit(**changes)


def test_the_chosen_block_holds_a_mixture_and_the_control_none() -> None:
    assert [type(block.ffn) for block in vit().blocks] == [Dense, HMoE]
    assert vit(ffn=dense())(torch.randn(2, 72))[1] == []


def test_a_vit_learns_where_a_bright_patch_is() -> None:
    """Which of nine: only the places tell, since every picture has the same patches."""
    model = vit(out_dim=9, dim=16)
    y = torch.arange(9)
    x_BSP = torch.zeros(9, 9, 8)
    x_BSP[y, y] = 1.0
    x = x_BSP.unflatten(1, (3, 3)).unflatten(-1, (2, 2, 2)).permute(0, 3, 1, 4, 2, 5).flatten(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[0], y).backward()
        optimizer.step()
    assert (model(x)[0].argmax(-1) == y).all()
