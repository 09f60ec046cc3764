"""The truth of planted data: rows, functions, kin and twins by hand, and laws that must hold."""

import numpy as np
import pytest

from hmoe.data.truth import Truth
from hmoe.layer import Tree

RAGGED = Tree.from_spec({"a": {"x": 2, "y": 1}, "b": 1})


def drawn(tree: Tree, distance: list[float], hidden_dim: int | None = None, dim: int = 8) -> Truth:
    draw = np.random.RandomState(0)
    sizes = {"in_dim": dim, "out_dim": 3, "hidden_dim": hidden_dim}
    return Truth.drawn(tree, draw, distance=distance, **sizes)


def correlations(truth: Truth) -> np.ndarray:
    """Of the functions of all experts, over rows and targets: (E, E)."""
    seen = np.random.RandomState(5).normal(size=(4000, truth.center_ND.shape[1]))
    said = [truth.says(expert, seen).ravel() for expert in range(truth.tree.num_experts)]
    return np.corrcoef(said)


# ------------------------------------------------------------------ rows and functions


def test_a_row_belongs_to_the_nearest_child_of_the_nearest_child() -> None:
    """On a line: a at 0 has teams at -1 and 4, b at 10 is an expert. 6 is nearer to a than to b."""
    tree = Tree.from_spec({"a": {"x": 1, "y": 1}, "b": 1})
    assert tree.path_N == ("a", "b", "a.x", "a.y")
    center = np.array([[0.0], [10.0], [-1.0], [4.0]])
    outer = np.array([[[7.0]], [[1.0]], [[-2.0]]])  # of b, a.x, a.y: experts in node order
    truth = Truth(tree, center, None, outer, np.eye(3))
    x = np.array([[-3.0], [1.0], [2.0], [4.9], [5.1], [12.0]])
    assert truth.expert_of(x).tolist() == [1, 1, 2, 2, 0, 0]
    seen = [-3 + 1, 1 + 1, -2 * (2 - 4), -2 * (4.9 - 4), 7 * (5.1 - 10), 7 * (12 - 10)]
    np.testing.assert_allclose(truth.answers(x)[:, 0], seen)


def test_a_network_by_hand() -> None:
    tree = Tree.from_spec([2])
    inner, outer = np.array([[[2.0]], [[1.0]]]), np.array([[[3.0]], [[-1.0]]])
    truth = Truth(tree, np.array([[-5.0], [5.0]]), inner, outer, np.eye(2))
    answers = truth.answers(np.array([[-4.5], [5.2]]))[:, 0]
    np.testing.assert_allclose(answers, [3 * np.tanh(1.0), -np.tanh(0.2)])


def test_children_lie_at_their_levels_distance_from_their_parent(tree: Tree) -> None:
    distance = [9.0, 4.0, 2.0, 1.0][: tree.num_levels]
    truth = drawn(tree, distance)
    for node, parent in enumerate(tree.parent_N):
        above = truth.center_ND[parent] if parent >= 0 else 0.0
        apart = np.linalg.norm(truth.center_ND[node] - above)
        assert apart == pytest.approx(distance[tree.level_N[node]])
    # Who stands at an expert's centre belongs to it, where clouds do not reach each other.
    if distance[-1] >= 4:
        at = truth.center_ND[list(tree.node_E)]
        assert truth.expert_of(at).tolist() == list(range(tree.num_experts))


# ------------------------------------------------------------------ kin


def test_shares_by_hand() -> None:
    """Of a tree a(a0 a1) b: experts b, a0, a1, then the functions of the root and of a."""
    tree = Tree.from_spec({"a": 2, "b": 1})
    kin = drawn(tree, [6.0, 3.0]).related(0.36, np.random.RandomState(1))
    own, up = 0.8, 0.6  # roots of 0.64 and of 0.36
    expected = [
        [own, 0.0, 0.0, up, 0.0],
        [0.0, own, 0.0, up * up, up * own],
        [0.0, 0.0, own, up * up, up * own],
    ]
    np.testing.assert_allclose(kin.share_EM, expected)


@pytest.mark.parametrize("tree", [Tree.from_spec([2, 2, 2]), RAGGED], ids=str)
@pytest.mark.parametrize("kinship", [0.0, 0.3, 0.9])
def test_variance_stays_and_kin_correlate_by_their_distance(tree: Tree, kinship: float) -> None:
    truth = drawn(tree, [9.0, 4.0, 2.0]).related(kinship, np.random.RandomState(1))
    found = truth.share_EM @ truth.share_EM.T
    for one, node in enumerate(tree.node_E):
        for other, beside in enumerate(tree.node_E):
            steps, a, b = 0, node, beside
            while a != b:  # numbers fall on the way up: the larger is not above the smaller
                a, b = (tree.parent_N[a], b) if a > b else (a, tree.parent_N[b])
                steps += 1
            assert found[one, other] == pytest.approx(kinship ** (steps / 2))


