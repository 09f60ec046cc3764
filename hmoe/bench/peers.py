"""Layers of others, as entries beside ours; all optional (`pip install 'hmoe[bench]'`).

Layers are taken as they come, with their own start; blocks that leave their start to the model
around them start as ours do, near even load. Layers with a capacity count it by sequence, and their
masks of tokens by slots grow with the square of its length, so that the length that they are given
matters to them, and to them alone.

Letters: T tokens, B sequences of S tokens, D width, E experts, K experts per token.
"""

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from hmoe.bench.entries import Entry, Point, entry, flat_name, output_of, tree_name, trees
from hmoe.bench.floors import Kind
from hmoe.bench.work import work_of
from hmoe.errors import ConfigError, nearest

NOT_INSTALLED = "not installed: pip install 'hmoe[bench]'"
_GIB = 2**30


class LeftOutError(Exception):
    """A peer that cannot be measured at a point, and why."""


@dataclass(frozen=True)
class Peer:
    """A layer of a package.

    Attributes:
        package: what is imported.
        kind: which of ours it is compared with.
        make: its layer at a point; raises `LeftOutError` where there is none.
        twin: name of the entry of ours with the same experts.
    """

    name: str
    package: str
    kind: Kind
    make: Callable[[Point], nn.Module]
    twin: str


class Sequences(nn.Module):
    """A block that reads (B, S, D), given all tokens as sequences of S. (T, D) -> (T, D)."""

    def __init__(self, block: nn.Module, point: Point) -> None:
        super().__init__()
        self.block, self.length = block, point.sequence

    def forward(self, x_TD: Tensor) -> Tensor:
        y_BSD = output_of(self.block, x_TD.view(-1, self.length, x_TD.shape[-1]))
        return y_BSD.reshape(x_TD.shape)


class Routed(nn.Module):
    """DeepSeek-V3's block without its shared expert, which ours does not have. (T, D) -> (T, D)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.gate, self.experts = block.gate, block.experts

    def forward(self, x_TD: Tensor) -> Tensor:
        _, weight_TK, expert_TK = self.gate(x_TD)
        return self.experts(x_TD, expert_TK, weight_TK)


def mixtral(point: Point) -> nn.Module:
    """Jiang et al. 2024; at k = 1 its weights are 1, and its router does not learn."""
    from transformers.models.mixtral.modeling_mixtral import MixtralConfig, MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=point.dim,
        intermediate_size=point.hidden_dim,
        num_local_experts=point.experts,
        num_experts_per_tok=point.k,
        experts_implementation="grouped_mm",
    )
    return Sequences(_started(MixtralSparseMoeBlock(config), point), point)


def qwen3(point: Point) -> nn.Module:
    """Yang et al. 2025, with weights as ours have them."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import (
        Qwen3MoeConfig,
        Qwen3MoeSparseMoeBlock,
    )

    config = Qwen3MoeConfig(
        hidden_size=point.dim,
        moe_intermediate_size=point.hidden_dim,
        num_experts=point.experts,
        num_experts_per_tok=point.k,
        norm_topk_prob=point.k > 1,
        experts_implementation="grouped_mm",
    )
    return Sequences(_started(Qwen3MoeSparseMoeBlock(config), point), point)


