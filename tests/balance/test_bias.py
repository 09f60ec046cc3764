"""BiasController: one step by hand, what every step keeps, and what many steps bring about."""

import copy
import re
from functools import partial
from typing import Literal

import pytest
import torch

from hmoe.balance import BiasController
from hmoe.errors import ConfigError
from hmoe.layer import HMoE, LazyHMoE, Shared, Tree
from hmoe.layer.tree_ops import at_experts, path_product, sum_below
from hmoe.metrics import load_statistics
from tests.cases import DIM, EXPERTS, TREES, down, layer_of, make_layer
from tests.oracle import children

Rule = Literal["sign", "size"]
RULES: list[Rule] = ["sign", "size"]


def biased_layer(tree: Tree) -> HMoE:
    layer = layer_of(tree=tree, selection=down(1))(dim=DIM)
    layer.add_bias()
    return layer


def step(layer: HMoE, loads: list[int], rate: float, rule: Rule) -> list[float]:
    """The bias after one step on these loads of the experts."""
    load_N = sum_below(torch.tensor(loads), layer.tree)
    BiasController(rate=rate, rule=rule, among="siblings").step(layer, load_N)
    return layer.bias_N.tolist()


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Of 8 rows each of four experts should get 2: they lack -3, 0, 1, 2.
        ("sign", [-0.5, 0.0, 0.5, 0.5]),
        # The lack as a share of 8 rows, times the rate.
        ("size", [-0.5 * 3 / 8, 0.0, 0.5 * 1 / 8, 0.5 * 2 / 8]),
    ],
)
def test_one_step_on_a_flat_tree(rule: Rule, expected: list[float]) -> None:
    bias = step(biased_layer(Tree.from_spec([4])), [5, 2, 1, 0], 0.5, rule)
    assert bias == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Nodes: solo, team, team.0, team.1, team.2. Of 12 rows solo has 1 expert of 4, so 3 are
        # even, and 9 for the team: solo got 4, the team 8, of which 8/3 are even for a member.
        ("sign", [-0.1, 0.1, -0.1, 0.1, 0.1]),
        # Lacks -1 and 1 of 12; 8/3 - 6 = -10/3, 8/3 - 2 = 2/3 and 8/3 of 8.
        ("size", [-0.1 / 12, 0.1 / 12, -0.1 * 10 / 24, 0.1 * 2 / 24, 0.1 * 8 / 24]),
    ],
)
def test_one_step_on_a_ragged_tree_compares_with_the_share_of_experts(
    rule: Rule, expected: list[float]
) -> None:
    tree = Tree.from_spec({"solo": 1, "team": 3})
    assert step(biased_layer(tree), [4, 6, 2, 0], 0.1, rule) == pytest.approx(expected)


def test_a_bias_grows_from_step_to_step() -> None:
    layer = biased_layer(Tree.from_spec([2]))
    step(layer, [3, 1], 0.5, "sign")
    assert step(layer, [2, 0], 0.25, "sign") == [-0.75, 0.75]


def test_a_department_without_rows_keeps_its_inner_bias() -> None:
    for rule in RULES:
        bias = step(biased_layer(Tree.from_spec([2, 2])), [3, 1, 0, 0], 1.0, rule)
        assert bias[0] < 0 < bias[1]
        assert bias[4:] == [0.0, 0.0]


@pytest.mark.parametrize("rate", [0.0, -0.1, [0.0, 0.0], [0.1, -0.1], []])
def test_a_rate_that_is_not_positive_is_refused(rate: float | list[float]) -> None:
    message = (
        rf"balance\.bias\.rate = {re.escape(str(rate))}: must be positive, on some level at least"
    )
    with pytest.raises(ConfigError, match=message):
        BiasController(rate=rate, rule="sign", among="siblings")


