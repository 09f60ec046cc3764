"""Lazy descent: by hand, then against the dense layer, answers and gradients, and exact search."""

import pytest
import torch
from hypothesis import given as each
from hypothesis import reject, settings
from hypothesis import strategies as st

from hmoe.balance import Balance, BiasController, switch_loss
from hmoe.errors import ConfigError, HmoeError
from hmoe.layer import HMoE, LazyHMoE, Tree
from hmoe.layer.asking import LinearScorer, TiedScorer
from hmoe.layer.descent import Found, best_sums, path_values, search
from hmoe.layer.looks import Look
from hmoe.layer.tree_ops import at_experts, path_product, path_sum, sibling_softmax
from hmoe.metrics import LoadMetrics
from tests.cases import (
    DIM,
    NO_SHARED,
    TREES,
    best,
    bottom_up,
    down,
    heads,
    layer_of,
    make_layer,
    tied,
    top_down,
)

UNIFORM = {name: spec for name, spec in TREES.items() if isinstance(spec, list)}
# Every option of a search with a beam that the tree has room for.
SEARCHES = {
    "greedy": {"k": 1, "beam": 1},
    "beam_2": {"k": 2, "beam": 2, "weights": "renormalized"},
    "after": {"k": 2, "beam": 2, "weights": "softmax", "scale": 2.5},
    "wide": {"k": 3, "beam": 100, "weights": "renormalized"},
    "all": {"k": 2, "beam": None},
    "capacity": {"k": 2, "beam": 2, "capacity": 1.0},
}
GATES = {
    "top_down": top_down(),
    "query": top_down(width=11, temperature=0.5),
    "tied": tied(),
    "tied_cosine": tied(score="cosine", width=6, temperature=0.1),
}


def pair(spec: object, gate: str, **options) -> tuple[HMoE, LazyHMoE]:
    """The dense layer and the lazy one with the same weights."""
    tree = Tree.from_spec(spec)
    if tree.num_levels == 1:
        options["beam"] = None
    parts = {"tree": tree, "gate": GATES[gate], "selection": best(**options)}
    dense = layer_of(**parts)(dim=DIM)
    lazy = lazy_of(**parts)
    lazy.load_state_dict(dense.state_dict())
    return dense, lazy


def lazy_of(**parts) -> LazyHMoE:
    """A lazy layer of the given parts, plain ones where none is given."""
    return LazyHMoE(**(layer_of(**parts).keywords | {"dim": DIM}))


