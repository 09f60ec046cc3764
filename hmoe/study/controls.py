"""Controls: arms that take one thing away from another arm, or add one, to say what it was worth.

A control is a function from the configuration of the arm it belongs to, to the overrides that make
the control of it. It changes the one thing that its question is about, and what cannot go on
without it; seeds, data, auxiliary losses and the size of the experts stay those of the arm.

Where no level of the gate learns, nothing would learn from a balance loss of it, and its weights
would tell nothing: losses go, a bias controller stays, weights are even.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hmoe.config import build, compose, key_of, literal, parse
from hmoe.errors import ConfigError, nearest

if TYPE_CHECKING:  # brings torch, which this room starts without
    from hmoe.layer import Tree


def dense(cfg: DictConfig) -> list[str]:
    """Is a mixture worth anything? One expert for every token, and no gate."""
    if "ffn" not in cfg.model:
        raise ConfigError("control=dense: this model has no feed-forward to put in its place.")
    return ["ffn@model.ffn=dense", "balance=none"]


def flat(cfg: DictConfig) -> list[str]:
    """Is the hierarchy worth anything? The same experts, all of them children of the root.

    Where levels have options of their own, those of the last level stay; a descent to k_1, then
    k_2 children becomes one to k_1 k_2.
    """
    tree = _units("flat", cfg)
    experts = cfg.experts.get("units") or {}
    shared = [unit for unit in cfg.shared.get("units") or {} if unit != "company"]
    if experts or shared or cfg.gate.get("visible"):
        raise ConfigError(
            "control=flat: experts, shared experts or heads of this arm are told by the units of "
            f"tree {tree}, and a flat tree has none."
        )
    changes: dict[str, Any] = {"tree.spec": [tree.num_experts]}
    if "k" in cfg.selection:
        changes["selection.k"] = _experts_per_token(cfg, tree)
    if cfg.selection.get("beam") is not None:
        changes["selection.beam"] = None
    for part in ("gate", "gate.gate", "selection", *_terms(cfg)):
        for key, value in (OmegaConf.select(cfg, part) or {}).items():
            if _is_list(value) and f"{part}.{key}" not in changes:
                changes[f"{part}.{key}"] = value[-1]
    gate = _gate(cfg)
    if _last(OmegaConf.select(cfg, gate).link) == "smooth_step":  # a choice between two
        changes[f"{gate}.link"] = "softmax"
    return _overrides(changes)


def random(cfg: DictConfig) -> list[str]:
    """Does it matter that the gate learns? Scores are products with weights that are drawn once."""
    return _unlearnt(cfg, "random")


def hash(cfg: DictConfig) -> list[str]:
    """Does it matter that near tokens meet the same experts? Scores are a hash of the token."""
    return _unlearnt(cfg, "hash")


def frozen_upper(cfg: DictConfig) -> list[str]:
    """Does the department's choice matter? All levels but the last are drawn once, never learnt."""
    tree, gate = _units("frozen_upper", cfg), _gate(cfg)
    options = OmegaConf.select(cfg, gate)
    if "pool" in options:
        raise ConfigError(
            "control=frozen_upper: under gate=bottom_up units have no weights of their own to "
            "freeze. Use it with gate=top_down or gate=tied."
        )
    upper = tree.num_levels - 1
    changes = {f"{gate}.score": ["random"] * upper + [_last(options.score)]}
    if _last(options.noise) != "none" or _is_list(options.noise):
        changes[f"{gate}.noise"] = ["none"] * upper + [_last(options.noise)]
    return _overrides(changes)


def flat_gate_matched(cfg: DictConfig) -> list[str]:
    """Is it only more gate? The flat tree, with as many parameters in its gate as the tree's.

    The flat gate is a network of one hidden layer whose width comes closest to them.
    """
    from hmoe.models import cost  # brings torch, which this room starts without
    from hmoe.training import assemble

    _units("flat_gate_matched", cfg)
    gate, changes = _gate(cfg), flat(cfg)

    def params(overrides: Sequence[str]) -> int:
        changed = OmegaConf.create(OmegaConf.to_container(cfg))
        for override in map(parse, overrides):
            OmegaConf.update(changed, key_of(override), override.value(), merge=False)
        return cost(assemble(changed, device="meta").model).gate_params

    def of_width(width: int) -> list[str]:
        return [*changes, *_overrides({f"{gate}.score": "mlp", f"{gate}.width": width})]

    # A straight line: every hidden unit adds its weights.
    one, two = params(of_width(1)), params(of_width(2))
    return of_width(max(1, 1 + round((params([]) - one) / (two - one))))


