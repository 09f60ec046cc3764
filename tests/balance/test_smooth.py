"""Smooth load: by hand, against the chance it stands for, and against two known mistakes."""

from math import erf, sqrt

import pytest
import torch
from torch import Tensor

from hmoe.balance import load_cv2, smooth_load
from hmoe.balance.smooth import chance_in_top_k
from hmoe.layer import HMoE, Routing, Scores, Tree
from hmoe.layer.tree_ops import path_product, sibling_softmax
from tests.cases import DIM, best, down, layer_of, top_down


def phi(z: float) -> float:
    return (1 + erf(z / sqrt(2))) / 2


def noisy_layer(tree: Tree, selection=None, **gate) -> HMoE:
    """A layer whose gate learns its noise; in training unless told otherwise."""
    options = {"noise": "learned", "init_std": 0.3} | gate
    return layer_of(tree=tree, gate=top_down(**options), selection=selection or down(1))(dim=DIM)


def noisy_routing(tree: Tree, clean: Tensor, noisy: Tensor, noise: Tensor, rows) -> Routing:
    """A routing whose raw scores, with and without noise, are written out."""
    probs_TN = sibling_softmax(noisy, tree)
    scores = Scores(tree, noisy, probs_TN, probs_TN, path_product(probs_TN, tree), clean, noise)
    token_R = torch.tensor([token for token, experts in enumerate(rows) for _ in experts])
    expert_R = torch.tensor([expert for experts in rows for expert in experts])
    return Routing(scores, token_R, expert_R, torch.ones(len(expert_R)))


# ------------------------------------------------------------------ by hand

CLEAN = [0.9, 0.1, -0.3]
NOISY = [1.0, 0.2, -0.5]
NOISE = [0.5, 0.4, 1.0]


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        # The best one is out once it falls below the second, 0.2; the others are in once they
        # rise above the best, 1.0.
        ([0], [phi(0.7 / 0.5), phi(-0.9 / 0.4), phi(-1.3)]),
        # Of two chosen both have to stay above the third, -0.5; the third to rise above 0.2.
        ([0, 1], [phi(1.4 / 0.5), phi(0.6 / 0.4), phi(-0.5)]),
        # All are chosen whatever the noise.
        ([0, 1, 2], [1.0, 1.0, 1.0]),
    ],
)
def test_one_token_on_a_flat_tree(experts: list[int], expected: list[float]) -> None:
    clean, noisy, noise = (torch.tensor([values]) for values in (CLEAN, NOISY, NOISE))
    routing = noisy_routing(Tree.from_spec([3]), clean, noisy, noise, [experts])
    # Chances of this one token, times its rows over the rows of its choice.
    share = torch.tensor(expected)
    assert torch.allclose(smooth_load(routing), share, atol=1e-6)


def chances(values: list[list[float]], k: int) -> Tensor:
    clean, noisy, noise = (torch.tensor(v) for v in values)
    return chance_in_top_k(noisy, clean, noise, torch.tensor([k]))


def test_a_tie_at_the_threshold_is_one_half() -> None:
    # Without noise in the scores both children sit on each other's threshold.
    chance = chances([[1.0, 1.0], [1.0, 1.0], [0.3, 0.7]], k=1)
    assert chance.tolist() == pytest.approx([0.5, 0.5])


def naive_load(routing: Routing, k: int) -> list[float]:
    """Shazeer's Load_H token by token, in tokens: load(parent) * sum of chances / tokens there."""
    tree, scores = routing.tree, routing.scores
    visited: dict[int, set[int]] = {-1: set(range(routing.num_tokens))}
    for token, expert in zip(routing.token_R.tolist(), routing.expert_R.tolist(), strict=True):
        for node, below in tree.below:
            if below == expert:
                visited.setdefault(node, set()).add(token)
    load = {-1: float(routing.num_tokens)}
    for node, parent in enumerate(tree.parent_N):
        siblings = [n for n, p in enumerate(tree.parent_N) if p == parent]
        total = 0.0
        for token in visited.get(parent, ()):
            others = [scores.logits_TN[token, n].item() for n in siblings if n != node]
            threshold = sorted(others, reverse=True)[k - 1]
            lead = scores.clean_TN[token, node].item() - threshold
            total += phi(lead / scores.noise_TN[token, node].item())
        load[node] = load[parent] * total / max(len(visited.get(parent, ())), 1)
    return [load[node] for node in range(tree.num_nodes)]


def test_load_goes_down_any_tree_as_the_two_level_form_does(tree: Tree) -> None:
    layer = noisy_layer(tree)
    _, routing = layer(torch.randn(30, DIM))
    assert smooth_load(routing).tolist() == pytest.approx(naive_load(routing, k=1), rel=1e-3)


def test_rows_instead_of_tokens_only_scale_a_level_under_equal_k() -> None:
    layer = noisy_layer(Tree.from_spec([3, 4]), down(2))
    _, routing = layer(torch.randn(30, DIM))
    ours, naive = smooth_load(routing), torch.tensor(naive_load(routing, k=2))
    # A token is two tokens' worth of rows in a department, and one of each of its experts.
    assert torch.allclose(ours[:3], naive[:3] * 2, rtol=1e-3)
    assert torch.allclose(ours[3:], naive[3:], rtol=1e-3)


