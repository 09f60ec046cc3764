"""HMoE is the mixture blocks of transformers: weights copied in, outputs and all gradients equal.

Every case has a dictionary: a function that reads a block of theirs and gives its tensors under our
names. It copies weights one way and names gradients the other, so it is what one needs to load a
published checkpoint. transformers is wanted by tests alone.

Letters: B sequences, S tokens of a sequence, D width, F hidden width, E experts, N nodes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hmoe.layer import HMoE, Mlp, Shared, SwiGlu, Tree
from tests.cases import best, bottom_up, layer_of, top_down

deepseek = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
qwen3 = pytest.importorskip("transformers.models.qwen3_moe.modeling_qwen3_moe")
switch = pytest.importorskip("transformers.models.switch_transformers.modeling_switch_transformers")

D, F, E = 16, 24, 8
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
Read = Callable[[nn.Parameter], Tensor]
Named = dict[str, Tensor]


def value(parameter: nn.Parameter) -> Tensor:
    return parameter.detach()


def gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def swiglu_experts(experts: nn.Module, read: Read) -> Named:
    """Mixtral, Qwen3 and DeepSeek stack gate and up, and keep every matrix transposed."""
    gate_EFD, up_EFD = read(experts.gate_up_proj).chunk(2, 1)
    return {
        "experts.w_gate_EDF": gate_EFD.transpose(1, 2),
        "experts.w_up_EDF": up_EFD.transpose(1, 2),
        "experts.w_out_EFD": read(experts.down_proj).transpose(1, 2),
    }


def flat_tensors(block: nn.Module, read: Read) -> Named:
    """Mixtral and Qwen3."""
    router = {"gate.scorers.0.weight_MD": read(block.gate.weight)}
    return router | swiglu_experts(block.experts, read)


def deepseek_tensors(block: nn.Module, read: Read) -> Named:
    """Their n shared experts are one of n times the width; ours would be n, or the same one."""
    shared = block.shared_experts
    return {
        "gate.scorer.weight_MD": read(block.gate.weight),
        "shared.experts.w_gate_EDF": read(shared.gate_proj.weight).T[None],
        "shared.experts.w_up_EDF": read(shared.up_proj.weight).T[None],
        "shared.experts.w_out_EFD": read(shared.down_proj.weight).T[None],
    } | swiglu_experts(block.experts, read)


def switch_tensors(block: nn.Module, read: Read) -> Named:
    experts = block.experts.values()
    return {
        "gate.scorers.0.weight_MD": read(block.router.classifier.weight),
        "experts.w_in_EDF": torch.stack([read(expert.wi.weight).T for expert in experts]),
        "experts.w_out_EFD": torch.stack([read(expert.wo.weight).T for expert in experts]),
    }


def swiglu(width: int) -> Callable[..., SwiGlu]:
    return partial(SwiGlu, hidden_dim=width, dtype=None, implementation="loop")


def mixtral_block() -> nn.Module:
    return mixtral.MixtralSparseMoeBlock(
        mixtral.MixtralConfig(
            hidden_size=D,
            intermediate_size=F,
            num_local_experts=E,
            num_experts_per_tok=2,
            experts_implementation="eager",
        )
    )


def qwen3_block(renormalized: bool) -> nn.Module:
    return qwen3.Qwen3MoeSparseMoeBlock(
        qwen3.Qwen3MoeConfig(
            hidden_size=D,
            moe_intermediate_size=F,
            num_experts=E,
            num_experts_per_tok=3,
            norm_topk_prob=renormalized,
            experts_implementation="eager",
        )
    )


def switch_block() -> nn.Module:
    return switch.SwitchTransformersSparseMLP(
        switch.SwitchTransformersConfig(
            d_model=D,
            d_ff=F,
            num_experts=E,
            expert_capacity=1000,  # nothing is dropped
            router_jitter_noise=0.0,
            dropout_rate=0.0,
        )
    )


def deepseek_block(renormalized: bool = True, groups: int = 4, kept: int = 2) -> nn.Module:
    """Four experts a group, and shared experts of twice an expert's width."""
    return deepseek.DeepseekV3MoE(
        deepseek.DeepseekV3Config(
            hidden_size=D,
            moe_intermediate_size=F,
            n_routed_experts=4 * groups,
            num_experts_per_tok=3,
            n_group=groups,
            topk_group=kept,
            norm_topk_prob=renormalized,
            routed_scaling_factor=2.5,
            n_shared_experts=2,
            experts_implementation="eager",
        )
    )


def flat_layer(experts: Callable[..., nn.Module] | None = None, **selection) -> HMoE:
    return layer_of(
        tree=Tree.from_spec([E]),
        gate=top_down(),
        selection=best(**selection),
        experts=experts or swiglu(F),
    )(dim=D)


def deepseek_layer(weights: str = "renormalized", groups: int = 4, kept: int = 2) -> HMoE:
    layer = layer_of(
        tree=Tree.from_spec([groups, 4]),
        gate=bottom_up(link="sigmoid", pool="top_2_sum"),
        selection=best(3, beam=kept, weights=weights, scale=2.5),
        experts=swiglu(F),
        shared=partial(Shared, units={"company": 1}, experts=swiglu(2 * F)),
    )(dim=D)
    layer.add_bias()
    return layer


class Case(NamedTuple):
    """A block of theirs, the layer of ours that it is, and the dictionary between them."""

    block: Callable[[], nn.Module]
    layer: Callable[[], HMoE]
    tensors: Callable[[nn.Module, Read], Named]