def outcome(layer: HMoE, x: torch.Tensor) -> list[torch.Tensor]:
    """Answer, rows, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    y, routing = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    grads = [p.grad for p in layer.parameters()]
    return [y, routing.token_R, routing.expert_R, routing.weight_R, x.grad, *grads]


def assert_same(dense: HMoE, lazy: LazyHMoE, x: torch.Tensor) -> None:
    for one, other in zip(outcome(dense, x), outcome(lazy, x), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-5, rtol=1e-4)


def scorer_of(tree: Tree, x: torch.Tensor, weight: torch.Tensor, bias=None) -> LinearScorer:
    bias = torch.zeros(tree.num_nodes) if bias is None else bias
    return LinearScorer(tree, x, weight, bias, [1.0] * tree.num_levels)


# Both ways to score a level, as the ratio of their costs that leads to them.
WAYS = {"whole levels": float("inf"), "asked nodes": 0.0}


@pytest.fixture(params=WAYS)
def scored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    force(request.param, monkeypatch)


def force(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hmoe.layer.looks._DENSE_PER_ASKED", WAYS[way])


# ------------------------------------------------------------------ by hand


def test_two_levels_by_hand() -> None:
    # Departments 0 and 1 of two experts each; the token is one number, and so is a node's weight.
    # Odds of the departments 3:2; in them 1:1 and 9:1, so paths weigh .3 .3 .36 .04.
    tree = Tree.from_spec([2, 2])
    weight_ND = torch.zeros(6, 4)
    weight_ND[:, 0] = torch.tensor([3.0, 2.0, 1.0, 1.0, 9.0, 1.0]).log()
    scorer = scorer_of(tree, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), weight_ND)
    assert search(scorer, k=1, beams=[2]).expert_TK.tolist() == [[2]]
    # With a beam of 1 department 1 is out, and .36 with it.
    assert search(scorer, k=1, beams=[1]).expert_TK.item() in (0, 1)
    found = search(scorer, k=4, beams=[2])
    assert found.expert_TK[0, 0] == 2
    assert found.expert_TK[0, 3] == 3
    weight_TK = path_values(scorer, found, raw=False)
    assert torch.allclose(weight_TK, torch.tensor([[0.36, 0.3, 0.3, 0.04]]))
    odds_TK = path_values(scorer, found, raw=True).exp()
    # 2 * 9, 3 * 1, 3 * 1, 2 * 1
    assert torch.allclose(odds_TK, torch.tensor([[18.0, 3.0, 3.0, 2.0]]))


def test_looks_of_a_ragged_tree_by_hand() -> None:
    # Nodes 0 to 2 are a, b and c; a has nodes 3 and 4, b is an expert, c has nodes 5 to 7.
    tree = Tree.from_spec({"a": 2, "b": 1, "c": 3})
    alive = torch.tensor([[True, True], [True, False]])
    look = Look(tree, 1, torch.tensor([[1, 2], [2, 0]]), alive)
    assert look.room == 3
    assert look.is_child_TC[0].tolist() == [True, True, False, True, True, True]
    assert look.asked_TC[0].tolist() == [True, True, False, True, True, True]
    assert look.asked_TC[1].tolist() == [True, True, True, False, False, False]
    assert look.node_TC[look.asked_TC].tolist() == [3, 4, 5, 6, 7, 5, 6, 7]
    assert look.node_at(torch.tensor([[4, 0], [2, 1]])).tolist() == [[6, 3], [7, 6]]
    assert look.num_asked() == 8
    # 3 nodes of a level in the time of one that is asked for: 5 nodes beside 6 places.
    assert look.is_whole
    assert look.num_compared() == 2 * 5


def test_levels_are_scored_whole_while_they_are_small() -> None:
    tree = Tree.from_spec([4, 4, 4])
    found = search(scorer_of(tree, torch.randn(3, 8), torch.randn(84, 8)), k=1, beams=[1, 1])
    # 4 places each, beside 4, 16 and 64 nodes.
    assert [step.look.is_whole for step in found.steps] == [True, False, False]
    assert [step.look.num_compared() for step in found.steps] == [12, 12, 12]


def test_an_expert_above_the_beam_is_not_starved() -> None:
    tree = Tree.from_spec({"solo": 1, "a": 2, "b": 2})
    # solo .2, a .45, b .35: both units have more, yet with a beam of 1 solo stays in the running.
    logits_N = torch.tensor([0.2, 0.45, 0.35, 0.5, 0.5, 0.9, 0.1]).log()
    scorer = scorer_of(tree, torch.zeros(1, 4), torch.zeros(7, 4), logits_N)
    expert_TK = search(scorer, k=3, beams=[1]).expert_TK
    assert {tree.path_N[tree.node_E[e]] for e in expert_TK[0].tolist()} == {"solo", "a.0", "a.1"}


# ------------------------------------------------------------------ dense and lazy agree


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("tree", TREES)
def test_lazy_is_dense(tree: str, name: str, gate: str, scored: None) -> None:
    if gate.startswith("tied") and tree not in UNIFORM:
        return
    assert_same(*pair(TREES[tree], gate, **SEARCHES[name]), torch.randn(3, 11, DIM))


units = st.recursive(
    st.integers(1, 5),
    lambda unit: st.one_of(
        st.lists(st.integers(2, 4), min_size=1, max_size=2),
        st.lists(unit, min_size=2, max_size=4).map(
            lambda parts: {f"u{i}": part for i, part in enumerate(parts)}
        ),
    ),
    max_leaves=8,
).filter(lambda unit: not isinstance(unit, int))


@settings(deadline=None, max_examples=80)
@each(
    spec=units,
    k=st.integers(1, 3),
    beam=st.integers(1, 6),
    seed=st.integers(0, 2**20),
    way=st.sampled_from(list(WAYS)),
)
def test_lazy_is_dense_on_any_tree(spec: object, k: int, beam: int, seed: int, way: str) -> None:
    torch.manual_seed(seed)
    try:
        dense, lazy = pair(spec, "top_down", k=k, beam=beam)
    except ConfigError:  # the tree is too small for k
        reject()
    with pytest.MonkeyPatch.context() as patch:
        force(way, patch)
        assert_same(dense, lazy, torch.randn(13, DIM))


def test_a_controller_steers_the_search_and_not_the_weights() -> None:
    dense, lazy = pair([3, 4], "top_down", k=2, beam=2)
    dense.add_bias()
    lazy.add_bias()
    dense.bias_N.copy_(torch.randn(dense.tree.num_nodes) * 2)
    lazy.load_state_dict(dense.state_dict())
    x = torch.randn(40, DIM)
    assert_same(dense, lazy, x)
    biased = lazy(x)[1].expert_R
    lazy.bias_N.zero_()
    assert not torch.equal(biased, lazy(x)[1].expert_R)


def test_another_beam_outside_training() -> None:
    tree = Tree.from_spec([4, 4, 4])
    parts = {"tree": tree, "selection": best(2, beam=1), "eval_selection": best(2, beam=16)}
    lazy = lazy_of(**parts)
    dense = layer_of(**parts)(dim=DIM)
    dense.load_state_dict(lazy.state_dict())
    x = torch.randn(50, DIM)
    chosen = []
    for train in (True, False):
        lazy.train(train)
        dense.train(train)
        assert_same(dense, lazy, x)
        chosen.append(lazy(x)[1].expert_R)
    assert not torch.equal(*chosen)


@pytest.mark.parametrize("tree", UNIFORM)
@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_uniform_tree_is_a_ragged_one(
    tree: str, beam: int, scored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search without masks and its twin, which keeps track of who is in the running."""
    _, lazy = pair(UNIFORM[tree], "top_down", k=2, beam=beam)
    x = torch.randn(20, DIM)
    without = outcome(lazy, x)
    monkeypatch.setattr("hmoe.layer.descent.is_uniform", lambda tree: False)
    lazy.zero_grad()
    for one, other in zip(without, outcome(lazy, x), strict=True):
        assert torch.allclose(one.float(), other.float(), atol=1e-6)


