"""Rows and FLOPs are seen in the products: stacked, separate, padded, dropped; all by hand.

Letters: T tokens, D width, F hidden width, E experts.
"""

import pytest
import torch
from torch import Tensor, nn

from hmoe.bench.floors import Dense, Floor, Plain
from hmoe.bench.work import Work, check_countable, work_of
from hmoe.errors import ConfigError

T, D, F, E = 24, 16, 32, 4
WIDTHS = {"dim": D, "hidden_dim": F}


class DropsHalf(nn.Module):
    """Sends the first half of the tokens to expert 0 and forgets the others."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(D, E)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(D, F), nn.ReLU(), nn.Linear(F, D)) for _ in range(E)
        )

    def forward(self, x_TD: Tensor) -> Tensor:
        self.router(x_TD)
        y_TD = torch.zeros_like(x_TD)
        y_TD[: T // 2] = self.experts[0](x_TD[: T // 2])
        return y_TD


class Padded(nn.Module):
    """Every expert has ten slots in a batched product, of which only six hold a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.randn(E, D, width))
        self.w_out = nn.Parameter(torch.randn(E, F, D))

    def forward(self, x_TD: Tensor) -> Tensor:
        slots = torch.cat([x_TD.view(E, T // E, D), x_TD.new_zeros(E, 4, D)], 1)
        hidden = torch.einsum("end,edf->enf", slots, self.w_in)[..., :F]
        return torch.einsum("enf,efd->end", hidden, self.w_out)[:, : T // E].reshape(T, D)


class Transposed(nn.Module):
    """A network whose weights stand on the left: y = (W_out W_in x^T)^T."""

    def __init__(self) -> None:
        super().__init__()
        self.w_in = nn.Parameter(torch.randn(F, D))
        self.w_out = nn.Parameter(torch.randn(D, F))

    def forward(self, x_TD: Tensor) -> Tensor:
        return (self.w_out @ (self.w_in @ x_TD.T)).T


def work(layer: nn.Module) -> Work:
    return work_of(layer, torch.randn(T, D), **WIDTHS)


def test_a_layer_that_drops_half_is_seen_to_drop_half() -> None:
    found = work(DropsHalf())
    # 12 rows through 16 x 32 and 32 x 16, 2 FLOPs a multiply-add, forward and twice backward.
    assert found == Work(rows=12, served=12, flops=3 * 2 * 12 * 2 * 16 * 32)
    assert found.dropped(T) == 0.5
    assert found.matrices(**WIDTHS) == 2


@pytest.mark.parametrize(("width", "matrices"), [(F, 2), (2 * F, 3)])
def test_padding_is_computed_and_not_served(width: int, matrices: int) -> None:
    found = work(Padded(width))
    assert (found.rows, found.served) == (40, 24)
    assert found.flops == 3 * 2 * 40 * matrices * 16 * 32
    assert found.dropped(T) == 0
    assert found.matrices(**WIDTHS) == matrices


def test_weights_on_the_left_are_seen_too() -> None:
    assert work(Transposed()) == Work(rows=24, served=24, flops=3 * 2 * 24 * 2 * 16 * 32)


class Cast(Padded):
    """The same products in bfloat16, of copies of the weights."""

    def forward(self, x_TD: Tensor) -> Tensor:
        x_TED = x_TD.to(torch.bfloat16).expand(E, T, D)
        hidden = x_TED @ self.w_in.to(torch.bfloat16)
        return (hidden @ self.w_out.to(torch.bfloat16)).sum(0)


def test_copies_of_weights_in_another_type_are_seen_too() -> None:
    assert work(Cast(F)) == Work(rows=96, served=96, flops=3 * 2 * 96 * 2 * 16 * 32)


@pytest.mark.parametrize("kind", ["gelu", "swiglu"])
def test_bounds_and_the_plain_mixture_do_equal_work(kind) -> None:
    matrices = 2 if kind == "gelu" else 3
    by_hand = Work(rows=24, served=24, flops=3 * 2 * 24 * matrices * 16 * 32)
    assert work(Dense(kind=kind, **WIDTHS)) == by_hand
    assert work(Floor(kind=kind, load_E=torch.tensor([20, 0, 1, 3]), **WIDTHS)) == by_hand
    twice = work(Plain(kind=kind, num_experts=E, k=2, **WIDTHS))
    assert twice == Work(rows=48, served=48, flops=2 * by_hand.flops)


def test_rows_beyond_the_last_group_are_not_computed() -> None:
    assert work(Floor(kind="gelu", load_E=torch.tensor([8, 4, 2, 1]), **WIDTHS)).rows == 15


def test_a_layer_without_such_products_is_not_counted() -> None:
    found = work(nn.Linear(D, D))
    assert found == Work(0, 0, 0)
    assert found.matrices(**WIDTHS) == 0


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"dim": 16, "hidden_dim": 16, "experts": [4]}, "hidden_dim = 16"),
        ({"dim": 16, "hidden_dim": 32, "experts": [4, 32]}, "experts = 32"),
        ({"dim": 16, "hidden_dim": 32, "experts": [64]}, "experts = 64"),
    ],
)
def test_shapes_that_look_like_others_are_refused(shape, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_countable(**shape)


def test_the_plain_mixture_is_the_sum_of_its_experts() -> None:
    """By the slow way: every expert on every token, weighed by what the router says."""
    torch.manual_seed(0)
    for k in (1, 2):
        layer, x_TD = Plain(kind="gelu", num_experts=E, k=k, **WIDTHS), torch.randn(T, D)
        nn.init.normal_(layer.router.weight)
        weight_TE = layer.router(x_TD).softmax(-1)
        weight_TE = torch.where(weight_TE >= weight_TE.topk(k).values[:, -1:], weight_TE, 0)
        if k > 1:
            weight_TE = weight_TE / weight_TE.sum(-1, keepdim=True)
        w_in_EDF, w_out_EFD = layer.weights
        y_ETD = nn.functional.gelu(x_TD @ w_in_EDF) @ w_out_EFD
        expected_TD = torch.einsum("te,etd->td", weight_TE, y_ETD)
        torch.testing.assert_close(layer(x_TD), expected_TD, atol=1e-5, rtol=1e-5)
