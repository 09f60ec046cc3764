"""Soft MoE: by hand, against the formula written out, laws, costs, and through a run."""

from functools import partial
from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmoe.config import compose
from hmoe.errors import ConfigError
from hmoe.layer import Identity, Mlp, SoftMoE, Tree
from hmoe.models import Cost, ResidualMlp, cost, description
from hmoe.training import assemble
from tests.cases import DIM, EXPERTS, MODELS, make_input
from tests.tiny import RUN, train_in

SLOTS = "ffn@model.ffn=soft_moe"


def make(num_experts: int = 3, seed: int = 0, **parts) -> SoftMoE:
    torch.manual_seed(seed)
    plain = {"experts": EXPERTS["mlp"], "slots": 2, "group": 5, "dim": DIM}
    tree = {"tree": Tree.from_spec([num_experts])}
    layer = SoftMoE(**(tree | plain | parts))
    layer.scale.data.fill_(3.0)  # as after some training
    return layer


# ------------------------------------------------------------------ by hand


def test_two_tokens_and_two_slots_by_hand() -> None:
    """Every token looks along one slot and across the other: odds of 3 to 1 both ways."""
    layer = make(2, experts=Identity, slots=1, dim=2)
    layer.scale.data.fill_(log(3))
    layer.phi_MD.data.copy_(torch.tensor([[7.0, 0.0], [0.0, 0.1]]))  # lengths do not matter
    y, routing = layer(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    # Slot 0 reads 3/4 (2, 0) + 1/4 (0, 4) = (1.5, 1), slot 1 reads 1/4 and 3/4 of them: (0.5, 3).
    # Token 0 hears 3/4 (1.5, 1) + 1/4 (0.5, 3), token 1 hears 1/4 and 3/4 of them.
    torch.testing.assert_close(y, torch.tensor([[1.25, 1.5], [0.75, 2.5]]))
    assert routing is None


def written_out(layer: SoftMoE, tokens: list[list[float]]) -> list[list[float]]:
    """The formula for one group, number by number."""
    phi, scale = layer.phi_MD.tolist(), layer.scale.item()

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(i * j for i, j in zip(a, b, strict=True))
        return dot / sqrt(sum(i * i for i in a)) / sqrt(sum(j * j for j in b))

    def shares(values: list[float]) -> list[float]:
        return [exp(v) / sum(map(exp, values)) for v in values]

    def mean(weights: list[float], vectors: list[list[float]]) -> list[float]:
        return [
            sum(w * v for w, v in zip(weights, column, strict=True))
            for column in zip(*vectors, strict=True)
        ]

    score = [[scale * cosine(x, slot) for slot in phi] for x in tokens]
    answers = []
    for m in range(len(phi)):
        read = torch.tensor(mean(shares([row[m] for row in score]), tokens))
        w_in, w_out = (w[m // layer.slots] for w in layer.experts.parameters())
        answers.append((F.gelu(read @ w_in) @ w_out).tolist())
    return [mean(shares(row), answers) for row in score]


def test_the_layer_is_the_formula_written_out() -> None:
    layer = make()
    x = torch.randn(2, 5, DIM)
    expected = [written_out(layer, group.tolist()) for group in x]
    torch.testing.assert_close(layer(x)[0], torch.tensor(expected))


# ------------------------------------------------------------------ laws


def test_tokens_in_another_order_get_their_answers_in_that_order() -> None:
    layer, x = make(), torch.randn(2, 6, DIM)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[:, order])[0], layer(x)[0][:, order])


def test_a_sequence_is_a_group_and_a_batch_of_vectors_is_one() -> None:
    layer, x = make(), torch.randn(4, 6, DIM)
    each = torch.stack([layer(sequence)[0] for sequence in x])
    torch.testing.assert_close(layer(x)[0], each)
    torch.testing.assert_close(layer(x.view(2, 2, 6, DIM))[0], each.view(2, 2, 6, DIM))
    assert not torch.allclose(layer(x.flatten(0, 1))[0], each.flatten(0, 1))


def test_it_is_not_causal() -> None:
    layer, x = make(), torch.randn(1, 6, DIM)
    later = x.clone()
    later[:, -1] += 1
    assert not torch.allclose(layer(x)[0][:, 0], layer(later)[0][:, 0])


def test_weights_sum_to_one_over_tokens_and_over_slots() -> None:
    """Means of equal vectors are that vector: once into the slots, once out of them."""
    layer = make(experts=Identity)
    x = torch.randn(3, 1, DIM).expand(3, 7, DIM)
    torch.testing.assert_close(layer(x)[0], x)


def test_only_directions_of_tokens_and_slots_are_compared() -> None:
    layer, x = make(experts=Identity), torch.randn(5, DIM)
    before = layer(x)[0]
    torch.testing.assert_close(layer(10 * x)[0], 10 * before)
    layer.phi_MD.data *= torch.rand(len(layer.phi_MD), 1) + 0.5
    torch.testing.assert_close(layer(x)[0], before)


def test_the_grouped_product_agrees_with_its_slow_twin() -> None:
    results = []
    for implementation in ("loop", "grouped"):
        bank = partial(
            Mlp, hidden_dim=8, activation="gelu", dtype=None, implementation=implementation
        )
        layer = make(experts=bank)
        x = torch.randn(2, 5, DIM, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y, _ = layer(x)
        y.square().sum().backward()
        grads = [p.grad for p in layer.parameters()]
        assert all(grad.abs().sum() > 0 for grad in grads)
        results.append([y, x.grad, *grads])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_scores_are_float32_under_autocast() -> None:
    layer, x = make(), torch.randn(2, 5, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer.scores(x).dtype == torch.float32
        y, _ = layer(x)
    torch.testing.assert_close(y.float(), layer(x)[0], rtol=0.1, atol=0.1)
    assert torch.equal(layer.scores(x), make().scores(x))


# ------------------------------------------------------------------ costs


def soft_moe(**parts):
    """The feed-forward of a model: called as ffn(dim=)."""
    plain = {"tree": Tree.from_spec([4]), "experts": EXPERTS["mlp"], "slots": 3, "group": 6}
    return partial(SoftMoE, **(plain | parts))


def test_a_small_model_costs_by_hand() -> None:
    model = ResidualMlp(in_dim=5, out_dim=3, dim=8, depth=2, ffn=soft_moe(group=24))
    expert, phi = 2 * 8 * 8, 12 * 8
    rest = (5 * 8 + 8) + 2 * 8 + 8 + (8 * 3 + 3)  # embed, two norms, norm, head
    params = rest + 2 * (phi + 1 + 4 * expert)
    # 12 slots for 24 tokens are half an expert a token; scores, slots and answers are a phi each.
    products = 5 * 8 + 2 * (3 * phi + expert / 2) + 8 * 3
    assert cost(model) == Cost(
        total_params=params,
        active_params=params,
        gate_params=2 * (phi + 1),
        flops_per_token=2 * products,
        num_mixtures=2,
        experts_per_token=0.5,
    )
    assert params == sum(p.numel() for p in model.parameters())
    assert "company (4 experts, 1 level)" in description(model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("experts", ["mlp", "swiglu", "identity"])
def test_flops_are_those_torch_counts_on_the_slow_twin(model: str, experts: str) -> None:
    batch = 3
    group = batch if model == "mlp" else 6
    network = MODELS[model](ffn=soft_moe(experts=EXPERTS[experts], group=group))
    tokens = batch * (1 if model == "mlp" else 6)
    # The fused attention of the CPU counts as nothing; written out as products it is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, routings = network(make_input(model, batch=batch))
    assert routings == []
    assert counter.get_total_flops() == pytest.approx(cost(network).flops_per_token * tokens)


def test_a_model_without_memory_costs_the_same() -> None:
    make_model = partial(MODELS["transformer"], ffn=soft_moe())
    with torch.device("meta"):
        blank = make_model()
    assert cost(blank) == cost(make_model())


# ------------------------------------------------------------------ in a run


def test_the_group_of_the_costs_is_that_of_the_data() -> None:
    images = assemble(compose([SLOTS, "tree=flat", "data=digits", "model=mlp"]), device="meta")
    assert images.model.ffns[0].group == 64
    text = ["data=stdlib", "model=transformer", "data.context=32"]
    network = assemble(compose([SLOTS, "tree=flat", *text]), device="meta").model
    assert [b.ffn.group for b in network.blocks if isinstance(b.ffn, SoftMoE)] == [32, 32]


def test_a_run_trains_and_has_no_load(tmp_path: Path) -> None:
    """As for the dense control, a balance has nothing to act on."""
    result = train_in(tmp_path, SLOTS, "tree.spec=[4]")
    assert result["cost"]["num_mixtures"] == 2
    assert result["metrics"]["val/accuracy"] > 0.15  # one of ten by chance
    assert not [key for key in result["metrics"] if "load" in key or "balance" in key]


@pytest.mark.parametrize("choice", ["balance=switch", "balance=bias", "gate=tied", "selection.k=3"])
def test_what_would_be_ignored_is_refused(choice: str) -> None:
    with pytest.raises(ConfigError, match=f"{choice}: would be ignored"):
        compose([*RUN, SLOTS, choice])


def test_levels_that_would_be_ignored_are_refused() -> None:
    message = r"tree = 2x2: a Soft MoE .* Use tree\.spec=\[4\]"
    with pytest.raises(ConfigError, match=message):
        assemble(compose([*RUN, SLOTS]), device="meta")
    with pytest.raises(ConfigError, match=r"Use tree\.spec=\[16\]"):
        make(tree=Tree.from_spec([4, 4]))


@pytest.mark.parametrize("name", ["slots", "group"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"ffn.{name} = 0: must be at least 1"):
        make(**{name: 0})