CASES = {
    "mixtral": Case(mixtral_block, partial(flat_layer, k=2, weights="softmax"), flat_tensors),
    "qwen3": Case(
        partial(qwen3_block, True), partial(flat_layer, k=3, weights="renormalized"), flat_tensors
    ),
    "qwen3_not_renormalized": Case(
        partial(qwen3_block, False), partial(flat_layer, k=3, weights="probs"), flat_tensors
    ),
    "switch": Case(
        switch_block,
        partial(
            flat_layer,
            partial(Mlp, hidden_dim=F, activation="relu", dtype=None, implementation="loop"),
            k=1,
            weights="probs",
        ),
        switch_tensors,
    ),
    "deepseek": Case(deepseek_block, deepseek_layer, deepseek_tensors),
    "deepseek_not_renormalized": Case(
        partial(deepseek_block, False), partial(deepseek_layer, "probs"), deepseek_tensors
    ),
    "deepseek_one_group": Case(
        partial(deepseek_block, kept=1), partial(deepseek_layer, kept=1), deepseek_tensors
    ),
}


def twins(case: Case, seed: int) -> tuple[nn.Module, HMoE]:
    """A block of theirs with random weights, and our layer with the same."""
    torch.manual_seed(seed)
    block, layer = case.block(), case.layer()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.25)
    copied = layer.load_state_dict(case.tensors(block, value), strict=False)
    assert copied.unexpected_keys == []
    # Routers of theirs have no bias; those of ours start at zero. A controller's is copied below.
    assert {name.split(".")[-1] for name in copied.missing_keys} <= {"bias_M", "bias_N"}
    return block, layer


def set_bias(block: nn.Module, layer: HMoE, bias_E: Tensor) -> None:
    """Their correction of the scores that choose is our controller's bias, zero at units."""
    block.gate.e_score_correction_bias.copy_(bias_E)
    layer.bias_N.index_copy_(0, torch.tensor(layer.tree.node_E), bias_E)


def assert_equal(case: Case, block: nn.Module, layer: HMoE) -> None:
    """Outputs and all gradients, of the input and of every weight."""
    x_BSD = torch.randn(2, 32, D)
    cotangent_BSD = torch.randn(2, 32, D) / 8  # gradients of about 1
    results = []
    for module in (block, layer):
        module.zero_grad()
        input_BSD = x_BSD.clone().requires_grad_()
        output = module(input_BSD)
        y_BSD = output if module is block else output[0]
        y_BSD.backward(cotangent_BSD)
        results.append((y_BSD, input_BSD.grad))
    (their_y, their_grad), (our_y, our_grad) = results
    assert their_y.std() > 0.1
    torch.testing.assert_close(our_y, their_y, **TOLERANCE)
    torch.testing.assert_close(our_grad, their_grad, **TOLERANCE)
    ours = dict(layer.named_parameters())
    theirs = case.tensors(block, gradient)
    assert ours.keys() - theirs.keys() <= {"gate.scorer.bias_M", "gate.scorers.0.bias_M"}
    for name, grad in theirs.items():
        assert grad.abs().max() > 0.1, name
        torch.testing.assert_close(gradient(ours[name]), grad, **TOLERANCE, msg=name)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_layer_is_the_block_of_transformers(name: str, seed: int, training: bool) -> None:
    case = CASES[name]
    block, layer = twins(case, seed)
    if layer.bias_N is not None:
        set_bias(block, layer, torch.randn(layer.tree.num_experts) * 0.5)
    assert_equal(case, block.train(training), layer.train(training))


@pytest.mark.parametrize("bias", [0.0, -0.5, -0.8, -2.0])
def test_deepseek_is_equal_under_biases_that_turn_scores_negative(bias: float) -> None:
    case = CASES["deepseek"]
    block, layer = twins(case, seed=0)
    set_bias(block, layer, bias + 0.1 * torch.randn(layer.tree.num_experts))
    assert_equal(case, block, layer)


def test_dropped_groups_of_older_releases_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5.3 masked dropped groups with 0.0; 5.24, like us, with minus infinity.

    0.0 is the best score there is where a bias turns all others negative, so that tokens work in
    the groups that they had not chosen.
    """
    kept = 2
    block = deepseek_block(groups=8, kept=kept)
    layer = deepseek_layer(groups=8, kept=kept)
    nn.init.normal_(block.gate.weight, std=0.3)
    layer.load_state_dict({"gate.scorer.weight_MD": block.gate.weight.detach()}, strict=False)
    x_TD = torch.randn(128, D)
    fill = torch.Tensor.masked_fill

    def escaped(expert_TK: Tensor) -> float:
        """Share of tokens with an expert outside of the groups that they chose."""
        choice = layer.gate.choose(layer.gate(x_TD), layer.bias_N)
        group_TB = choice.weight_TN[:, layer.tree.level_slices[0]].topk(kept).indices
        inside_TK = (expert_TK.unsqueeze(-1) // 4 == group_TB.unsqueeze(1)).any(-1)
        return (~inside_TK).any(-1).float().mean().item()

    for bias, share in ((0.0, 0.0), (-2.0, 1.0)):
        set_bias(block, layer, torch.full((32,), bias))
        our_TK = layer.route(x_TD, None).expert_R.view(-1, 3)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "masked_fill", lambda x, mask, _: fill(x, mask, 0.0))
            old_TK = block.gate(x_TD)[2]
        now_TK = block.gate(x_TD)[2]
        assert torch.equal(our_TK.sort().values, now_TK.sort().values)
        assert escaped(our_TK) == 0.0
        assert escaped(old_TK) == share