def group_limited(cfg: DictConfig) -> list[str]:
    """Must units have weights? Units chosen by their experts (DeepSeek-AI 2024), then experts.

    Half of the units of a level stay in the running, by the sum of their two best experts.
    """
    tree, gate = _units("group_limited", cfg), OmegaConf.select(cfg, _gate(cfg))
    if "k" not in cfg.selection or "expert_choice" in cfg.selection._target_:
        raise ConfigError(
            "control=group_limited: groups limit the choice of k experts a token. Use it with "
            "selection=top_k or selection=descend."
        )
    if "pool" in gate and cfg.selection.get("beam") is not None:
        raise ConfigError("control=group_limited: this arm is group-limited itself.")
    if _last(gate.noise) == "learned":
        raise ConfigError(
            "control=group_limited: gate.noise=learned is learnt by units and experts alike, and "
            "gate=bottom_up has no units that could. Use gate.noise=gumbel or none."
        )
    link = _last(gate.link)
    beam = [ceil(len(units) / 2) for units in tree.inner_levels[:-1]]
    changes = {
        **{
            f"gate.{key}": _last(gate[key])
            for key in ("score", "width", "init_std", "temperature", "noise")
        },
        "gate.link": "softmax" if link == "smooth_step" else link,
        "gate.pool": "top_2_sum",
        "selection.k": _experts_per_token(cfg, tree),
        "selection.beam": beam if cfg.selection.get("beam") is None else cfg.selection.beam,
        "selection.weights": _last(cfg.selection.weights),
        "selection.capacity": cfg.selection.capacity,
        "selection.drop": cfg.selection.drop,
    }
    if "scale" in cfg.selection:
        changes["selection.scale"] = cfg.selection.scale
    return ["gate=bottom_up", "selection=top_k", *_overrides(changes)]


def shuffled(cfg: DictConfig) -> list[str]:
    """Does it matter who sits in which group? The same staff, dealt out to other groups.

    Only where that carries information: experts that differ by unit, or units that differ and have
    different numbers of shared experts. Experts that are alike start alike in every group. Groups
    that `hmoe.layer.regroup` made in mid-training are no setting of an arm: `hmoe.layer.dealt`
    gives the order for a control of them.
    """
    from hmoe.layer.dealing import (
        deals,
        organisation,
    )  # brings torch, which this room starts without
    from hmoe.layer.staff import kind_of

    tree = _units("shuffled", cfg)
    banks = OmegaConf.to_container(cfg.experts).get("units") or {}
    shared = OmegaConf.to_container(cfg.shared).get("units") or {}
    paths = [tree.path_N[node] for node in tree.node_E]
    kinds = [kind_of(path, banks) for path in paths]
    moved = _moved_on(tree, shared)
    staff, staff_after = ([units.get(p, 0) for p in tree.path_N] for units in (shared, moved))
    before = organisation(tree, kinds, staff)
    for dealt in deals(kinds, seed=0):
        if organisation(tree, dealt, staff_after) != before:
            break
    else:
        raise ConfigError(
            "control=shuffled: experts and units of this arm are alike, so that shuffled groups "
            "would be the same arm again. Use it where experts differ by unit (experts=by_unit) "
            "or units that differ have different numbers of shared experts."
        )
    units = {path: banks[kind] for path, kind in zip(paths, dealt, strict=True) if kind}
    changes = {"experts.units": units} if units else {}
    return _overrides(changes | ({"shared.units": moved} if moved != shared else {}))


CONTROLS: dict[str, Callable[[DictConfig], list[str]]] = {
    control.__name__: control
    for control in (
        *(dense, flat, random, hash),
        *(frozen_upper, flat_gate_matched, group_limited, shuffled),
    )
}


