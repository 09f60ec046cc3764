"""Numbers at their limits: what a layer makes of NaN, of very large scores, and of no tokens."""

import pytest
import torch

from hmoe.layer import HMoE, LazyHMoE, Tree
from tests.cases import CASES, DIM, TREES, best, layer_of, make_layer

# An expert that chooses its tokens looks at all of them, so there a NaN token is not alone.
BY_TOKEN = [case for case in CASES if case[1] != "expert_choice"]


def assert_nan_stays(layer: HMoE) -> None:
    """A NaN in one token gives NaN in that token's answer only, and the backward works."""
    x = torch.randn(7, DIM)
    expected = layer(x)[0].detach()
    others = torch.arange(7) != 3
    x[3, 1] = torch.nan
    y, _ = layer(x)
    assert y[3].isnan().all()
    assert torch.allclose(y[others], expected[others], atol=1e-6)
    y.sum().backward()


@pytest.mark.parametrize(("tree", "selection"), BY_TOKEN)
def test_nan_stays_with_its_token(tree: str, selection: str) -> None:
    assert_nan_stays(make_layer(tree, selection))


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("beam", [1, 2, None])
def test_nan_stays_with_its_token_under_a_lazy_descent(tree: str, beam: int | None) -> None:
    organisation = Tree.from_spec(TREES[tree])
    selection = best(1, beam=beam if organisation.num_levels > 1 else None)
    dense = layer_of(tree=organisation, selection=selection)
    assert_nan_stays(LazyHMoE(**(dense.keywords | {"dim": DIM})))


def test_nan_chooses_nobody_twice() -> None:
    """The decisions of a NaN token are arbitrary, yet decisions: so many experts, all different."""
    for selection in ("descend_2", "top_2", "beam_2"):
        routing = make_layer("grid", selection)(torch.full((1, DIM), torch.nan))[1]
        experts = routing.expert_R.tolist()
        assert len(experts) == len(set(experts)) == (4 if selection == "descend_2" else 2)
