"""Published systems: every row says what it is, can be built, trained a step, and changed."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from hmoe import build
from hmoe.balance import mixture_layers
from hmoe.cli import main
from hmoe.config import CONF, compose, expand, options, parse, read_system
from hmoe.errors import ConfigError
from hmoe.layer import HMoE, Mlp
from hmoe.layer.tree_ops import at_experts
from hmoe.training import assemble

SYSTEMS = options("system")
TINY = ["data.batch_size=8", "trainer.max_steps=1", "optim.warmup_steps=0"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_cites_its_paper_and_says_where_it_differs(name: str) -> None:
    system = read_system(name, CONF)
    assert system.title.endswith(".")
    assert any(f"({year})" in system.source for year in range(1990, 2027))
    assert system.equation
    assert system.differs
    keys = [parse(choice).key_or_group for choice in system.choices]
    # Groups come before their settings, so that a reader sees the choice first.
    for one, other in pairwise(keys):
        assert not one.startswith(f"{other}.")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_learns_from_one_step(name: str) -> None:
    parts = assemble(compose([f"system={name}", *TINY]))
    learner = parts.learner(Path())
    parts.data.setup()
    batch = parts.data.train_batch(0)
    loss, _ = learner.loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    gates = [(n, p) for n, p in parts.model.named_parameters() if ".gate." in f".{n}"]
    for parameter_name, parameter in gates:
        # An expert may have no rows in so small a batch; a gate always has.
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all()
        # Noise starts at the same deviation everywhere; only its weights may wait for a step.
        assert parameter.grad.any() or "noise" in parameter_name, parameter_name
    assert bool(gates) == (name not in ("hash", "random", "soft_moe"))
    parts.model.eval()
    with torch.no_grad():
        first, second = parts.model(batch["x"])[0], parts.model(batch["x"])[0]
    for one, other in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(one, other), "evaluation is deterministic"


def leaves(output: object) -> list[torch.Tensor]:
    """The tensors of an output, be it one or a record of several."""
    return [output] if isinstance(output, torch.Tensor) else list(vars(output).values())


# What a token meets, by the papers: rows over all heads in training and in evaluation, the sum of a
# head's weights (None: they are the gate's probabilities or sigmoids as they are), shared experts,
# and what pushes the load, with its weight (the rate of a bias).
MEETS = {
    "comet": (32, 32, 1.0, 0, {"doubt_loss": 0.01}),
    "deepseek_moe": (3, 3, None, 1, {"switch_loss": [0.05, 0.01]}),
    "deepseek_v3": (4, 4, 2.5, 1, {"switch_loss": 0.0001, "bias": 0.001}),
    "dselect_k": (32, 32, 1.0, 0, {"doubt_loss": 0.01}),
    "expert_choice": (2, 2, None, 0, {}),
    "fff": (16, 1, 1.0, 0, {"doubt_loss": 0.01}),
    "gshard": (2, 2, 1.0, 0, {"switch_loss": 0.01}),
    "hash": (1, 1, 1.0, 0, {}),
    "hme": (16, 16, 1.0, 0, {}),
    "laplace_hmoe": (2, 2, 1.0, 0, {"importance_cv2": 0.1}),
    "loss_free": (4, 4, None, 1, {"bias": 0.001}),
    "mixtral": (2, 2, 1.0, 0, {"switch_loss": 0.01}),
    "mmoe": (32, 32, 1.0, 0, {}),
    "moe_plus_plus": (2, 2, None, 0, {"switch_loss": 0.01}),
    "olmoe": (4, 4, None, 0, {"switch_loss": 0.01, "z_loss": 0.001}),
    "peer": (16, 16, 1.0, 0, {}),
    "ple": (16, 16, 1.0, 0, {}),
    "product_keys": (4, 4, 1.0, 0, {}),
    "qwen3_moe": (4, 4, 1.0, 0, {"switch_loss": 0.01}),
    "random": (2, 2, 1.0, 0, {}),
    "shazeer": (4, 4, 1.0, 0, {"importance_cv2": 0.1, "load_cv2": 0.1}),
    "shazeer_two_level": (4, 4, 1.0, 0, {"importance_cv2": [0, 0.1], "load_cv2": [0, 0.1]}),
    "smile": (1, 1, None, 0, {"switch_loss": 0.01}),
    "switch": (1, 1, None, 0, {"switch_loss": 0.01}),
}
# Rows that an expert takes at most, of 64 tokens: 1.25 T / E for Switch, 2 T / E for GShard.
CAPACITY = {"switch": 5, "gshard": 8}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_token_meets_what_the_paper_says(name: str) -> None:
    unlimited = ["selection.capacity=null"] if name in CAPACITY else []
    parts = assemble(compose([f"system={name}", *unlimited]))
    pushes = {
        getattr(t.loss, "func", t.loss).__name__: t.weight for t in parts.balance.terms.values()
    }
    if parts.balance.bias is not None:
        pushes["bias"] = parts.balance.bias.rate
    layers = mixture_layers(parts.model)
    if name not in MEETS:  # no rows: all experts answer all vectors, or slots work for a group
        assert name in ("jacobs_1991", "soft_moe")
        assert (layers, pushes) == ([], {})
        return
    *rows, total, shared, expected = MEETS[name]
    assert {loss: weight for loss, weight in pushes.items() if weight} == expected
    torch.manual_seed(0)
    x_TD = torch.randn(64, 64)
    for training, rows_per_token in zip((True, False), rows, strict=True):
        layer = layers[0].train(training)
        routing = layer.route(x_TD, None)
        assert len(routing.token_R) == 64 * rows_per_token
        assert (layer.shared.experts is not None) == (shared > 0)
        if shared:
            assert (layer.shared_weights(routing) > 0).sum() == 64 * shared
        if total is None:
            weight_TE = at_experts(routing.scores.weight_TN, layer.tree)
            assert torch.equal(routing.weight_R, weight_TE[routing.token_R, routing.expert_R])
        else:
            weight_T = torch.zeros(routing.num_tokens)
            weight_T = weight_T.index_add(0, routing.token_R, routing.weight_R)
            torch.testing.assert_close(weight_T, torch.full_like(weight_T, total))


@pytest.mark.parametrize("name", CAPACITY)
def test_an_expert_takes_no_more_than_the_paper_lets_it(name: str) -> None:
    (layer, *_) = mixture_layers(assemble(compose([f"system={name}"])).model)
    routing = layer.route(torch.ones(64, 64), None)  # all tokens want the same experts
    assert routing.load_E.max() == CAPACITY[name]


# What a part of a system needs, and says when a later choice takes it away.
REFUSED = {
    ("comet", "tree=deep"): "a smooth step decides between two",
    ("dselect_k", "tree=deep"): "a smooth step decides between two",
    ("ple", "tree=deep"): "gate.visible has 'shared'",
    ("moe_plus_plus", "tree=deep"): "experts.units has 'zero'",
    ("deepseek_moe", "tree=deep"): "2 numbers given, 3 expected",
    ("shazeer", "gate=bottom_up"): "load_cv2 asks what new noise would change",
    ("shazeer_two_level", "gate=bottom_up"): "load_cv2 asks what new noise would change",
    ("shazeer_two_level", "tree=deep"): "2 numbers given, 3 expected",
    ("hash", "gate=bottom_up"): "weights do not depend on the gate",
    ("random", "gate=bottom_up"): "weights do not depend on the gate",
    ("peer", "gate=bottom_up"): "A lazy descent needs",
    ("peer", "balance=switch"): "losses need the scores of all nodes",
    ("soft_moe", "tree=deep"): "would ignore all levels but one",
    ("soft_moe", "selection=top_k"): "reads no selection, only tree, experts",
    ("soft_moe", "gate=bottom_up"): "reads no gate, only tree, experts",
    ("soft_moe", "experts=swiglu"): "shared=company: .* reads no shared, only tree, experts",
    ("soft_moe", "balance=switch"): "reads no balance, only tree, experts",
    ("jacobs_1991", "selection=top_k"): "reads no selection, only tree, gate",
    ("jacobs_1991", "experts=swiglu"): "experts=swiglu: .* reads no experts, only tree, gate",
    ("jacobs_1991", "balance=switch"): "reads no balance, only tree, gate",
}


@cache
def composed(*overrides: str) -> DictConfig:
    """The configuration without a system, which takes as long to compose as a test with one."""
    return compose(overrides)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(
    "change",
    [
        ["selection=top_k", "selection.k=3"],
        ["gate=bottom_up", "gate.score=cosine"],
        ["experts=swiglu", "shared=company"],
        ["balance=switch"],
        ["tree=deep"],
    ],
    ids=lambda change: change[0],
)
def test_a_later_choice_wins(name: str, change: list[str]) -> None:
    if message := REFUSED.get((name, change[0])):
        with pytest.raises(ConfigError, match=message):
            assemble(compose([f"system={name}", *change]), device="meta")
        return
    cfg = compose([f"system={name}", *change])
    assemble(cfg, device="meta")
    group = change[0].partition("=")[0]
    assert cfg[group] == composed(*change)[group]
    assert cfg.system == name


def test_an_expansion_drops_only_what_is_chosen_anew() -> None:
    plain = expand(["system=mixtral"])
    assert plain == list(read_system("mixtral", CONF).choices)
    changed = expand(["seed=1", "system=mixtral", "selection=descend", "selection.k=1"])
    dropped = [choice for choice in plain if choice.startswith("selection")]
    assert changed == [
        "seed=1",
        *(choice for choice in plain if choice not in dropped),
        "selection=descend",
        "selection.k=1",
    ]
    # Values alone replace nothing: they win by coming later.
    assert expand(["system=mixtral", "selection.k=1"]) == [*plain, "selection.k=1"]


@pytest.mark.parametrize("first", ["deepseek_moe", "fff", "jacobs_1991", "peer"])
def test_of_several_systems_the_last_counts_alone(first: str) -> None:
    own = ["seed=3", "optim.lr=0.01"]
    assert compose([own[0], f"system={first}", own[1], "system=mixtral"]) == compose(
        [*own, "system=mixtral"]
    )
    # What one says oneself stays where one said it: before a system it gives way, after it wins.
    mixed = expand(
        ["selection.k=3", f"system={first}", "seed=3", "system=mixtral", "shared=company"]
    )
    choices = read_system("mixtral", CONF).choices
    assert mixed == ["selection.k=3", "seed=3", *choices, "shared=company"]
    with pytest.raises(ConfigError, match="Did you mean 'mixtral'"):
        expand(["system=mixtrall", f"system={first}"])


def test_a_system_within_a_system_falls_with_its_gate() -> None:
    cfg = compose(["system=dselect_k", "gate=bottom_up"])
    assert cfg.gate._target_.endswith("BottomUp")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["system=mixtrall"], r"system=mixtrall: no such option.*Did you mean 'mixtral'"),
        (["system=comet", "tree=company"], r"smooth step decides between two.*Use a binary tree"),
        (
            ["system=product_keys", "tree=company"],
            r"equal size.*Use a tree such as tree.spec=\[4,4\]",
        ),
        (
            ["system=mmoe", "gate.merge=stack"],
            r"gate.merge = stack.*one answer.*Use model=multi_task",
        ),
        (["system=ple", "tree=grid"], r"gate.visible has 'shared'"),
        (["system=[mixtral,switch]"], r"the name of one system is expected"),
    ],
)
def test_a_system_asked_for_what_it_cannot_have_says_so(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assemble(compose(overrides), device="meta")


# ------------------------------------------------------------------ what nothing reads


@pytest.mark.parametrize(
    ("model", "ignored", "part"),
    [
        ("model=mixture", "selection.k=3", "selection"),
        ("model=mixture", "selection@eval_selection=descend", "eval_selection"),
        ("model=mixture", "shared.units={company: 1}", "shared"),
        ("model=mixture", "experts.hidden_dim=8", "experts"),
        ("model=mixture", "balance.terms.switch.weight=0.1", "balance"),
        ("model=mlp_dense", "tree=flat", "tree"),
        ("model=mlp_dense", "gate=heads", "gate"),
        ("model=mlp_dense", "balance=bias", "balance"),
        ("model=transformer_dense", "system=mixtral", "tree"),
        ("ffn@model.ffn=soft_moe", "gate.noise=gumbel", "gate"),
        ("ffn@model.ffn=soft_moe", "balance=switch_z", "balance"),
    ],
)
def test_what_a_model_does_not_read_cannot_be_chosen(model: str, ignored: str, part: str) -> None:
    with pytest.raises(ConfigError, match=f"would be ignored.* reads no {part}, only "):
        compose([model, ignored])
    # Before the model it may be meant for others: the arms of a sweep share such choices.
    assert compose([ignored, model])


@pytest.mark.parametrize("model", ["mixture", "mlp_dense", "mlp", "ffn@model.ffn=soft_moe"])
def test_defaults_and_none_are_no_choices(model: str) -> None:
    choice = model if "=" in model else f"model={model}"
    assert compose([choice, "balance=none", "shared=none"]).balance.terms == {}
    # What is taken back was never asked for.
    assert compose([choice, "shared=company", "shared=none"]) == compose([choice])


def test_parts_that_are_read_through_others_can_be_chosen() -> None:
    read = ["tree=flat", "gate=tied", "selection@eval_selection=soft", "experts=by_unit"]
    assemble(compose([*read, "shared=company", "balance=switch_z"]), device="meta")
    # Experts that differ by unit read the tree, whoever reads them.
    assert compose(["model=mlp_dense", "experts=by_unit", "tree=flat"]).tree.spec == [16]


# ------------------------------------------------------------------ hmoe.build


def test_build_makes_a_layer_for_other_models() -> None:
    layer = build("system=mixtral", "tree.spec=[8]", dim=16, hidden_dim=24)
    assert isinstance(layer, HMoE)
    assert layer.experts.w_up_EDF.shape == (8, 16, 24)
    y, routing = layer(torch.randn(2, 3, 16))
    assert y.shape == (2, 3, 16)
    assert routing.load_E.sum() == 2 * 3 * 2


def test_build_makes_room_for_the_bias_of_a_controller() -> None:
    layer = build("system=loss_free", dim=16, hidden_dim=8)
    assert mixture_layers(layer) == [layer]
    assert layer.bias_N.tolist() == [0.0] * layer.tree.num_nodes
    assert build("system=switch", dim=16, hidden_dim=8).bias_N is None


def test_build_stacks_the_answers_of_tasks() -> None:
    layer = build("system=mmoe", "gate.num=3", "gate.merge=stack", dim=16, hidden_dim=8)
    assert layer(torch.randn(5, 16))[0].shape == (3, 5, 16)


def test_build_gives_the_width_to_the_bank_that_has_one() -> None:
    layer = build("system=moe_plus_plus", dim=16, hidden_dim=24)
    (networks,) = [bank for bank in layer.experts.banks if isinstance(bank, Mlp)]
    assert networks.w_in_EDF.shape == (12, 16, 24)
    with pytest.raises(ConfigError, match="hidden_dim = 24: these experts have no width"):
        build("system=peer", dim=16, hidden_dim=24)


def test_build_tells_mistakes_as_the_command_line_does() -> None:
    with pytest.raises(ConfigError, match="system=jacobs_1991: chooses a whole model"):
        build("system=jacobs_1991", dim=16)
    with pytest.raises(ConfigError, match=r"Did you mean 'tree\.spec'"):
        build("tree.speck=[8]", dim=16)
    with pytest.raises(ConfigError, match="multiple of 8"):
        build("system=mixtral", dim=16, hidden_dim=12)


def test_describe_cites_the_system(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["describe", "system=deepseek_v3"])
    printed = capsys.readouterr().out
    for said in (read_system("deepseek_v3", CONF).source, "company (16 experts", "FLOPs per token"):
        assert said in printed