@settings(deadline=None, max_examples=40)
@each(
    spec=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    k=st.integers(1, 4),
    beam=st.integers(1, 5),
    raw=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_the_search_for_sums_is_a_descent(
    spec: list[int], k: int, beam: int, raw: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    tree, beams = Tree.from_spec(spec), [beam] * (len(spec) - 1)
    k = min(k, spec[-1])  # whatever the beam leaves
    levels = [torch.randn(9, size, requires_grad=True) for size in spec]
    scorer = TiedScorer(
        tree, torch.zeros(9, 1), [lambda _, i=i: levels[i] for i in range(len(spec))]
    )
    found: Found = search(scorer, k=k, beams=beams)
    expert_TK, value_TK = best_sums(scorer, k=k, beams=beams, raw=raw)
    assert torch.equal(expert_TK, found.expert_TK)
    values = [path_values(scorer, found, raw=raw), value_TK]
    assert torch.allclose(*values, atol=1e-6)
    ramp = torch.linspace(-1, 1, values[0].numel()).view_as(values[0])
    grads = [torch.autograd.grad((v * ramp).sum(), levels) for v in values]
    for one, other in zip(*grads, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_what_is_asked_for_is_a_valid_sparse_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns ascend, none twice: a condition of products, which do not check it."""
    force("asked nodes", monkeypatch)
    plain = torch.sparse_csr_tensor
    monkeypatch.setattr(
        "torch.sparse_csr_tensor", lambda *a, **k: plain(*a, **(k | {"check_invariants": True}))
    )
    for tree, spec in TREES.items():
        beam = None if tree == "flat" else 3
        _, lazy = pair(spec, "top_down", k=2, beam=beam, weights="renormalized")
        outcome(lazy, torch.randn(30, DIM))


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_few_tokens(num_tokens: int, scored: None) -> None:
    dense, lazy = pair([2, 2, 3], "top_down", k=2, beam=2)
    assert_same(dense, lazy, torch.randn(num_tokens, DIM))


@pytest.mark.parametrize("gate", ["query", "tied"])
def test_autocast_leaves_the_search_alone(gate: str) -> None:
    _, lazy = pair([3, 4], gate, k=2, beam=2)
    x = torch.randn(40, DIM)
    exact = lazy(x)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = lazy(x)[1]
    assert torch.equal(routing.expert_R, exact.expert_R)
    assert torch.equal(routing.weight_R, exact.weight_R)


# ------------------------------------------------------------------ exact search


@pytest.mark.parametrize("tree", TREES)
def test_a_wide_beam_finds_the_exact_top_k(tree: str, scored: None) -> None:
    organisation = Tree.from_spec(TREES[tree])
    x, weight = torch.randn(64, DIM), torch.randn(organisation.num_nodes, DIM)
    bias = torch.randn(organisation.num_nodes)
    reach_TN = path_product(sibling_softmax(x @ weight.T + bias, organisation), organisation)
    exact_TK = at_experts(reach_TN, organisation).topk(4).indices
    beams = [organisation.num_experts] * (organisation.num_levels - 1)
    found = search(scorer_of(organisation, x, weight, bias), k=4, beams=beams)
    assert torch.equal(found.expert_TK, exact_TK)


@pytest.mark.parametrize("spec", [[8, 8], [4, 4, 4], [2, 16]])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_product_keys_with_a_beam_of_k_are_the_exact_top_k_of_sums(spec: list[int], k: int) -> None:
    """Lample et al. (2019), section 3.1: the best k sums use the best k of every addend."""
    tree = Tree.from_spec(spec)
    layer = lazy_of(tree=tree, gate=tied(), selection=best(k, beam=k))
    x_TD = torch.randn(64, DIM)
    routing = layer(x_TD)[1]
    sums_TE = torch.zeros(64, 1)
    for scorer in layer.gate.scorers:
        sums_TE = (sums_TE[:, :, None] + scorer(x_TD, None)[:, None, :]).flatten(1)
    exact_TK = sums_TE.topk(k).indices
    assert torch.equal(routing.expert_R.view(64, k), exact_TK)
    # The product of the softmaxes is the softmax of the sums.
    weight_TK = sums_TE.softmax(-1).gather(-1, exact_TK)
    assert torch.allclose(routing.weight_R.view(64, k), weight_TK, atol=1e-6)


def test_raw_scores_add_up_along_paths() -> None:
    tree = Tree.from_spec(TREES["lopsided"])
    x, weight = torch.randn(9, DIM), torch.randn(tree.num_nodes, DIM)
    scorer = scorer_of(tree, x, weight)
    found = search(scorer, k=tree.num_experts, beams=[tree.num_nodes] * (tree.num_levels - 1))
    sums_TE = at_experts(path_sum(x @ weight.T, tree), tree)
    found_TK = path_values(scorer, found, raw=True)
    assert torch.allclose(found_TK, sums_TE.gather(1, found.expert_TK), atol=1e-5)


# ------------------------------------------------------------------ around the layer


def test_a_bias_controller_and_load_metrics_go_with_it() -> None:
    layer = lazy_of(tree=Tree.from_spec([4, 4]), selection=best(2, beam=2))
    balance = Balance(terms={}, bias=BiasController(rate=0.02, rule="sign", among="siblings"))
    balance.attach(layer)
    x = torch.randn(512, DIM)
    cvs = []
    for _ in range(60):
        routing = layer(x)[1]
        balance.step(layer, [routing])
        metrics = LoadMetrics(tree=layer.tree)
        metrics.update(routing)
        cvs.append(metrics.compute()["cv/level_0"])
    assert cvs[-1] < 0.3 * cvs[0]


def test_losses_on_all_nodes_are_refused_before_work_starts() -> None:
    layer = lazy_of(tree=Tree.from_spec([4, 4]), selection=best(2, beam=2))
    balance = Balance(terms={"switch": {"loss": switch_loss, "weight": 0.01}}, bias=None)
    with pytest.raises(
        ConfigError, match=r"balance\.terms\.switch: .*Use balance=bias or balance=none"
    ):
        balance.attach(layer)
    with pytest.raises(HmoeError, match="no scores of all nodes"):
        _ = layer(torch.randn(2, DIM))[1].reach_TN


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"gate": bottom_up()}, r"^gate: BottomUp scores all nodes.*gate=top_down .*gate=tied"),
        ({"gate": heads()}, r"^gate: Heads scores all nodes"),
        ({"gate": top_down(score="cosine")}, r"gate\.score = \['cosine', 'cosine'\]: .*linear"),
        ({"gate": top_down(score=["linear", "cosine"])}, r"gate\.score = \['linear', 'cosine'\]"),
        ({"gate": top_down(link="sigmoid")}, r"gate\.link = .*gate\.link=softmax"),
        ({"gate": top_down(noise="gumbel")}, r"gate\.noise = .*gate\.noise=none"),
        ({"selection": down(1)}, r"^selection = descend: .*selection=top_k"),
        ({"selection": best(5, beam=1)}, r"selection\.k = 5: with selection\.beam = \[1\] only 4"),
        ({"selection": best(2, beam=[2, 2])}, r"selection\.beam = \[2, 2\]: 2 given, 1 expected"),
        ({"selection": best(1, beam=1, weights="renormalized")}, r"selection\.weights = renorm"),
        ({"selection": best(17)}, r"selection\.k = 17: must be from 1 to 16"),
        ({"selection": best(2), "eval_selection": down(1)}, r"^selection = descend"),
        ({"selection": best(2, beam=2, weights="even")}, r"weights do not depend on the gate"),
    ],
)
def test_what_cannot_be_searched_lazily(parts: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lazy_of(tree=Tree.from_spec([4, 4]), **parts)


def test_a_dense_checkpoint_loads_and_the_other_way_round() -> None:
    dense = make_layer("grid", "beam_2")
    lazy = lazy_of(tree=dense.tree, selection=dense.selection, shared=NO_SHARED)
    assert list(dense.state_dict()) == list(lazy.state_dict())
    lazy.load_state_dict(dense.state_dict())
    dense.load_state_dict(lazy.state_dict())