def test_a_rate_per_level_moves_each_level_by_its_own() -> None:
    # Departments have 3 and 1 rows; the first one's experts 3 and 0, the second one's 1 and 0.
    layer = biased_layer(Tree.from_spec([2, 2]))
    load_N = sum_below(torch.tensor([3, 0, 1, 0]), layer.tree)
    BiasController(rate=[0.0, 0.25], rule="sign", among="siblings").step(layer, load_N)
    assert layer.bias_N.tolist() == [0.0, 0.0, -0.25, 0.25, -0.25, 0.25]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Of 12 rows each of four experts should get 3, whoever it reports to; solo got 4, the
        # team's 6, 2 and 0. The team itself, which got 8 of its 9, does not move.
        ("sign", [-0.1, 0.0, -0.1, 0.1, 0.1]),
        ("size", [-0.1 * 1 / 12, 0.0, -0.1 * 3 / 12, 0.1 * 1 / 12, 0.1 * 3 / 12]),
    ],
)
def test_experts_are_compared_with_all_experts_and_units_stay(
    rule: Rule, expected: list[float]
) -> None:
    layer = biased_layer(Tree.from_spec({"solo": 1, "team": 3}))
    load_N = sum_below(torch.tensor([4, 6, 2, 0]), layer.tree)
    BiasController(rate=0.1, rule=rule, among="experts").step(layer, load_N)
    assert layer.bias_N.tolist() == pytest.approx(expected)


# ------------------------------------------------------------------ where there is nothing to steer


def experts_only(rate: float = 0.1) -> BiasController:
    return BiasController(rate=rate, rule="sign", among="experts")


def test_loads_that_are_even_by_construction_are_refused() -> None:
    for selection in ("expert_choice", "soft", "descend_all"):
        with pytest.raises(ConfigError, match=r"balance\.bias: .* no load to steer"):
            BiasController(rate=0.1, rule="sign", among="siblings").attach(
                make_layer("grid", selection)
            )


def test_a_wrong_number_of_rates_is_refused() -> None:
    controller = BiasController(rate=[0.1, 0.1], rule="sign", among="siblings")
    with pytest.raises(ConfigError, match=r"balance\.bias\.rate = \[0.1, 0.1\]: 2 given, 3 expec"):
        controller.attach(make_layer("deep", "top_2"))


@pytest.mark.parametrize("tree_name", ["grid", "deep", "ragged", "lopsided"])
def test_biases_of_experts_need_units_that_feel_them(tree_name: str) -> None:
    message = r"balance\.bias\.among = experts: this gate weighs units without"
    for gate in ("top_down", "heads"):
        with pytest.raises(ConfigError, match=message):
            experts_only().attach(make_layer(tree_name, "top_2", gate))
    for gate in ("bottom_up", "groups"):
        layer = make_layer(tree_name, "top_2", gate)
        experts_only().attach(layer)
        assert layer.bias_N.tolist() == [0.0] * layer.tree.num_nodes
    parts = layer_of(tree=Tree.from_spec(TREES[tree_name])).keywords
    with pytest.raises(ConfigError, match=message):
        experts_only().attach(LazyHMoE(**parts, dim=DIM))
    experts_only().attach(make_layer("flat", "top_2", "top_down"))


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"balance\.bias\.rule = sgn: .* Did you mean 'sign'"):
        BiasController(rate=0.1, rule="sgn", among="siblings")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"balance\.bias\.among = expert: .* mean 'experts'"):
        BiasController(rate=0.1, rule="sign", among="expert")  # type: ignore[arg-type]


# ------------------------------------------------------------------ laws


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spec", [*TREES.values(), [41], {"a": 3, "b": 4}, {"a": [3, 13], "b": 2}])
def test_equal_load_moves_no_bias(spec: object, rule: Rule) -> None:
    """Also where a share such as 3/7 has no exact float."""
    layer = biased_layer(Tree.from_spec(spec))
    for rows_each in [*range(1, 40), 1000, 4097]:
        bias = step(layer, [rows_each] * layer.tree.num_experts, 1.0, rule)
        assert bias == [0.0] * layer.tree.num_nodes


