"""Controls: what each changes, by hand; that it trains wherever it applies; what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from hmoe.config import compose, options
from hmoe.errors import ConfigError
from hmoe.layer import HMoE
from hmoe.models import cost
from hmoe.study.controls import CONTROLS, with_control
from hmoe.study.spec import Sweep
from hmoe.training import Parts, assemble

TINY = [
    *("data=digits", "data.batch_size=8", "model=mlp", "model.dim=16", "model.depth=1"),
    *("experts.hidden_dim=8", "optim.warmup_steps=0", "optim.lr=0.01"),
]
ZERO = "{_target_: hmoe.layer.Zero, _partial_: true}"
BY_UNIT = ["tree=company", "experts=by_unit", f"experts.units={{sales: {ZERO}}}"]
STAFF = ["tree=company", "shared=units", "shared.units={sales: 2, support: 1}"]


def controlled(control: str, *overrides: str) -> list[str]:
    return list(with_control(control, (*TINY[:5], *overrides)))


def settings(control: str, *overrides: str) -> Any:
    return compose(controlled(control, *overrides))


def trained(overrides: list[str]) -> Parts:
    """The parts of a run after one step, which all that learns has taken."""
    torch.manual_seed(0)
    parts = assemble(compose(overrides))
    learner = parts.learner(Path())
    parts.data.setup()
    before = {name: p.detach().clone() for name, p in parts.model.named_parameters()}
    optimizer = learner.configure_optimizers()["optimizer"]
    loss = learner.loss(parts.data.train_batch(0))[0]
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    for name, parameter in parts.model.named_parameters():
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, before[name]), f"{name} must learn"
    return parts


# ------------------------------------------------------------------ wherever it applies


@pytest.mark.parametrize("tree", [*options("tree"), "binary"])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_trains_with_every_tree_it_applies_to(control: str, tree: str) -> None:
    chosen = ["tree.spec=[2,2,2,2]"] if tree == "binary" else [f"tree={tree}"]
    widths = ["experts.hidden_dim=8"]
    if control == "shuffled":
        if tree != "company":
            with pytest.raises(ConfigError, match="control=shuffled: "):
                controlled(control, *chosen, *widths)
            return
        chosen = STAFF
    units = ("flat", "frozen_upper", "flat_gate_matched", "group_limited")
    if tree == "flat" and control in units:
        with pytest.raises(ConfigError, match=f"control={control}: tree 16 has one level"):
            controlled(control, *chosen, *widths)
        return
    trained(controlled(control, *chosen, *widths))


@pytest.mark.parametrize("system", ["shazeer_two_level", "laplace_hmoe", "comet", "fff"])
@pytest.mark.slow
def test_a_control_of_a_published_system_composes_or_says_why_not(system: str) -> None:
    refused = {"shuffled"} | ({"group_limited"} if system != "laplace_hmoe" else set())
    for control in CONTROLS:
        if control in refused:
            with pytest.raises(ConfigError, match=f"control={control}: "):
                controlled(control, f"system={system}")
        else:
            assemble(compose(controlled(control, f"system={system}")), device="meta")


# ------------------------------------------------------------------ what it changes, by hand


def test_dense_has_one_expert_and_no_gate() -> None:
    cfg = settings("dense", "tree=grid", "balance=switch", "balance.terms.switch.weight=0.02")
    found = cost(assemble(cfg, device="meta").model)
    assert (found.num_mixtures, found.gate_params) == (0, 0)
    assert dict(cfg.balance.terms) == {}
    text = ["data=stdlib", "model=transformer", "model.dim=32", "tree=grid"]
    model = assemble(compose(with_control("dense", tuple(text))), device="meta").model
    assert (cost(model).num_mixtures, model.embed.embedding_dim) == (0, 32)


def test_flat_has_the_same_experts_below_the_root() -> None:
    cfg = settings(
        *("flat", "tree=deep", "selection=descend", "selection.k=[1,2,2]"),
        *("selection.weights=[probs,probs,renormalized]", "gate.score=[cosine,linear,laplace]"),
        "balance.terms.switch.weight=[0.1,0.2,0.3]",
    )
    assert (cfg.tree.spec, cfg.selection.k) == ([16], 4)
    assert (cfg.selection.weights, cfg.gate.score) == ("renormalized", "laplace")
    assert cfg.balance.terms.switch.weight == 0.3
    cfg = settings("flat", "tree=company", "selection.beam=2", "selection.k=3")
    assert (cfg.tree.spec, cfg.selection.beam, cfg.selection.k) == ([16], None, 3)


def test_a_random_gate_never_learns_and_weighs_evenly() -> None:
    parts = trained(controlled("random", "tree=grid", "gate.width=4", "experts.hidden_dim=8"))
    (layer,) = (m for m in parts.model.modules() if isinstance(m, HMoE))
    assert list(layer.gate.parameters()) == []
    _, routing = layer(torch.randn(50, 16))
    assert routing.weight_R.tolist() == [0.5] * 100
    assert parts.balance.terms == {}


def test_a_gate_that_cannot_learn_keeps_a_bias_and_no_loss() -> None:
    grid = ["tree=grid"]
    assert settings("hash", *grid).gate.score == "hash"
    assert settings("hash", *grid, "balance=switch").balance.terms == {}
    kept = settings("hash", *grid, "balance=bias_experts").balance
    assert (kept.terms, kept.bias.rate) == ({}, 0.001)


def test_frozen_upper_levels_are_drawn_and_the_last_learns() -> None:
    assert settings("frozen_upper", "tree=grid").gate.score == ["random", "linear"]
    heads = settings("frozen_upper", "tree=deep", "gate=heads", "gate.gate.score=cosine")
    assert heads.gate.gate.score == ["random", "random", "cosine"]
    noisy = settings("frozen_upper", "tree=grid", "gate.noise=learned", "balance=importance_load")
    assert noisy.gate.noise == ["none", "learned"]
    arm = [*TINY[:5], "tree=grid", "experts.hidden_dim=8"]
    layers = []
    for overrides in (arm, controlled("frozen_upper", *arm)):
        torch.manual_seed(0)
        layers += [m for m in assemble(compose(overrides)).model.modules() if isinstance(m, HMoE)]
    learnt, frozen = layers
    sizes = [len(scorer.bias_M) for scorer in frozen.gate.scorers]
    assert sizes == [4, 16]
    assert [len(list(scorer.parameters())) for scorer in frozen.gate.scorers] == [0, 2]
    assert torch.equal(learnt.experts.w_in_EDF, frozen.experts.w_in_EDF)


def test_a_flat_gate_matched_is_as_large_as_the_gate_of_the_tree() -> None:
    """4 x 4 at D = 16: 20 nodes of 17 numbers, 340. Flat, 16 W + 16 W + 16: W = 10 gives 336."""
    cfg = settings("flat_gate_matched", "tree=grid", "experts.hidden_dim=8")
    assert (cfg.tree.spec, cfg.gate.score, cfg.gate.width) == ([16], "mlp", 10)
    assert cost(assemble(cfg, device="meta").model).gate_params == 336
    wide = ["data=digits", "model.dim=96", "tree=deep"]
    tree, matched = (
        cost(assemble(compose(o), device="meta").model).gate_params
        for o in (wide, with_control("flat_gate_matched", tuple(wide)))
    )
    assert abs(matched - tree) <= 2 * (96 + 16) / 2, "two layers, half a unit at most"


def test_group_limited_keeps_half_of_the_groups() -> None:
    cfg = settings(
        *("group_limited", "tree=grid", "selection.k=3", "gate.score=[cosine,laplace]"),
        "gate.init_std=0.5",
    )
    assert cfg.gate._target_ == "hmoe.layer.BottomUp"
    assert (cfg.gate.score, cfg.gate.init_std, cfg.gate.pool) == ("laplace", 0.5, "top_2_sum")
    assert (cfg.selection.k, cfg.selection.beam, cfg.tree.spec) == (3, [2], [4, 4])
    deep = settings("group_limited", "tree=deep", "selection=descend", "selection.k=[1,1,2]")
    assert (deep.selection.k, deep.selection.beam) == (2, [1, 2])
    assert deep.selection._target_ == "hmoe.layer.top_k"


def test_shuffled_has_the_same_staff_in_other_groups() -> None:
    found = []
    for overrides in (BY_UNIT, controlled("shuffled", *BY_UNIT)[5:]):
        parts = assemble(compose([*TINY[:5], *overrides]))
        (layer,) = (m for m in parts.model.modules() if isinstance(m, HMoE))
        sizes = zip(layer.experts.banks, layer.experts.sizes, strict=True)
        kinds = [type(bank).__name__ for bank, size in sizes for _ in range(size)]
        parents = [parts.tree.parent_N[node] for node in parts.tree.node_E]
        found.append((Counter(kinds), Counter(zip(parents, kinds, strict=True))))
    assert found[0][0] == found[1][0] == {"Zero": 5, "Mlp": 11}
    assert found[0][1] != found[1][1]
    assert controlled("shuffled", *BY_UNIT) == controlled("shuffled", *BY_UNIT), "drawn once"


@pytest.mark.parametrize(
    ("tree", "different"),
    [
        ("{a: 2, b: 2}", {"experts.units": f"{{a: {ZERO}}}"}),
        ("{a: 4, b: 2}", {"shared.units": "{a: 2}"}),
        ("{a: 2, b: 2}", {"experts.units": f"{{a: {ZERO}}}", "shared.units": "{a: 1}"}),
    ],
)
def test_shuffled_is_another_organisation(tree: str, different: dict[str, str]) -> None:
    """Not the same groups under other names, as 8 of the 24 orders of two pairs are."""
    arm = [f"tree.spec={tree}", "shared=units"]
    arm += ["experts=by_unit"] if "experts.units" in different else []
    arm += [f"{key}={value}" for key, value in different.items()]
    found = []
    for overrides in (arm, controlled("shuffled", *arm)[5:]):
        parts = assemble(compose([*TINY[:5], *overrides]))
        (layer,) = (m for m in parts.model.modules() if isinstance(m, HMoE))
        kinds = ["Mlp"] * parts.tree.num_experts
        if "experts.units" in different:
            sizes = zip(layer.experts.banks, layer.experts.sizes, strict=True)
            kinds = [type(bank).__name__ for bank, size in sizes for _ in range(size)]
        parents = [parts.tree.parent_N[node] for node in parts.tree.node_E]
        found.append(
            Counter(
                (*sorted(k for k, p in zip(kinds, parents, strict=True) if p == unit), shared)
                for unit in set(parents)
                for shared in [layer.shared.unit_M.count(unit)]
            )
        )
    assert found[0] != found[1]


def test_groups_that_differ_in_name_alone_are_not_shuffled() -> None:
    """One odd expert among four, or shared experts of one of two equal units, anywhere."""
    pair = "{x: 1, y: 1}"
    odd = ["experts=by_unit", f"experts.units={{a.x: {ZERO}}}"]
    shared = ["shared=units", "shared.units={a: 2, b: 1}"]
    for arm in (odd, shared):
        with pytest.raises(ConfigError, match="would be the same arm again"):
            controlled("shuffled", f"tree.spec={{a: {pair}, b: {pair}}}", *arm)


def test_shuffled_shared_experts_move_to_the_next_unit() -> None:
    """Level 0 of the company has the units sales, engineering and support; legal is an expert."""
    cfg = settings("shuffled", *STAFF[:2], "shared.units={company: 1, sales: 2, support: 1}")
    assert dict(cfg.shared.units) == {"company": 1, "sales": 1, "engineering": 2}
    with pytest.raises(ConfigError, match="would be the same arm again"):
        controlled("shuffled", "tree=grid", "shared=company")


# ------------------------------------------------------------------ in a sweep


def sweep(**arms: Any) -> Sweep:
    flat = {"overrides": ["tree=flat", "balance.terms.switch.weight=0.02"], "dial": "a.b"}
    grid = {"overrides": ["tree=grid"], "dial": "experts.hidden_dim"}
    return Sweep.model_validate(
        {
            "name": "s",
            "question": "q",
            "objectives": ["val/loss"],
            "contract": {"match": "active_params", "reference": "flat"},
            "budget": {"trials": 2 + len(arms)},
            "overrides": TINY,
            "arms": {"flat": flat, "grid": grid, **arms},
        }
    )


def test_an_arm_is_its_others_overrides_then_the_controls_then_its_own() -> None:
    made = sweep(
        dense={"control": "dense", "of": "flat", "overrides": ["experts.hidden_dim=32"]},
        frozen={"control": "frozen_upper", "of": "grid", "dial": "model.dim"},
        hashed={"control": "hash", "of": "frozen"},
    )
    assert made.arm_overrides("dense") == [
        *(*TINY, "tree=flat", "ffn@model.ffn=dense", "balance=none", "experts.hidden_dim=32")
    ], "a value of the balance that is no more is left out"
    scores = "gate.score=[random,linear]"
    assert made.arm_overrides("frozen") == [*TINY, "tree=grid", scores]
    assert made.arm_overrides("hashed")[: len(TINY) + 2] == [*TINY, "tree=grid", scores]
    assert made.settings("dense")["balance"] == "none"
    assert [made.dial(arm) for arm in made.arms] == [
        *("a.b", "experts.hidden_dim", "a.b", "model.dim", "model.dim")
    ]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            {"control": "frozen_uper", "of": "grid"},
            r"must be one of dense, flat.*Did you mean 'frozen_upper'\?",
        ),
        ({"control": "dense"}, r"control=dense, of=null: a control names the arm it belongs to"),
        ({"of": "grid"}, r"control=null, of=grid: a control names the arm"),
        (
            {"control": "dense", "of": "gird"},
            r"arms\.a\.of=gird: is not an arm\. Did you mean 'grid'\? Arms: flat, grid, a\.",
        ),
        ({"control": "dense", "of": "a"}, r"arms\.a\.of=a: goes round in a circle: a of a"),
        (
            {"control": "frozen_upper", "of": "flat"},
            r"arms\.a: control=frozen_upper: tree 16 has one level.*such as tree\.spec=\[4,4\]",
        ),
        ({"control": "shuffled", "of": "grid"}, r"arms\.a: control=shuffled: .*the same arm again"),
    ],
)
def test_controls_that_make_no_sense_are_refused(arm: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(a=arm)


def test_a_circle_of_several_arms_is_refused() -> None:
    with pytest.raises(ValueError, match=r"arms\.a\.of=b: goes round in a circle: a of b of a"):
        sweep(a={"control": "dense", "of": "b"}, b={"control": "hash", "of": "a"})


@pytest.mark.parametrize(
    ("control", "overrides", "message"),
    [
        ("frozen_upper", ["gate=bottom_up"], "units have no weights of their own to freeze"),
        ("group_limited", ["selection=soft"], "groups limit the choice of k experts"),
        ("group_limited", ["gate=bottom_up", "selection.beam=2"], "is group-limited itself"),
        ("group_limited", ["gate.noise=learned"], "gate=bottom_up has no units that could"),
        ("dense", ["model=mixture", "balance=none"], "no feed-forward"),
        ("flat", STAFF, "are told by the units of tree"),
    ],
)
def test_a_control_that_does_not_apply_says_why(
    control: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"control={control}: .*{message}"):
        with_control(control, ("data=digits", "tree=grid", *overrides))


def test_every_control_says_the_question_it_answers() -> None:
    for name, control in CONTROLS.items():
        assert control.__doc__ is not None, name
        assert "?" in control.__doc__.partition("\n")[0], name