# ------------------------------------------------------------------ what it stands for


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_chance_is_how_often_new_noise_would_choose_a_child(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    clean = torch.randn(4, generator=generator)
    noise = torch.rand(4, generator=generator) + 0.2
    noisy = clean + noise * torch.randn(4, generator=generator)
    chance = chance_in_top_k(noisy, clean, noise, torch.tensor([k]))
    draws = 20000
    for child in range(4):
        again = noisy.repeat(draws, 1)
        again[:, child] = clean[child] + noise[child] * torch.randn(draws, generator=generator)
        chosen = (again.topk(k, -1).indices == child).any(-1)
        # Four standard errors of 20,000 draws.
        assert chosen.float().mean().item() == pytest.approx(chance[child].item(), abs=0.015)


def logits_of(num_tokens: int, skew: float) -> tuple[Tensor, Tensor, Tensor]:
    """Raw scores of 8 experts: without noise, with it, and its deviation."""
    clean = torch.randn(num_tokens, 8) + skew * torch.linspace(-1, 1, 8)
    noise = torch.rand(num_tokens, 8) * 0.8 + 0.2
    return clean, clean + noise * torch.randn(num_tokens, 8), noise


def estimate(clean: Tensor, noisy: Tensor, noise: Tensor, threshold_from: Tensor, k: int) -> Tensor:
    """Loads if chances compared `clean` with thresholds taken from another array of scores."""
    ranked = threshold_from.sort(-1, descending=True).values
    inside = noisy > noisy.topk(k + 1, -1).values[:, -1:]
    threshold = torch.where(inside, ranked[:, k : k + 1], ranked[:, k - 1 : k])
    return torch.special.ndtr((clean - threshold) / noise).sum(0)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("k", [1, 2])  # of 4 in 8 the thresholds lie where the mistakes are small
def test_load_estimates_do_not_mix_logits_and_probabilities(k: int, skew: float) -> None:
    """The estimated total is k rows a token; two libraries miss it by comparing unlike scores."""
    clean, noisy, noise = logits_of(4000, skew)
    rows = noisy.topk(k, -1).indices.tolist()
    routing = noisy_routing(Tree.from_spec([8]), clean, noisy, noise, rows)
    ours = smooth_load(routing)
    assert torch.allclose(ours, estimate(clean, noisy, noise, noisy, k), rtol=1e-3)
    assert ours.sum().item() == pytest.approx(4000 * k, rel=0.02)
    # Thresholds of probabilities for raw scores (davidmrau), and the other way round (Tutel).
    for mistaken in (
        estimate(clean, noisy, noise, noisy.softmax(-1), k),
        estimate(clean.softmax(-1), noisy, noise, noisy, k),
    ):
        assert abs(mistaken.sum().item() / (4000 * k) - 1) > 0.1


def test_the_estimate_follows_the_true_load_and_is_smoother() -> None:
    """Over repeated noise: right on average at every expert, and with a smaller spread."""
    tree = Tree.from_spec([8])
    clean, _, noise = logits_of(200, skew=0.5)
    ours, true = [], []
    for _ in range(100):
        noisy = clean + noise * torch.randn(200, 8)
        routing = noisy_routing(tree, clean, noisy, noise, noisy.topk(2, -1).indices.tolist())
        ours.append(smooth_load(routing))
        true.append(routing.load_N.float())
    ours_100N, true_100N = torch.stack(ours), torch.stack(true)
    assert torch.allclose(ours_100N.mean(0), true_100N.mean(0), atol=1.5)
    assert (ours_100N.std(0) < true_100N.std(0)).all()


# ------------------------------------------------------------------ limits


def test_a_routing_without_noise_has_its_true_load(tree: Tree) -> None:
    layer = noisy_layer(tree, best(2))
    _, routing = layer(torch.randn(30, DIM))
    scores = routing.scores
    assert (smooth_load(routing) - routing.load_N).abs().max() > 0.1
    exact = Scores(**(vars(scores) | {"clean_TN": None, "noise_TN": None}))
    without = Routing(exact, routing.token_R, routing.expert_R, routing.weight_R)
    assert torch.allclose(smooth_load(without), routing.load_N.float())


def test_levels_without_learnt_noise_count_rows_and_the_others_do_not() -> None:
    layer = noisy_layer(Tree.from_spec([3, 4]), down(2), noise=["none", "learned"])
    _, routing = layer(torch.randn(30, DIM))
    load_N = smooth_load(routing)
    assert torch.allclose(load_N[:3], routing.load_N[:3].float())
    assert not torch.allclose(load_N[3:], routing.load_N[3:].float(), atol=0.1)


def test_outside_training_it_is_the_true_load() -> None:
    layer = noisy_layer(Tree.from_spec([3, 4])).eval()
    _, routing = layer(torch.randn(30, DIM))
    assert torch.allclose(smooth_load(routing), routing.load_N.float())
    assert not smooth_load(routing).requires_grad


@pytest.mark.parametrize("k", [1, None])
def test_gradients_reach_scores_and_noise_and_are_finite(k: int | None, tree: Tree) -> None:
    layer = noisy_layer(tree, down(k))
    _, routing = layer(torch.randn(30, DIM))
    sum(load_cv2(routing).values()).backward()
    for parameter in (layer.gate.scorers[0].weight_MD, layer.gate.noise_MD):
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad.abs().max() > 0) == (k is not None)


def test_the_gradient_lowers_the_overloaded_expert_and_lifts_the_idle_one() -> None:
    clean, noisy, noise = logits_of(200, skew=1.0)
    clean.requires_grad_()
    rows = noisy.topk(2, -1).indices.tolist()
    load_cv2(noisy_routing(Tree.from_spec([8]), clean, noisy, noise, rows))["level_0"].backward()
    gradient_E = clean.grad.sum(0)
    assert gradient_E[0] < 0 < gradient_E[7]
