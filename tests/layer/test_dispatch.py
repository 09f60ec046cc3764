"""Dispatch: rows to expert order and back, by hand, and its derivatives against numeric ones."""

import pytest
import torch

from hmoe.layer import Routing, Tree
from hmoe.layer.dispatch import combine, expert_order, permute
from hmoe.layer.scores import Unscored


def routing_of(
    tokens: list[int], experts: list[int], *, num_tokens: int, weights: torch.Tensor | None = None
) -> Routing:
    if weights is None:
        weights = torch.ones(len(tokens), dtype=torch.float64)
    scores = Unscored(Tree.from_spec([3]), num_tokens)
    to_int = torch.int64
    return Routing(
        scores, torch.tensor(tokens, dtype=to_int), torch.tensor(experts, dtype=to_int), weights
    )


# Token 1 has no row, token 2 two of one expert.
RAGGED = {"tokens": [0, 0, 2, 2, 2, 3], "experts": [2, 0, 1, 1, 0, 2], "num_tokens": 5}


def test_rows_of_an_expert_lie_together_in_token_order() -> None:
    x = torch.arange(5.0)[:, None]
    order = expert_order(routing_of(**RAGGED))
    assert permute(x, order).flatten().tolist() == [0, 2, 2, 2, 0, 3]
    assert order.row_R.tolist() == [1, 4, 2, 3, 0, 5]
    assert order.place_R.tolist() == [4, 0, 2, 3, 1, 5]
    assert order.start_T.tolist() == [0, 2, 2, 5, 6]


def test_answers_are_weighed_and_summed_by_token() -> None:
    order = expert_order(routing_of(**RAGGED))
    weight = torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])
    y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])[:, None]  # in expert order
    expected = [1 * 5 + 10 * 1, 0, 100 * 3 + 1000 * 4 + 1e4 * 2, 1e5 * 6, 0]
    assert combine(y, weight, order).flatten().tolist() == expected


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(
    "case",
    [
        RAGGED,
        {"tokens": [0, 1, 1, 2], "experts": [0, 0, 2, 1], "num_tokens": 4},
        {"tokens": [], "experts": [], "num_tokens": 4},
    ],
)
def test_derivatives_are_the_numeric_ones(case: dict, heads: int) -> None:
    """Of two heads the second has its own rows of the same tokens."""
    num_tokens = case["num_tokens"]
    both = {
        "tokens": case["tokens"] + [t + num_tokens for t in case["tokens"]] * (heads - 1),
        "experts": case["experts"] * heads,
        "num_tokens": num_tokens * heads,
    }
    order = expert_order(routing_of(**both))
    x = torch.randn(num_tokens, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: permute(x, order), x)
    y = torch.randn(len(both["tokens"]), 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(y), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, w: combine(y, w, order), (y, weight))
    assert torch.autograd.gradcheck(lambda y: combine(y, weight.detach(), order), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_those_of_scattered_addition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (300,), generator=generator).sort().values
    experts = torch.randint(3, (300,), generator=generator)
    routing = routing_of(tokens.tolist(), experts.tolist(), num_tokens=50)
    order = expert_order(routing)
    x = torch.randn(50, 16, generator=generator).to(dtype)
    weight = torch.rand(300, generator=generator)
    y = permute(x, order)
    assert torch.equal(y, x[tokens[order.row_R]])
    expected = torch.zeros(50, 16).index_add_(0, tokens, x[tokens].float() * weight[:, None])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    mine = combine(y, weight, order)
    assert mine.dtype == dtype
    assert (mine.float() - expected).norm() < tolerance * expected.norm()
