"""Costs of every published system in both models: parameters and FLOPs beside what torch counts.

Letters: B batch, S positions, D width.
"""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmoe.balance import mixture_layers
from hmoe.config import compose, keys, options
from hmoe.layer import ByUnit, HMoE, Routing
from hmoe.models import cost
from hmoe.training import assemble

MODELS = {
    "mlp": ("data=digits", "model=mlp", "model.dim=16"),
    "transformer": (
        *("data=stdlib", "data.context=8", "data.eval_bytes=8", "model=transformer"),
        *("model.dim=16", "model.depth=2", "model.num_heads=2", "model.ffn_blocks=[1]"),
    ),
}
SYSTEMS = [name for name in options("system") if name != "jacobs_1991"]
# A capacity drops rows by chance, and units of experts that differ are chosen by chance.
BY_CHANCE = {"gshard", "switch", "moe_plus_plus"}


def network_of(system: str, *overrides: str) -> nn.Module:
    """The model of a system with all its products in the slow twin."""
    choices = [f"system={system}", *overrides, "experts.hidden_dim=16"]
    if system == "peer":
        # Neurons multiply by element, where torch counts nothing; these cost the same.
        choices[-1:] = ["experts=mlp", "experts.hidden_dim=1"]
    if system == "moe_plus_plus":
        choices[-1] = "experts.default.hidden_dim=16"
    known = keys(compose(choices))
    loops = [f"{key}=loop" for key in known if key.endswith("implementation")]
    return assemble(compose([*choices, *loops])).model


def counted_flops(network: nn.Module, x: torch.Tensor) -> tuple[int, list[Routing]]:
    """What torch counts in a forward pass, and who worked on what in it."""
    # The fused attention of the CPU counts as nothing; written out as products it is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, routings = network(x)
    return counter.get_total_flops(), routings


def size_of_experts(layer: HMoE) -> torch.Tensor:
    """Entries of the matrices of every expert (E,)."""
    experts = layer.experts
    banks = zip(experts.banks, experts.sizes, strict=True) if isinstance(experts, ByUnit) else None
    return torch.tensor(
        [
            sum(p[0].numel() for p in bank.parameters() if p.ndim == 3)
            for bank, number in banks or [(experts, layer.tree.num_experts)]
            for _ in range(number)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_costs_of_a_system_are_what_torch_counts(system: str, model: str) -> None:
    """By chance a batch has more rows than the mean, or for larger experts: that is put right."""
    network = network_of(system, *MODELS[model])
    found = cost(network)
    assert found.total_params == sum(p.numel() for p in network.parameters())
    torch.manual_seed(0)
    x = torch.randn(64, 64) if model == "mlp" else torch.randint(0, 256, (8, 8))
    counted, routings = counted_flops(network, x)
    expected = found.flops_per_token * 64
    for layer, routing in zip(mixture_layers(network), routings, strict=True):
        size_E = size_of_experts(layer)
        mean = found.experts_per_token * 64 * size_E.mean()
        chance = 2 * (routing.load_E.double() @ size_E - mean).item()
        assert chance == pytest.approx(0, abs=1) or system in BY_CHANCE
        expected += chance
    assert counted == pytest.approx(expected, rel=1e-9)


def test_costs_of_a_mixture_of_whole_networks_are_what_torch_counts() -> None:
    """jacobs_1991 is a model of its own, on vectors."""
    network = assemble(compose(["system=jacobs_1991", "data=digits"])).model
    counted, routings = counted_flops(network, torch.randn(48, 64))
    found = cost(network)
    assert routings == []
    assert found.total_params == sum(p.numel() for p in network.parameters())
    assert counted == pytest.approx(found.flops_per_token * 48, rel=1e-9)


# ------------------------------------------------------------------ active parameters by hand

WIDTH, HIDDEN = 16, 16
MLP, SWIGLU = 2 * WIDTH * HIDDEN, 3 * WIDTH * HIDDEN
ROW = WIDTH + 1  # of a node: a weight for each entry of the token, and a bias
ACTIVE = {
    "hme": 30 * ROW + 16 * MLP,  # 2 + 4 + 8 + 16 nodes; all experts work
    "mixtral": 8 * ROW + 2 * SWIGLU,
    "switch": 16 * ROW + MLP,
    "deepseek_v3": 16 * ROW + 4 * SWIGLU + SWIGLU,  # experts alone have weights; one is shared
    # Each of two levels has a query of 32 entries, compared with four keys.
    "product_keys": 2 * (32 * WIDTH + 4 * 33) + 4 * MLP,
    "smile": 20 * ROW + MLP,
    "mmoe": 2 * 16 * ROW + 16 * MLP,  # two gates; each of 16 experts is met by both
    "hash": MLP,
    "soft_moe": 16 * 4 * WIDTH + 1 + 16 * MLP,  # 4 slots an expert and a scale
}


@pytest.mark.parametrize("system", ACTIVE)
def test_active_parameters_of_a_system_by_hand(system: str) -> None:
    unlimited = ["selection.capacity=null"] if system == "switch" else []
    network = network_of(system, *MODELS["mlp"], "model.depth=1", *unlimited)
    around = (64 * WIDTH + WIDTH) + 2 * WIDTH + (10 * WIDTH + 10)  # embed, norms, head
    assert cost(network).active_params == around + ACTIVE[system]
