"""Models: rotary positions by hand, causality, the attention oracle, routings in order, errors."""

from collections.abc import Callable, Sequence
from functools import partial
from math import cos, sin
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hmoe.balance import mixture_layers
from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Mlp
from hmoe.models import Dense, ResidualMlp, Transformer
from hmoe.models.transformer import Attention, rotate
from tests.cases import DIM, MODELS, SELECTIONS, TREES, dense, make_input, mixture

# ------------------------------------------------------------------ rotary positions by hand


def test_a_pair_is_turned_by_its_position() -> None:
    turned = rotate(torch.tensor([[[[1.0, 0.0]] * 4]]))[0, 0]
    # One pair a head turns by one radian a position.
    expected = torch.tensor([[cos(p), sin(p)] for p in range(4)])
    torch.testing.assert_close(turned, expected)


def test_later_pairs_turn_slower() -> None:
    # Heads of four: pairs (0, 2) and (1, 3), the second at 10000^(-1/2) = 1/100 of the speed.
    turned = rotate(torch.tensor([1.0, 0.0, 0.0, 2.0]).expand(1, 2, 3, 4))[0, 1]
    expected = [[cos(p), -2 * sin(p / 100), sin(p), 2 * cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_scores_depend_on_relative_positions_only() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 12, 8)
    scores = rotate(query)[0, 0] @ rotate(key)[0, 0].T
    for distance in range(-11, 12):
        on_diagonal = scores.diagonal(distance)
        torch.testing.assert_close(on_diagonal, on_diagonal[:1].expand_as(on_diagonal))
    assert scores[0].std() > 0.1, "and they do depend on them"


def naive_attention(attention: Attention, x_SD: torch.Tensor) -> torch.Tensor:
    """Head by head, position by position."""
    dim, heads = x_SD.shape[1], attention.num_heads
    size = dim // heads
    rows = [attention.qkv.weight @ x for x in x_SD]
    output = []
    for p in range(len(x_SD)):
        answer = []
        for h in range(heads):

            def part(which: int, position: int, turn: bool, h: int = h) -> torch.Tensor:
                start = which * dim + h * size
                vector = rows[position][start : start + size].clone()
                if turn:
                    half = size // 2
                    for i in range(half):
                        angle = position * 10000 ** (-i / half)
                        a, b = vector[i].clone(), vector[i + half].clone()
                        vector[i] = a * cos(angle) - b * sin(angle)
                        vector[i + half] = a * sin(angle) + b * cos(angle)
                return vector

            query = part(0, p, turn=True)
            scores = [query @ part(1, r, turn=True) / size**0.5 for r in range(p + 1)]
            weights = torch.stack(scores).softmax(0)
            answer.append(sum(w * part(2, r, turn=False) for r, w in enumerate(weights)))
        output.append(attention.out.weight @ torch.cat(answer))
    return torch.stack(output)


@torch.no_grad()
def test_attention_is_the_naive_one() -> None:
    attention = Attention(dim=16, num_heads=2, context=7, causal=True)
    x = torch.randn(2, 7, 16)
    expected = torch.stack([naive_attention(attention, rows) for rows in x])
    torch.testing.assert_close(attention(x), expected)
    torch.testing.assert_close(attention(x[:, :3]), expected[:, :3])  # a shorter window


# ------------------------------------------------------------------ laws


@torch.no_grad()
@pytest.mark.parametrize("selection", [s for s in SELECTIONS if s != "expert_choice"])
def test_a_byte_changes_no_score_before_it(selection: str) -> None:
    model = MODELS["transformer"](ffn=mixture("ragged", selection)).eval()
    x = make_input("transformer", batch=2)
    scores, _ = model(x)
    for t in range(x.shape[1]):
        changed = x.clone()
        changed[:, t] = (x[:, t] + 1) % 11
        after, _ = model(changed)
        torch.testing.assert_close(after[:, :t], scores[:, :t])
        for later in range(t, x.shape[1]):
            assert (after[:, later] - scores[:, later]).abs().max() > 1e-6, (
                "it is read from then on"
            )


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_samples_of_a_batch_do_not_see_each_other(model: str) -> None:
    network = MODELS[model](ffn=mixture("ragged", "descend_2")).eval()
    x = make_input(model, batch=5)
    torch.testing.assert_close(network(x)[0][2:3], network(x[2:3])[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tree", TREES)
def test_shapes_and_routings_in_order(model: str, tree: str) -> None:
    network = MODELS[model](ffn=mixture(tree, "top_2"))
    x = make_input(model, batch=3)
    seen: list[Any] = []
    for layer in mixture_layers(network):
        layer.register_forward_hook(lambda _m, _x, out: seen.append(out[1]))
    output, routings = network(x)
    assert output.shape == ((3, 3) if model == "mlp" else (3, 6, 7))
    assert len(routings) == 2 == len(mixture_layers(network))
    assert all(routing is called for routing, called in zip(routings, seen, strict=True))
    assert {routing.num_tokens for routing in routings} == {3 if model == "mlp" else 18}


@pytest.mark.parametrize("model", MODELS)
def test_a_dense_control_returns_no_routings(model: str) -> None:
    network = MODELS[model](ffn=dense())
    output, routings = network(make_input(model, batch=3))
    assert routings == []
    assert output.shape == ((3, 3) if model == "mlp" else (3, 6, 7))


def test_a_dense_control_is_its_one_expert() -> None:
    control = Dense(
        experts=partial(Mlp, hidden_dim=8, activation="gelu", dtype=None, implementation="loop"),
        dim=DIM,
    )
    x = torch.randn(2, 3, DIM)
    y, routing = control(x)
    bank = control.experts
    torch.testing.assert_close(y, F.gelu(x @ bank.w_in_EDF[0]) @ bank.w_out_EFD[0])
    assert routing is None


@torch.no_grad()
def test_the_residual_mlp_is_what_it_says() -> None:
    model = MODELS["mlp"](ffn=mixture("grid", "top_2"))
    x = torch.randn(4, 5)
    h = model.embed(x)
    for norm, ffn in zip(model.norms, model.ffns, strict=True):
        norm.weight.uniform_(0.5, 2.0)
        h = h + ffn(F.rms_norm(h, (DIM,)) * norm.weight)[0]
    torch.testing.assert_close(model(x)[0], model.head(F.rms_norm(h, (DIM,))))


@torch.no_grad()
def test_the_transformer_is_what_it_says() -> None:
    model = MODELS["transformer"](ffn=mixture("grid", "top_2"))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 2.0)

    def normed(x: torch.Tensor, norm: nn.RMSNorm) -> torch.Tensor:
        return F.rms_norm(x, (DIM,)) * norm.weight

    x = make_input("transformer")
    h = model.embed.weight[x] * 50  # so that a residual left out is seen
    model.embed.weight *= 50
    for block in model.blocks:
        h = h + block.attention(normed(h, block.attention_norm))
        h = h + block.ffn(normed(h, block.ffn_norm))[0]
    torch.testing.assert_close(model(x)[0], normed(h, model.norm) @ model.head.weight.T)


# ------------------------------------------------------------------ which blocks hold mixtures


def transformer(**changes: Any) -> Transformer:
    sizes: dict[str, Any] = {"dim": DIM, "depth": 3, "num_heads": 2, "ffn_blocks": [0, 2]}
    return MODELS["transformer"](ffn=mixture("grid", "top_2"), **(sizes | changes))


@pytest.mark.parametrize("ffn_blocks", [[0], [1, 2], [2, 0], [0, 1, 2]])
def test_the_chosen_blocks_hold_mixtures_and_the_others_do_not(ffn_blocks: list[int]) -> None:
    model = transformer(ffn_blocks=ffn_blocks)
    kinds = [type(block.ffn) for block in model.blocks]
    assert kinds == [HMoE if n in ffn_blocks else Dense for n in range(3)]
    assert len(model(make_input("transformer"))[1]) == len(ffn_blocks)


@pytest.mark.parametrize("ffn_blocks", [[], [3], [0, -1], [0, 7]])
def test_blocks_that_do_not_exist_are_refused(ffn_blocks: list[int]) -> None:
    message = r"model\.ffn_blocks = \[.*\]: name one or more of the blocks 0 to 2\."
    with pytest.raises(ConfigError, match=message):
        transformer(ffn_blocks=ffn_blocks)


@pytest.mark.parametrize(("dim", "num_heads"), [(8, 3), (8, 8), (12, 4), (8, 0), (8, -1)])
def test_heads_that_do_not_divide_the_width_into_pairs_are_refused(
    dim: int, num_heads: int
) -> None:
    message = (
        rf"model\.dim = {dim}: must be a multiple of 2 \* model\.num_heads = {2 * num_heads}\."
    )
    with pytest.raises(ConfigError, match=message):
        transformer(dim=dim, num_heads=num_heads)


def test_a_window_longer_than_the_context_is_refused() -> None:
    model = transformer(context=4)
    assert model(torch.zeros(1, 4, dtype=torch.int64))[0].shape == (1, 4, 7)
    message = (
        r"model\.context = 4: the data give windows of 6 positions\. Leave it at data\.context"
    )
    with pytest.raises(ConfigError, match=message):
        model(make_input("transformer"))


# ------------------------------------------------------------------ smoke


def fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Accuracy on the same samples after some steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[0].flatten(0, -2), y.flatten()).backward()
        optimizer.step()
    return (model(x)[0].argmax(-1) == y).float().mean().item()


FFNS: Sequence[Callable[..., nn.Module]] = [mixture("ragged", "top_2"), dense()]


@pytest.mark.parametrize("ffn", FFNS, ids=["mixture", "dense"])
def test_an_mlp_learns_32_samples_by_heart(ffn: Callable[..., nn.Module]) -> None:
    x, y = torch.randn(32, 5), torch.randint(0, 3, (32,))
    model = ResidualMlp(in_dim=5, out_dim=3, dim=32, depth=2, ffn=ffn)
    assert fit(model, x, y, steps=80) == 1.0


@pytest.mark.parametrize("ffn", FFNS, ids=["mixture", "dense"])
def test_a_transformer_learns_32_windows_by_heart(ffn: Callable[..., nn.Module]) -> None:
    x = torch.randint(0, 11, (32, 6))
    # The byte before, which only attention can know; at position 0 the byte itself.
    y = torch.cat([x[:, :1], x[:, :-1]], 1) % 7
    model = MODELS["transformer"](ffn=ffn, dim=32, depth=2, ffn_blocks=[0, 1])
    assert fit(model, x, y, steps=200) == 1.0
