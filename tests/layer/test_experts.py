"""Experts: by hand, then the fast bank against its slow twin, outputs and all gradients."""

from functools import partial

import pytest
import torch

from hmoe.errors import ConfigError
from hmoe.layer import Mlp, Neurons, SwiGlu

BANKS = {
    "mlp": partial(Mlp, activation="gelu", dtype=None),
    "relu": partial(Mlp, activation="relu", dtype=None),
    "silu": partial(Mlp, activation="silu", dtype=None),
    "swiglu": partial(SwiGlu, dtype=None),
}


def test_each_row_meets_its_own_expert() -> None:
    bank = Mlp(
        num_experts=2, dim=2, hidden_dim=2, activation="gelu", dtype=None, implementation="loop"
    )
    with torch.no_grad():
        bank.w_in_EDF.copy_(torch.eye(2).expand(2, 2, 2))
        bank.w_out_EFD.copy_(torch.stack([torch.eye(2), -torch.eye(2)]))
    x = torch.tensor([[10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])  # gelu(10) = 10 to float precision
    y = bank(x, torch.tensor([1, 2]))
    assert torch.allclose(y, torch.tensor([[10.0, 0.0], [0.0, -10.0], [-10.0, -10.0]]))


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("loads", [[3, 5, 0, 8], [0, 0, 16, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_grouped_is_the_loop(name: str, loads: list[int]) -> None:
    load_E = torch.tensor(loads)
    grouped = BANKS[name](num_experts=4, dim=16, hidden_dim=8, implementation="grouped")
    loop = BANKS[name](num_experts=4, dim=16, hidden_dim=8, implementation="loop")
    loop.load_state_dict(grouped.state_dict())
    results = []
    for bank in (grouped, loop):
        torch.manual_seed(1)
        x = torch.randn(sum(loads), 16, requires_grad=True)
        y = bank(x, load_E)
        (y * torch.arange(16.0)).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in bank.parameters())])
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow if slow is not None else torch.zeros(()), atol=1e-5)


@pytest.mark.parametrize("name", BANKS)
def test_float64_is_more_exact(name: str) -> None:
    load_E = torch.tensor([3, 5, 0, 8])
    bank = BANKS[name](num_experts=4, dim=16, hidden_dim=8, implementation="grouped")
    x = torch.randn(16, 16)
    rough = bank(x, load_E)
    y = bank.double()(x.double(), load_E)
    assert y.dtype == torch.float64
    assert torch.allclose(y.float(), rough, atol=1e-5)
    y.sum().backward()
    assert all(p.grad.dtype == torch.float64 for p in bank.parameters())


@pytest.mark.parametrize("name", BANKS)
def test_an_expanded_gradient_is_no_trouble(name: str) -> None:
    bank = BANKS[name](num_experts=2, dim=8, hidden_dim=8, implementation="grouped")
    bank(torch.randn(4, 8), torch.tensor([1, 3])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in bank.parameters())


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("implementation", ["grouped", "loop"])
def test_autocast_reaches_the_experts(name: str, implementation: str) -> None:
    bank = BANKS[name](num_experts=2, dim=8, hidden_dim=8, implementation=implementation)
    x = torch.randn(4, 8)
    exact = bank(x, torch.tensor([1, 3]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = bank(x, torch.tensor([1, 3]))
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("name", ["mlp", "swiglu"])
@pytest.mark.parametrize("frozen", ["rows", "weights", "one"])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(name: str, frozen: str) -> None:
    bank = BANKS[name](num_experts=2, dim=8, hidden_dim=8, implementation="grouped")
    x = torch.randn(4, 8, requires_grad=True)
    tensors = [x, *bank.parameters()]
    (bank(x, torch.tensor([1, 3])) ** 2).sum().backward()
    expected = [tensor.grad for tensor in tensors]
    still = {"rows": [0], "weights": range(1, len(tensors)), "one": [1]}[frozen]
    for number, tensor in enumerate(tensors):
        tensor.grad = None
        tensor.requires_grad_(number not in still)
    (bank(x, torch.tensor([1, 3])) ** 2).sum().backward()
    for number, (tensor, grad) in enumerate(zip(tensors, expected, strict=True)):
        assert tensor.grad is None if number in still else torch.equal(tensor.grad, grad)


@pytest.mark.parametrize("name", ["mlp", "swiglu"])
def test_a_second_backward_finds_what_the_first_found(name: str) -> None:
    """What derivatives are written over is not what is kept."""
    bank = BANKS[name](num_experts=2, dim=8, hidden_dim=8, implementation="grouped")
    x = torch.randn(4, 8, requires_grad=True)
    loss = (bank(x, torch.tensor([1, 3])) ** 2).sum()
    tensors = [x, *bank.parameters()]
    first = torch.autograd.grad(loss, tensors, retain_graph=True)
    second = torch.autograd.grad(loss, tensors)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["mlp", "swiglu"])
@pytest.mark.parametrize("implementation", ["grouped", "loop"])
def test_products_in_bfloat16_are_those_of_a_bank_in_bfloat16(
    name: str, implementation: str
) -> None:
    sizes = {"num_experts": 4, "dim": 16, "hidden_dim": 8, "implementation": implementation}
    bank = BANKS[name](**sizes, dtype="bfloat16")
    half = BANKS[name](**sizes).to(torch.bfloat16)
    half.load_state_dict(bank.state_dict())
    x, load_E = torch.randn(16, 16), torch.tensor([3, 5, 0, 8])
    y, expected = bank(x, load_E), half(x.to(torch.bfloat16), load_E)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().square().sum().backward()
    expected.float().square().sum().backward()
    for mine, other in zip(bank.parameters(), half.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        assert torch.equal(mine.grad, other.grad.float())


def test_products_in_an_unknown_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"experts\.dtype = bfloat8: .*Did you mean 'bfloat16'"):
        BANKS["mlp"](num_experts=2, dim=8, hidden_dim=8, dtype="bfloat8", implementation="grouped")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loads", [[3, 5, 0, 8], [0, 0, 16, 0], [0, 0, 0, 0]])
def test_neurons_are_networks_of_one_hidden_unit(loads: list[int], autocast: bool) -> None:
    neurons = Neurons(num_experts=4, dim=16)
    twin = Mlp(
        num_experts=4, dim=16, hidden_dim=1, activation="gelu", dtype=None, implementation="loop"
    )
    twin.load_state_dict(neurons.state_dict())
    results = []
    for bank in (neurons, twin):
        torch.manual_seed(1)
        x = torch.randn(sum(loads), 16, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = bank(x, torch.tensor(loads))
        (y.float() * torch.arange(16.0)).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in bank.parameters())])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= (0.02 if autocast else 1e-6) * other.norm()


def test_neurons_without_a_width() -> None:
    with pytest.raises(ConfigError, match=r"dim = 0: a width is at least 1"):
        Neurons(num_experts=4, dim=0)


@pytest.mark.parametrize(
    ("dim", "hidden_dim", "message"),
    [
        (0, 8, r"dim = 0: a width is at least 1"),
        (8, -8, r"experts\.hidden_dim = -8: a width is at least 1"),
        (8, 12, r"experts\.hidden_dim = 12: the grouped product needs a multiple of 8, such as 16"),
        (13, 8, r"^dim = 13: .*experts\.implementation=loop"),
    ],
)
def test_widths_that_cannot_work(dim: int, hidden_dim: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mlp(
            num_experts=2,
            dim=dim,
            hidden_dim=hidden_dim,
            activation="gelu",
            dtype=None,
            implementation="grouped",
        )
