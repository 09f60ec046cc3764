"""First weights: the same in all arms of a comparison, whatever their gates and widths."""

from collections.abc import Sequence

import pytest
import torch

from hmoe.config import compose
from hmoe.layer import Mlp, SwiGlu, own_stream
from hmoe.training import assemble

RUNS = {
    "mlp": ["data=digits", "model=mlp", "model.dim=16", "experts.hidden_dim=8"],
    "transformer": [
        *("data=stdlib", "data.context=8", "model=transformer", "model.dim=16", "model.depth=3"),
        *("model.num_heads=2", "model.ffn_blocks=[0,2]", "experts.hidden_dim=8"),
    ],
    "swiglu": ["data=digits", "model=mlp", "model.dim=16", "experts=swiglu"],
    "mixture": ["data=digits", "model=mixture", "balance=none"],
}
OTHERS: list[list[str]] = [
    ["tree.spec=[2,2,4]"],
    ["gate=bottom_up"],
    ["gate.score=mlp", "gate.width=5"],
    ["gate.score=random"],
]


def weights(overrides: Sequence[str], seed: int = 0) -> dict[str, torch.Tensor]:
    """The first weights of a run, by name."""
    torch.manual_seed(seed)
    return dict(assemble(compose(overrides)).model.named_parameters())


@pytest.mark.parametrize("other", OTHERS, ids=" ".join)
@pytest.mark.parametrize("name", RUNS)
def test_another_gate_changes_nothing_but_the_gate(name: str, other: list[str]) -> None:
    flat, arm = weights([*RUNS[name], "tree=flat"]), weights([*RUNS[name], "tree=flat", *other])
    common = [key for key in flat if "gate." not in key]
    assert common == [key for key in arm if "gate." not in key]
    assert any("EDF" in key or "EDO" in key for key in common)
    assert all(torch.equal(flat[key], arm[key]) for key in common)
    again, later = weights([*RUNS[name], "tree=flat"]), weights([*RUNS[name], "tree=flat"], seed=1)
    drawn = [key for key in flat if flat[key].std() > 0]
    assert all(torch.equal(flat[key], again[key]) for key in flat)
    assert not any(torch.equal(flat[key], later[key]) for key in drawn)


def test_the_dense_control_starts_with_the_same_network_around_its_experts() -> None:
    for name in ("mlp", "transformer"):
        flat = weights([*RUNS[name], "tree=flat"])
        dense = weights([*RUNS[name], f"model={name}_dense", *RUNS[name][2:], "balance=none"])
        around = [key for key in dense if key in flat and flat[key].shape == dense[key].shape]
        assert len(around) > 4
        assert all(torch.equal(flat[key], dense[key]) for key in around)


@pytest.mark.parametrize("bank", [Mlp, SwiGlu])
def test_the_units_of_a_narrow_bank_are_the_first_of_a_wider_one(bank: type) -> None:
    activation = {"activation": "gelu"} if bank is Mlp else {}
    banks = {}
    for width in (184, 192, 187):
        torch.manual_seed(0)
        banks[width] = bank(
            **{"num_experts": 3, "dim": 16, "hidden_dim": width, "dtype": None},
            **{"implementation": "loop"} | activation,
        )
    for width in (184, 187):
        for name, narrow in banks[width].named_parameters():
            wide = banks[192].get_parameter(name).detach()
            if name == "w_out_EFD":  # its scale is that of its fan-in
                expected = wide[:, :width] * (192 / width) ** 0.5
                torch.testing.assert_close(narrow.detach(), expected, rtol=1e-5, atol=1e-8)
            else:
                assert torch.equal(narrow.detach(), wide[:, :, :width])


def test_first_weights_are_normal_with_the_variance_of_the_fan_in() -> None:
    bank = Mlp(
        **{"num_experts": 8, "dim": 64, "hidden_dim": 200, "dtype": None},
        **{"activation": "gelu", "implementation": "loop"},
    )
    for weight, fan_in in ((bank.w_in_EDF, 64), (bank.w_out_EFD, 200)):
        scaled = weight.detach().flatten() * fan_in**0.5
        assert weight.is_contiguous()
        # 102,400 draws: the mean's deviation is 0.003, that of the variance 0.004.
        assert abs(scaled.mean()) < 0.015
        assert abs(scaled.var() - 1) < 0.02
        assert abs((scaled.abs() < 1).float().mean() - 0.6827) < 0.01
        assert len(scaled.unique()) > 0.99 * len(scaled)


def test_a_stream_outside_moves_by_one_number_however_much_is_drawn_inside() -> None:
    found = []
    for size in (0, 1, 1000):
        torch.manual_seed(3)
        with own_stream():
            inside = torch.randn(size)
        found.append(torch.randn(4))
        assert not torch.equal(inside[:4], found[-1])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_on_no_device_nothing_is_made() -> None:
    with torch.device("meta"):
        bank = Mlp(
            **{"num_experts": 8, "dim": 64, "hidden_dim": 200, "dtype": None},
            **{"activation": "gelu", "implementation": "loop"},
        )
    assert {p.device.type for p in bank.parameters()} == {"meta"}