@lru_cache(maxsize=256)
def with_control(control: str, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides of an arm, and after them those of a control of it.

    A group that the control chooses anew loses the values that the arm has in it: another option
    need not have the same settings.

    Raises:
        ConfigError: the arm does not compose, or the control does not apply to it.
    """
    added = CONTROLS[control](compose(overrides))
    parsed = map(parse, added)
    anew = [o.package or o.key_or_group for o in parsed if "." not in o.key_or_group]

    def stays(override: str) -> bool:
        said = parse(override)
        return not any((said.package or said.key_or_group).startswith(f"{g}.") for g in anew)

    return (*filter(stays, overrides), *added)


def check_family(of: Mapping[str, str | None]) -> None:
    """Refuse controls of no arm and of themselves; `of` tells of each arm whose control it is.

    Raises:
        ConfigError: there is one.
    """
    for arm in of:
        above = [arm]
        while (other := of[above[-1]]) is not None:
            if other not in of:
                raise ConfigError(
                    f"arms.{above[-1]}.of={other}: is not an arm.{nearest(other, of)}"
                    f" Arms: {', '.join(of)}."
                )
            if other in above:
                raise ConfigError(
                    f"arms.{arm}.of={of[arm]}: goes round in a circle:"
                    f" {' of '.join([*above, other])}"
                )
            above.append(other)


def _units(control: str, cfg: DictConfig) -> "Tree":
    """The tree of an arm; refused where it has no units."""
    tree: Tree = build(cfg.tree)
    if tree.num_levels == 1:
        raise ConfigError(
            f"control={control}: tree {tree} has one level, so that there are no units. Use it "
            "with an arm whose tree has two levels or more, such as tree.spec=[4,4]."
        )
    return tree


def _gate(cfg: DictConfig) -> str:
    """Where the options of the gate are; several heads share them."""
    return "gate.gate" if "gate" in cfg.gate else "gate"


def _terms(cfg: DictConfig) -> list[str]:
    """The parts of the balance that may differ by level."""
    return [*(f"balance.terms.{name}" for name in cfg.balance.terms), "balance.bias"]


def _experts_per_token(cfg: DictConfig, tree: "Tree") -> Any:
    """k of a choice among all experts: of a descent, the product of the k of its levels."""
    k = cfg.selection.k
    if not cfg.selection._target_.endswith("descend"):
        return _last(k)
    k_L = list(k) if _is_list(k) else [k] * tree.num_levels
    return None if None in k_L else min(prod(k_L), tree.num_experts)


def _unlearnt(cfg: DictConfig, score: str) -> list[str]:
    """A gate without parameters, and what cannot go on with it."""
    gate = _gate(cfg)
    changes = {f"{gate}.score": score, f"{gate}.width": None, f"{gate}.noise": "none"}
    rules = {"selection": cfg.selection, "eval_selection": cfg.get("eval_selection") or {}}
    changes |= {f"{name}.weights": "even" for name, rule in rules.items() if "weights" in rule}
    balance = ["balance=none"] if cfg.balance.bias is None else ["balance.terms={}"]
    return [*_overrides(changes), *balance]


def _moved_on(tree: "Tree", units: dict[str, int]) -> dict[str, int]:
    """Shared experts, each number at the next unit of its level."""
    moved = {name: number for name, number in units.items() if name not in tree.path_N}
    for inner in tree.inner_levels:
        names = [tree.path_N[node] for node in inner]
        numbers = [units.get(name, 0) for name in names]
        moved |= {n: k for n, k in zip(names, numbers[-1:] + numbers[:-1], strict=True) if k}
    return moved


def _is_list(value: Any) -> bool:
    return OmegaConf.is_list(value)


def _last(value: Any) -> Any:
    """What the last level has, of one value or one a level."""
    return value[-1] if _is_list(value) else value


def _overrides(changes: dict[str, Any]) -> list[str]:
    plain = {k: OmegaConf.to_container(v) if _is_list(v) else v for k, v in changes.items()}
    return [f"{key}={literal(value)}" for key, value in plain.items()]