def test_steps_by_size_sum_to_zero_among_siblings(tree: Tree) -> None:
    layer = biased_layer(tree)
    for _ in range(5):
        step(layer, torch.randint(0, 20, (tree.num_experts,)).tolist(), 1.0, "size")
    assert layer.bias_N.abs().max() > 0.1
    for parent in {-1, *tree.parent_N}:
        assert layer.bias_N[children(tree, parent)].sum().item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_lifts_who_has_too_few_and_lowers_who_has_too_many(tree: Tree, rule: Rule) -> None:
    loads = torch.randint(0, 20, (tree.num_experts,))
    bias = step(biased_layer(tree), loads.tolist(), 1.0, rule)
    load_N = sum_below(loads, tree).tolist()
    for node, parent in enumerate(tree.parent_N):
        siblings = children(tree, parent)
        whole = sum(tree.num_below_N[n] for n in siblings)
        lack = sum(load_N[n] for n in siblings) * tree.num_below_N[node] - load_N[node] * whole
        assert (bias[node] > 0, bias[node] < 0) == (lack > 0, lack < 0)


# ------------------------------------------------------------------ the loop closed


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tree_name", TREES)
def test_the_loop_evens_out_a_skewed_gate_and_leaves_its_weights_alone(
    tree_name: str, rule: Rule
) -> None:
    layer = make_layer(tree_name, "top_2")
    layer.add_bias()
    before = copy.deepcopy(dict(layer.named_parameters()))
    x = torch.randn(2000, DIM) + 0.3  # tokens that lean one way
    controller = BiasController(rate=0.03 if rule == "sign" else 1.0, rule=rule, among="siblings")

    def unevenness() -> float:
        return load_statistics(routing.load_E, layer.tree)["max_violation/expert"]

    with torch.no_grad():
        _, routing = layer(x)
        at_first = unevenness()
        for _ in range(75):
            controller.step(layer, routing.load_N)
            _, routing = layer(x)
    assert at_first > 0.4, "the gate must be skewed for the test to say anything"
    assert unevenness() < at_first / 10

    for name, parameter in layer.named_parameters():
        assert torch.equal(parameter, before[name])
    # Weights are the unbiased probabilities of the chosen, divided by their sum.
    reach_TE = at_experts(path_product(routing.probs_TN, layer.tree), layer.tree)
    chosen_T2 = reach_TE.gather(-1, routing.expert_R.view(-1, 2))
    assert torch.allclose(routing.weight_R.view(-1, 2), chosen_T2 / chosen_T2.sum(-1, keepdim=True))
    layer.bias_N.zero_()
    assert torch.equal(layer(x)[1].probs_TN, routing.probs_TN)


# Weights of a softmax over twelve experts are smaller than sigmoids, and so must be the steps.
@pytest.mark.parametrize(("gate", "rate"), [("groups", 1.0), ("heads", 1.0), ("bottom_up", 0.1)])
def test_other_gates_are_evened_out_as_well(gate: str, rate: float) -> None:
    """Group-limited choice with sigmoid weights as in DeepSeek-V3; several heads; pooled units."""
    layer = make_layer("grid", "beam_2" if gate == "groups" else "top_2", gate)
    among = "siblings" if gate == "heads" else "experts"
    controller = BiasController(rate=rate, rule="size", among=among)
    controller.attach(layer)
    x = torch.randn(1000, DIM) + 0.3  # tokens that lean one way
    with torch.no_grad():
        worst = []
        for _ in range(100):
            _, routing = layer(x)
            worst.append(load_statistics(routing.load_E, layer.tree)["max_violation/expert"])
            controller.step(layer, routing.load_N)
    assert worst[0] > 0.3, "the gate must be skewed for the test to say anything"
    assert worst[-1] < worst[0] / 5
    if among == "experts":
        assert not layer.bias_N[: layer.tree.level_slices[0].stop].any()


def test_shared_experts_do_not_count() -> None:
    """Experts that all tokens meet have no rows, so the bias is that of a layer without them."""
    loads = []
    for units in ({}, {"company": 1}, {"0": 2}):
        torch.manual_seed(0)
        shared = partial(Shared, units=units, experts=EXPERTS["mlp"])
        layer = layer_of(tree=Tree.from_spec([2, 2]), shared=shared)(dim=DIM)
        controller = BiasController(rate=0.1, rule="size", among="siblings")
        controller.attach(layer)
        torch.manual_seed(1)
        controller.step(layer, layer(torch.randn(50, DIM))[1].load_N)
        loads.append(layer.bias_N.tolist())
    assert loads[0] == loads[1] == loads[2]
    assert any(loads[0])
