"""Distributed runs: loads are those of all processes, and the mean over processes is the whole."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hmoe.balance import BiasController, switch_loss
from hmoe.layer import Routing, Tree
from hmoe.layer.tree_ops import sibling_softmax
from tests.cases import DIM, down, layer_of, make_routing

together = partial(switch_loss, statistics="global")
alone = partial(switch_loss, statistics="micro")

# One process of two: the loss of its half of the tokens, and one step of a bias.
PROCESS = """
import json, sys
import torch.distributed as dist
from hmoe.layer import Tree
from tests.balance.test_ranks import bias_after, halves, together

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
tree = Tree.from_spec([2, 3])
part = halves(tree)[rank]
losses = {level: value.item() for level, value in together(part).items()}
print(json.dumps([losses, bias_after(part)]))
dist.destroy_process_group()
"""


def halves(tree: Tree) -> list[Routing]:
    """Two processes' tokens, whose loads are uneven in different ways."""
    generator = torch.Generator().manual_seed(0)
    probs_TN = sibling_softmax(torch.randn(12, tree.num_nodes, generator=generator), tree)
    experts_T = [[0, 1], [1, 2], [0, 3], [1, 0], [2, 1], [1, 3]]
    other_T = [[3, 2], [3, 0], [2, 1], [0, 3], [3, 1], [3, 2]]
    return [make_routing(tree, experts_T, probs_TN[:6]), make_routing(tree, other_T, probs_TN[6:])]


def joined(parts: list[Routing]) -> Routing:
    """All processes' tokens in one."""
    experts_T: list[list[int]] = []
    for part in parts:
        pairs = list(zip(part.token_R.tolist(), part.expert_R.tolist(), strict=True))
        experts_T += [[e for t, e in pairs if t == token] for token in range(part.num_tokens)]
    probs_TN = torch.cat([part.probs_TN for part in parts])
    return make_routing(parts[0].tree, experts_T, probs_TN)


def bias_after(routing: Routing) -> list[float]:
    """The bias of a new layer after one step."""
    layer = layer_of(tree=routing.tree, selection=down(1))(dim=DIM)
    layer.add_bias()
    BiasController(rate=0.5, rule="size", among="siblings").step(layer, routing.load_N)
    assert layer.bias_N is not None
    return layer.bias_N.tolist()


@pytest.fixture
def two_processes(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> list[Routing]:
    """The halves, and an all_reduce that knows what the two processes would send."""
    parts = halves(tree)
    loads = [part.load_N for part in parts]

    def all_reduce(value: torch.Tensor) -> None:
        # What this process sends is its own load, whatever the type of the numbers.
        assert any(torch.equal(value.reshape(-1).long(), load) for load in loads)
        value.copy_(sum(loads).reshape(value.shape))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return parts


def test_the_mean_over_processes_is_the_loss_of_all_tokens(two_processes: list[Routing]) -> None:
    losses = [together(part) for part in two_processes]
    whole = alone(joined(two_processes))
    by_micro = [alone(part) for part in two_processes]
    for level, value in whole.items():
        mean = sum(loss[level] for loss in losses) / 2
        assert mean.item() == pytest.approx(value.item(), rel=1e-5)
    assert any(
        abs(sum(loss[level] for loss in by_micro) / 2 - value) > 0.01
        for level, value in whole.items()
    ), "micro statistics must differ for the test to say anything"


def test_the_mean_gradient_is_that_of_all_tokens(two_processes: list[Routing]) -> None:
    tree = two_processes[0].tree
    parts, probs = [], []
    for part in two_processes:
        probs_TN = part.probs_TN.clone().requires_grad_()
        experts_T = [part.expert_R[part.token_R == t].tolist() for t in range(part.num_tokens)]
        parts.append(make_routing(tree, experts_T, probs_TN))
        probs.append(probs_TN)
    mean = sum(value for part in parts for value in together(part).values()) / 2
    whole = sum(alone(joined(parts)).values())
    for one, other in zip(
        torch.autograd.grad(mean, probs), torch.autograd.grad(whole, probs), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)
        assert one.abs().max() > 0


def test_a_bias_answers_the_rows_of_all_processes(two_processes: list[Routing]) -> None:
    first, second = (bias_after(part) for part in two_processes)
    assert first == second
    tree = two_processes[0].tree
    # At the root: rows of all processes, compared with the share of the experts.
    load_N = joined(two_processes).load_N
    rows = load_N[tree.level_slices[0]].sum().item()
    for node in range(tree.num_nodes):
        if tree.level_N[node] == 0:
            even = tree.num_below_N[node] / tree.num_experts
            assert first[node] == pytest.approx(0.5 * (even - load_N[node].item() / rows))


@pytest.mark.slow
def test_two_real_processes_agree_with_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "store")],
            cwd=root,
            env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=100)[0]) for process in processes]
    whole = joined(halves(Tree.from_spec([2, 3])))
    for level, value in alone(whole).items():
        mean = sum(losses[level] for losses, _ in answers) / 2
        assert mean == pytest.approx(value.item(), rel=1e-5)
    assert [bias for _, bias in answers] == [bias_after(whole)] * 2