@pytest.mark.parametrize("hidden_dim", [None, 40])
def test_functions_of_siblings_correlate_by_kinship_and_of_cousins_by_its_square(
    hidden_dim: int | None,
) -> None:
    """Not of the shares, but of what experts say; with many features, so that chance is small."""
    tree = Tree.from_spec([2, 2])
    truth = drawn(tree, [6.0, 3.0], hidden_dim, dim=600).related(0.5, np.random.RandomState(1))
    found = correlations(truth)
    assert [found[0, 1], found[2, 3]] == pytest.approx([0.5, 0.5], abs=0.08)
    assert found[:2, 2:].ravel() == pytest.approx([0.25] * 4, abs=0.08)
    seen = np.random.RandomState(5).normal(size=(1000, 600))
    variance = [truth.says(expert, seen).var() for expert in range(4)]
    alone = [drawn(tree, [6.0, 3.0], hidden_dim, dim=600).says(e, seen).var() for e in range(4)]
    assert np.mean(variance) == pytest.approx(np.mean(alone), rel=0.1)
    if hidden_dim is None:
        assert variance == pytest.approx([1.0] * 4, rel=0.15)


def test_kinship_keeps_what_was_drawn_and_adds_functions_of_units() -> None:
    plain = drawn(RAGGED, [9.0, 4.0, 2.0], hidden_dim=5)
    kin = plain.related(0.5, np.random.RandomState(1))
    assert plain.related(0.0, np.random.RandomState(1)) is plain
    assert plain.inner_MDF is not None
    assert kin.inner_MDF is not None
    assert np.array_equal(kin.inner_MDF[:4], plain.inner_MDF)
    assert np.array_equal(kin.outer_MFO[:4], plain.outer_MFO)
    assert len(kin.outer_MFO) == 4 + 3, "experts, then the root, a and a.x"


# ------------------------------------------------------------------ twins


def test_a_shuffled_twin_has_the_same_places_and_the_same_functions_at_others() -> None:
    truth = drawn(Tree.from_spec([4, 4]), [6.0, 3.0]).related(0.5, np.random.RandomState(1))
    twin = truth.shuffled(np.random.RandomState(2))
    assert np.array_equal(twin.center_ND, truth.center_ND)
    seen = np.random.RandomState(3).normal(size=(1, 8))
    said, dealt = (np.stack([t.says(e, seen) for e in range(16)]) for t in (truth, twin))
    assert not np.array_equal(said, dealt)
    assert np.array_equal(np.sort(said, axis=0), np.sort(dealt, axis=0))
    # Siblings in space are not siblings by function any more.
    kin = twin.share_EM @ twin.share_EM.T
    beside = [kin[e, e + 1] for e in range(0, 16, 2)]
    assert np.mean(beside) < 0.4


def test_a_flat_twin_has_the_same_functions_and_lies_as_far_out() -> None:
    """At sqrt(36 + 9) from the root, b at 6: and each in the last direction of its way."""
    tree = Tree.from_spec({"a": 2, "b": 1})
    truth = drawn(tree, [6.0, 3.0]).related(0.5, np.random.RandomState(1))
    twin = truth.flattened()
    assert (twin.tree.num_levels, twin.tree.num_experts) == (1, 3)
    far = np.linalg.norm(twin.center_ND, axis=1)
    assert far == pytest.approx([6.0, 45**0.5, 45**0.5])
    way = (truth.center_ND[2] - truth.center_ND[0]) / 3
    np.testing.assert_allclose(twin.center_ND[1], way * 45**0.5)
    assert twin.share_EM is truth.share_EM
    assert twin.outer_MFO is truth.outer_MFO


def test_a_flat_twin_has_no_hierarchy_in_space() -> None:
    """Siblings lie as far apart as strangers; in the tree they lie much nearer."""
    tree = Tree.from_spec([8, 8])
    truth = drawn(tree, [6.0, 3.0], dim=16)
    department = np.repeat(np.arange(8), 8)
    beside = department[:, None] == department
    np.fill_diagonal(beside, False)
    apart = department[:, None] != department

    def ratio(center_ED: np.ndarray) -> float:
        between = np.linalg.norm(center_ED[:, None] - center_ED, axis=-1)
        return float(between[beside].mean() / between[apart].mean())

    assert ratio(truth.center_ND[8:]) < 0.5
    assert ratio(truth.flattened().center_ND) == pytest.approx(1.0, abs=0.05)


def test_a_row_of_a_flat_twin_belongs_to_the_nearest_of_all() -> None:
    twin = drawn(Tree.from_spec([4, 4]), [6.0, 3.0]).flattened()
    x = np.random.RandomState(3).normal(size=(200, 8)) * 4
    nearest = np.linalg.norm(x[:, None] - twin.center_ND, axis=-1).argmin(1)
    assert np.array_equal(twin.expert_of(x), nearest)
