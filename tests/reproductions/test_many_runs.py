"""Networks of many runs at once: beside plain networks of one run, and beside hmoe's own layer."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmoe.layer import Heads, HMoE, Shared, TopDown, Tree, soft
from hmoe.reproductions.ma_2018_synthetic import shapes
from hmoe.reproductions.many_runs import ManyRuns, Shape

SHAPES = [
    Shape(num_experts=1, expert_dim=7, num_gates=0),
    Shape(num_experts=4, expert_dim=3, num_gates=1),
    Shape(num_experts=4, expert_dim=3, num_gates=2),
]
IN_DIM, TOWER_DIM = 6, 5


class OneRun(nn.Module):
    """The slow twin: the paper's network as one would write it, eq. 1 and 6."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Linear(IN_DIM, shape.expert_dim) for _ in range(shape.num_experts)
        )
        self.gates = nn.ModuleList(
            nn.Linear(IN_DIM, shape.num_experts, bias=False) for _ in range(shape.num_gates)
        )
        self.hidden = nn.ModuleList(nn.Linear(shape.expert_dim, TOWER_DIM) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(TOWER_DIM, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        answers = []
        for task in range(2):
            if not self.gates:
                h = self.experts[0](x).relu()
            else:
                gate = self.gates[min(task, len(self.gates) - 1)](x).softmax(-1)
                h = sum(gate[:, e, None] * f(x).relu() for e, f in enumerate(self.experts))
            answers.append(self.out[task](self.hidden[task](h).relu()))
        return torch.cat(answers, 1)

    def places(self, many: ManyRuns, run: int, of: Callable[[Tensor], Tensor]) -> list[tuple]:
        """(parameter, what of the stacked weights, or of their gradients, belongs there)."""
        at = {name: of(p)[run] for name, p in many.named_parameters()}
        width = many.shape.expert_dim
        pairs = []
        for e, f in enumerate(self.experts):
            units = slice(e * width, (e + 1) * width)
            pairs.append((f.weight, at["w_in_NDH"][:, units].T))
            pairs.append((f.bias, at["b_in_N1H"][0, units]))
        for g, gate in enumerate(self.gates):
            mine = slice(g * len(self.experts), (g + 1) * len(self.experts))
            pairs.append((gate.weight, at["w_gate_NDJ"][:, mine].T))
        for k in range(2):
            pairs.append((self.hidden[k].weight, at["w_hidden_NKFU"][k].T))
            pairs.append((self.hidden[k].bias, at["b_hidden_NKU"][k]))
            pairs.append((self.out[k].weight, at["w_out_NKU"][None, k]))
            pairs.append((self.out[k].bias, at["b_out_NK"][None, k]))
        return pairs


def made(shape: Shape, seeds: list[int]) -> ManyRuns:
    return ManyRuns(shape, in_dim=IN_DIM, num_tasks=2, tower_dim=TOWER_DIM, seeds=seeds)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_run_answers_and_learns_as_it_would_alone(shape: Shape) -> None:
    many, draw = made(shape, [0, 1, 2]), torch.Generator().manual_seed(3)
    x = torch.randn(3, 20, IN_DIM, generator=draw)
    y = torch.randn(3, 20, 2, generator=draw)
    answers = many(x)
    (answers - y).square().mean((1, 2)).sum().backward()
    for run in range(3):
        one = OneRun(shape)
        for parameter, value in one.places(many, run, lambda p: p.detach()):
            parameter.data.copy_(value)
        torch.testing.assert_close(one(x[run]), answers[run])
        F.mse_loss(one(x[run]), y[run]).backward()
        pairs = one.places(many, run, lambda p: p.grad)
        assert len(pairs) == len(list(one.parameters()))
        for parameter, gradient in pairs:
            assert gradient.any()
            torch.testing.assert_close(parameter.grad, gradient)


def test_first_weights_of_a_run_depend_on_its_seed_alone() -> None:
    together, alone = made(SHAPES[2], [0, 1]), made(SHAPES[2], [1])
    one_gate = made(SHAPES[1], [1])
    for name, weight in alone.named_parameters():
        assert torch.equal(dict(together.named_parameters())[name][1:], weight)
        if name != "w_gate_NDJ":
            assert torch.equal(dict(one_gate.named_parameters())[name], weight)
    # U(-1, 1) / sqrt(fan in), torch's own start of a linear layer.
    large = ManyRuns(SHAPES[2], in_dim=400, num_tasks=2, tower_dim=5, seeds=[0])
    assert large.w_in_NDH.abs().max() <= 0.05
    assert large.w_in_NDH.detach().std() == pytest.approx(0.05 / 3**0.5, rel=0.05)


class Padded(nn.Module):
    """Experts of the paper as a bank of hmoe: linear and ReLU, zeros up to the layer's width."""

    def __init__(self, *, num_experts: int, dim: int, expert_dim: int) -> None:
        super().__init__()
        self.w_EDF = nn.Parameter(torch.randn(num_experts, dim, expert_dim))
        self.b_EF = nn.Parameter(torch.randn(num_experts, expert_dim))

    def forward(self, x_RD: Tensor, load_E: Tensor) -> Tensor:
        rows = x_RD.split(load_E.tolist())
        experts = zip(rows, self.w_EDF.unbind(0), self.b_EF.unbind(0), strict=True)
        y_RF = torch.cat([(x @ w + b).relu() for x, w, b in experts])
        return F.pad(y_RF, (0, x_RD.shape[1] - y_RF.shape[1]))


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_gates_and_experts_are_those_of_a_layer_of_hmoe(shape: Shape) -> None:
    many = made(shape, [0])
    options = {"score": "linear", "width": None, "init_std": 0.02, "temperature": 1.0}
    gate = partial(TopDown, **options, noise="none", link="softmax")
    layer = HMoE(
        tree=Tree.from_spec([shape.num_experts]),
        gate=partial(Heads, num=shape.num_gates, gate=gate, visible=None, merge="stack"),
        selection=soft,
        eval_selection=None,
        experts=partial(Padded, expert_dim=shape.expert_dim),
        shared=partial(Shared, units={}, experts=None),
        dim=IN_DIM,
    )
    experts, width = shape.num_experts, shape.expert_dim
    with torch.no_grad():
        w_DEF = many.w_in_NDH[0].unflatten(-1, (experts, width))
        layer.experts.w_EDF.copy_(w_DEF.transpose(0, 1))
        layer.experts.b_EF.copy_(many.b_in_N1H[0, 0].unflatten(-1, (experts, width)))
        for g, head in enumerate(layer.gate.heads):
            mine = slice(g * experts, (g + 1) * experts)
            weight, bias = head.scorers[0].parameters()
            weight.copy_(many.w_gate_NDJ[0, :, mine].T)
            bias.zero_()
    x = torch.randn(20, IN_DIM, generator=torch.Generator().manual_seed(4))
    h = many._mixed(x[None], torch.baddbmm(many.b_in_N1H, x[None], many.w_in_NDH).relu())
    mixed = torch.cat([F.pad(m, (0, IN_DIM - width)) for m in h])
    y, _ = layer(x)
    torch.testing.assert_close(y.reshape(mixed.shape), mixed)
    y.square().sum().backward()
    mixed.square().sum().backward()
    gradient = many.w_in_NDH.grad[0].unflatten(-1, (experts, width)).transpose(0, 1)
    torch.testing.assert_close(layer.experts.w_EDF.grad, gradient)
    for g, head in enumerate(layer.gate.heads):
        mine = slice(g * experts, (g + 1) * experts)
        weight, _ = head.scorers[0].parameters()
        torch.testing.assert_close(weight.grad, many.w_gate_NDJ.grad[0, :, mine].T)


def test_sizes_are_those_that_are_told() -> None:
    sizes = {}
    for name, shape in shapes().items():
        network = ManyRuns(shape, in_dim=100, num_tasks=2, tower_dim=8, seeds=[0])
        sizes[name] = sum(p.numel() for p in network.parameters())
    # Shared bottom: 100 x 113 + 113, then 2 towers of 113 x 8 + 8 + 8 + 1.
    assert sizes["sb"] == 11_413 + 2 * 921
    # Eight experts of 100 x 16 + 16, gates of 100 x 8, towers of 16 x 8 + 8 + 8 + 1.
    assert sizes["omoe"] == 8 * 1616 + 800 + 2 * 145
    assert sizes["mmoe"] == 8 * 1616 + 1600 + 2 * 145