def deepseek_v3(point: Point) -> nn.Module:
    """DeepSeek-AI 2024: half of the groups are kept, eight groups of which are its own setting."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Config, DeepseekV3MoE

    fitting = [g for g in (8, 4, 2, 1) if point.experts % g == 0 and g * g <= point.experts]
    groups = fitting[0]
    kept = max(1, groups // 2)
    if point.experts // groups < 2 or kept * (point.experts // groups) < point.k:
        raise LeftOutError(f"{groups} groups of {point.experts} experts leave too few for its rule")
    config = DeepseekV3Config(
        hidden_size=point.dim,
        moe_intermediate_size=point.hidden_dim,
        n_routed_experts=point.experts,
        num_experts_per_tok=point.k,
        n_group=groups,
        topk_group=kept,
        norm_topk_prob=point.k > 1,
        routed_scaling_factor=1.0,
        experts_implementation="grouped_mm",
    )
    return _started(Routed(DeepseekV3MoE(config)), point)


@torch.no_grad()
def _started(block: nn.Module, point: Point) -> nn.Module:
    """A block whose parameters are empty until the model around it fills them."""
    for name, parameter in block.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02 if name.startswith("gate.") else point.dim**-0.5)
    return block


def lucidrains(point: Point) -> nn.Module:
    """`mixture_of_experts.MoE` with its own settings: a capacity of 1.25 T / E, a random second."""
    from mixture_of_experts import MoE

    return Sequences(MoE(num_experts=point.experts, **_lucidrains(point)), point)


def lucidrains_tree(point: Point, spec: Sequence[int]) -> nn.Module:
    """`mixture_of_experts.HeirarchicalMoE` with its own settings: two levels of the above."""
    from mixture_of_experts import HeirarchicalMoE

    return Sequences(HeirarchicalMoE(num_experts=tuple(spec), **_lucidrains(point)), point)


def _lucidrains(point: Point) -> dict[str, object]:
    if point.k > 2:
        raise LeftOutError(f"has at most 2 experts a token, not {point.k}")
    _check_masks(point, 1)
    # Without a second expert it is a top 1.
    policy = {"second_policy_train": "none"} if point.k == 1 else {}
    return {"dim": point.dim, "hidden_dim": point.hidden_dim, "activation": nn.GELU, **policy}


def st_moe(point: Point) -> nn.Module:
    """`st_moe_pytorch.MoE` (Zoph et al. 2022) with its own settings; GEGLU, three matrices."""
    from st_moe_pytorch import MoE

    if point.k < 2:
        raise LeftOutError("has at least 2 experts a token")
    _check_masks(point, point.k)
    # It takes 2/3 of a multiple of the width and rounds down: half a neuron more is safe.
    mult = (point.hidden_dim + 0.5) * 1.5 / point.dim
    settings = {"gating_top_n": point.k, "expert_hidden_mult": mult}
    return Sequences(MoE(dim=point.dim, num_experts=point.experts, **settings), point)


def _check_masks(point: Point, masks: int) -> None:
    """Layers that send tokens to slots by one-hot masks, T x 1.25 S integers each, in float32."""
    if point.dtype != torch.float32:
        raise LeftOutError("multiplies tokens with float32 masks, so that they must be float32")
    held = masks * 1.25 * point.tokens * point.sequence * 8
    if held > 8 * _GIB:
        raise LeftOutError(f"its masks of tokens by slots would take {held / _GIB:.0f} GiB each")


def known_peers(point: Point) -> list[Peer]:
    """All that we compare with, installed or not."""
    gelu, swiglu = flat_name("gelu"), flat_name("swiglu")
    peers = [
        Peer("transformers Mixtral", "transformers", "swiglu", mixtral, swiglu),
        Peer("transformers Qwen3-MoE", "transformers", "swiglu", qwen3, swiglu),
        Peer("transformers DeepSeek-V3", "transformers", "swiglu", deepseek_v3, swiglu),
        Peer("st-moe", "st_moe_pytorch", "swiglu", st_moe, swiglu),
        Peer("lucidrains", "mixture_of_experts", "gelu", lucidrains, gelu),
    ]
    for spec in trees(point.experts):
        if len(spec) == 2:
            name = f"lucidrains {'x'.join(map(str, spec))}"
            make = partial(lucidrains_tree, spec=spec)
            peers.append(Peer(name, "mixture_of_experts", "gelu", make, tree_name(spec)))
    return peers


def peer_entries(point: Point) -> tuple[list[Entry], dict[str, str]]:
    """Peers that can be measured at a point, and of all others why they cannot."""
    entries, absent = [], {}
    for peer in known_peers(point):
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what others' code says of itself
                import_module(peer.package)
                layer = peer.make(point)
        except ImportError:
            absent[peer.name] = NOT_INSTALLED
            continue
        except LeftOutError as reason:
            absent[peer.name] = str(reason)
            continue
        entries.append(entry(point, peer.name, peer.kind, "peer", layer, twin=peer.twin))
    return entries, absent


def peer_versions() -> dict[str, str | None]:
    """Versions of the packages that peers come from; None where one is not installed."""
    found: dict[str, str | None] = {}
    for package in ("transformers", "mixture-of-experts", "st-moe-pytorch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


Factory = Callable[..., nn.Module]


def load_factory(spec: str) -> Factory:
    """Import `module:factory`; modules are looked for in the working directory too.

    Raises:
        ConfigError: it does not read so, or nothing callable is there.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", spec):
        raise ConfigError(
            f"add = {spec}: module:factory is expected, such as my_pkg.moe:make_layer."
        )
    module_name, _, name = spec.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a module of others may raise
        raise ConfigError(f"add = {spec}: cannot import {module_name}: {error!r}.") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"add = {spec}: {module_name} has no function '{name}'.{nearest(name, known)}"
        )
    return factory


def added_entry(point: Point, spec: str, factory: Factory) -> Entry:
    """The layer of a factory, tried on a few tokens.

    It is compared with ours of as many matrices an expert; with GELU where they cannot be seen.

    Raises:
        ConfigError: the factory fails, or its layer does not map (T, D) to (T, D), or (T, D) and
            more, with a gradient.
    """
    where = f"add = {spec}: at {point.title}"
    widths = {"dim": point.dim, "hidden_dim": point.hidden_dim}
    torch.manual_seed(0)
    try:
        layer = factory(num_experts=point.experts, k=point.k, **widths)
        layer = layer.to(device=point.device, dtype=point.dtype).train()
        x_TD = torch.randn(32, point.dim, device=point.device, dtype=point.dtype)
        y_TD = output_of(layer, x_TD.requires_grad_())
        found = f"{tuple(y_TD.shape)}, gradient: {y_TD.requires_grad}"
    except Exception as error:  # whatever code of others may raise
        raise ConfigError(f"{where} it fails: {error!r}.") from error
    if found != f"{(32, point.dim)}, gradient: True":
        raise ConfigError(f"{where} it makes {found} of {(32, point.dim)}; the same was expected.")
    gated = work_of(layer, x_TD, **widths).matrices(**widths) == 3
    kind: Kind = "swiglu" if gated else "gelu"
    return entry(point, spec, kind, "peer", layer, twin=flat_name(kind))
