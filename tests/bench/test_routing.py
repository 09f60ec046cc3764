"""Routers: product keys by hand, and as a tied tree; what the suite measures, on small sizes."""

import pytest
import torch

from hmoe.bench.measure import Timing
from hmoe.bench.routers import (
    DIM,
    ProductKeys,
    exact_top,
    recall,
    tied_layer,
    tree_layer,
    tree_spec,
    with_keys_of,
)
from hmoe.bench.routing import (
    bench_routing,
    dense_per_asked,
    growth,
    growth_rows,
    lazy_over_dense,
    routing_aims,
)
from hmoe.errors import ConfigError


def test_product_keys_by_hand() -> None:
    # Of 16 x 16 pairs (i, j) the score is i + j / 100: the best 16 have i = 15, then fewer.
    keys = ProductKeys(256)
    with torch.no_grad():
        keys.query_DD.zero_().fill_diagonal_(1)
        keys.key_1_SH.zero_()[:, 0] = torch.arange(16.0)
        keys.key_2_SH.zero_()[:, 0] = torch.arange(16.0) / 100
    x_TD = torch.zeros(1, DIM)
    x_TD[0, 0] = x_TD[0, DIM // 2] = 1
    chosen = keys(x_TD)
    assert chosen.expert_TK.tolist() == [[15 * 16 + j for j in reversed(range(16))]]
    odds_K = (torch.arange(16.0) / 100).exp().flip(0)
    assert torch.allclose(chosen.weight_TK, odds_K / odds_K.sum())


def test_a_tied_tree_is_product_keys() -> None:
    """Lample et al. (2019), section 3.1: choices, weights, and the gradient of the tokens."""
    tied, keys = tied_layer(1024), ProductKeys(1024)
    with_keys_of(tied, keys)
    x_TD = torch.randn(50, DIM, requires_grad=True)
    ours, theirs = tied(x_TD), keys(x_TD)
    assert torch.equal(ours.expert_TK, theirs.expert_TK)
    assert torch.allclose(ours.weight_TK, theirs.weight_TK, atol=1e-6)
    ramp = torch.linspace(-1, 1, ours.weight_TK.numel()).view_as(ours.weight_TK)
    grads = [torch.autograd.grad((c.weight_TK * ramp).sum(), x_TD)[0] for c in (ours, theirs)]
    assert torch.allclose(*grads, atol=1e-6)
    assert torch.equal(exact_top(tied, x_TD), theirs.expert_TK)


@pytest.mark.parametrize(
    ("experts", "branching", "spec"),
    [(2**20, 16, [16] * 5), (2**20, 32, [32] * 4), (2**12, 32, [4, 32, 32]), (256, 32, [8, 32])],
)
def test_trees_of_any_power_of_two(experts: int, branching: int, spec: list[int]) -> None:
    assert tree_spec(experts, branching) == spec


def test_recall_by_hand() -> None:
    found, exact = (
        torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]),
        torch.tensor([[4, 9, 1, 8], [5, 6, 7, 8]]),
    )
    assert recall(found, exact) == (2 + 4) / 8


def test_a_beam_finds_some_of_the_exact_best() -> None:
    tree = tree_layer(4096, branching=16, beam=4)
    x_TD = torch.randn(64, DIM)
    assert 0.3 < recall(tree(x_TD).expert_TK, exact_top(tree, x_TD)) < 0.9


def test_growth_is_the_large_over_the_small_and_the_router_over_product_keys() -> None:
    seconds = {
        ("product keys", 2**12): [1.0, 2.0, 1.0],
        ("product keys", 2**20): [4.0, 4.0, 4.0],
        ("tree", 2**12): [2.0, 4.0, 2.0],
        ("tree", 2**20): [8.0, 8.0, 6.0],
        ("fill", 2**20): [1.0, 1.0, 1.0],
    }
    times = {key: Timing(wall_s=s, cpu_s=s) for key, s in seconds.items()}
    rows = {(r["router"], r["experts"]): r for r in growth_rows(times, "forward", threads=2)}
    assert rows["tree", 2**20]["over_4096"] == {"median": 3, "lowest": 2, "highest": 4}
    assert rows["tree", 2**20]["over_product_keys"] == {"median": 2, "lowest": 1.5, "highest": 2}
    assert rows["fill", 2**20]["over_4096"] is None
    (aim,) = [
        a for a in routing_aims(_known(rows)) if "tree of 16" in a.name and "over 2" in a.name
    ]
    assert (aim.measured, aim.reached) == (3, True)


def _known(rows: dict) -> list[dict]:
    """The rows of `tree` under the names that the aims look for."""
    tree = rows["tree", 2**20]
    return [{**tree, "router": name} for name in ("tree of 16", "tree of 32", "tied tree")]


def test_rows_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmoe.bench.routing.TOKENS", 64)
    for passes in ("forward", "forward + backward"):
        rows = growth((2**8, 2**12), passes, rounds=1, device="cpu")
        routers = {row["router"] for row in rows if row["experts"] == 2**12}
        assert {"flat", "product keys", "tied tree", "tree of 16", "tree of 32"} < routers
        assert all(row["seconds"] > 0 for row in rows)
    assert len(lazy_over_dense((16, 64), rounds=1, device="cpu")) == 4
    assert all(
        row["level_over_asked"]["median"] > 0 for row in dense_per_asked(rounds=1, device="cpu")
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("thread=1", r"thread=1: 'thread' is not an option here.* Did you mean 'threads'"),
        ("threads=[0]", r"threads = \[0\]: expected whole numbers"),
    ],
)
def test_options_of_the_suite(override: str, message: str, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        bench_routing(rounds=1, out=tmp_path, overrides=[override], command="")
