"""Inspection: what one evaluation pass found out about an organisation, as one record on disk.

`hmoe.inspection` makes it from a run, reports draw it: neither needs the other. Numbers are in
inspection.json and arrays in arrays.npz, so that other programs read them too. What could not be
measured is NaN in an array and an absent entry in a mapping.

A level means its cut (`Tree.cut`): its nodes, and the experts above it. Rows are those asked for,
before a capacity took any away. Entropies and information are in nats.

Letters: T sampled tokens, N nodes, E experts, L levels, C values of a label, S moments of training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_type_hints
from zipfile import BadZipFile

import numpy as np

from hmoe.errors import DataError
from hmoe.files import write_atomically
from hmoe.layer import Tree

RECORD, ARRAYS = "inspection.json", "arrays.npz"
Array = np.ndarray
# What reading half a record, an emptied file or another program's record comes to.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, BadZipFile)


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What the choice of experts tells of a label, such as the package that a byte is from.

    Attributes:
        label: its name.
        values: names of its values.
        counts_CE: rows by value and expert.
        entropy: H(label).
        information_L: I(label; node of level l | node of level l - 1); they add up to
            I(label; expert).
        null_L: mean of the same over permutations of the labels of whole rows of the data, what
            chance gives.
        p_L: share of permutations with as much on any level, of any label and layer of the run,
            see `corrected_p`; the data itself counted as one.
        nmi_L, ami_L: normalised and adjusted mutual information of label and cut; adjusted as if
            tokens were independent, which flatters where those of a row hang together.
        clusters_ami_L: the same adjusted measure for k-means clusters of the layer's inputs, as
            many as the cut has nodes: what the geometry of the inputs alone would tell.
    """

    label: str
    values: tuple[str, ...]
    counts_CE: Array
    entropy: float
    information_L: Array
    null_L: Array
    p_L: Array
    nmi_L: Array
    ami_L: Array
    clusters_ami_L: Array


@dataclass(frozen=True, eq=False)
class History:
    """A layer over the training, on the same tokens.

    Attributes:
        step_S: the moments, ascending; the last is the one inspected.
        load_SN: share of all rows at each node.
        saturation_SL: share of choices that are those of the last moment.
        churn_SL: share of choices that are not those of the moment before; NaN at the first.
        entropy_SL: as `LayerInspection.entropy_L`.
    """

    step_S: Array
    load_SN: Array
    saturation_SL: Array
    churn_SL: Array
    entropy_SL: Array


@dataclass(frozen=True, eq=False)
class LayerInspection:
    """One mixture layer.

    Attributes:
        name: where it is in the model, such as "blocks.1.ffn".
        load_N: share of all rows at each node.
        dropped: share of rows that a capacity took away.
        load: statistic -> its value on every level, see `load_statistics`.
        decomposition: "kl", "cv2", "violation" -> what each level adds, see `decompose`; those of
            "violation" are logs, whose exp are the factors of 1 + the experts' `max_violation`.
        entropy_L: mean over tokens of the gate's entropy on the level, over its largest value.
        margin_L: mean over tokens of best minus second-best log-probability among the siblings
            that were decided between.
        knowledge: one a label.
        coactivation: level -> (nodes, nodes) share of the rows' tokens of one node that another
            node served too; levels of few enough nodes only.
        locality, locality_random: how far apart in the tree the experts of one token are, from 0
            to 1 (small is near), NaN where no token has two; and how far they would be drawn at
            random.
        masked_N: rise of the loss when a node may not be chosen; NaN where it was not tried.
        recall: search policy -> share of the experts of the exact joint choice that it finds.
        policy_loss: search policy -> loss of the model under it, on the tokens tried.
        choice_T: heaviest expert of each sampled token, -1 for a token without.
        history: None where only one moment is known.
    """

    name: str
    load_N: Array
    dropped: float
    load: Mapping[str, Array]
    decomposition: Mapping[str, Array]
    entropy_L: Array
    margin_L: Array
    knowledge: tuple[Knowledge, ...]
    coactivation: Mapping[str, Array]
    locality: float
    locality_random: float
    masked_N: Array
    recall: Mapping[str, float]
    policy_loss: Mapping[str, float]
    choice_T: Array
    history: History | None


@dataclass(frozen=True, eq=False)
class Inspection:
    """A run, inspected.

    Attributes:
        run: its name.
        arm: its arm, "" for a run by itself.
        seed: its seed.
        step: steps it had been trained.
        split: what it was evaluated on.
        asked: at most how many of its tokens were asked for.
        num_tokens: how many tokens that were.
        tokens: which they were, a digest: choices of two runs compare only if it is the same.
        loss: mean loss on them.
        num_tried, tried_loss: how many of them interventions and search policies were tried on, and
            the mean loss on those, beside which `masked_N` and `policy_loss` stand.
        tree_spec: `Tree.from_spec` of it is the organisation.
        layers: the mixture layers, in order.
        seconds: what the inspection took.
    """

    run: str
    arm: str
    seed: int
    step: int
    split: str
    asked: int
    num_tokens: int
    tokens: str
    loss: float
    num_tried: int
    tried_loss: float
    tree_spec: Any
    layers: tuple[LayerInspection, ...]
    seconds: float

    @cached_property
    def tree(self) -> Tree:
        return Tree.from_spec(self.tree_spec)

    def save(self, folder: Path) -> None:
        """Write the record into a folder, which is made if missing.

        Numbers are written last and an earlier record goes first: what is read is whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Array] = {}
        record = _plain(self, "", arrays)
        aside = folder / "arrays.tmp.npz"
        np.savez_compressed(aside, **arrays)
        (folder / RECORD).unlink(missing_ok=True)
        aside.replace(folder / ARRAYS)
        write_atomically(folder / RECORD, json.dumps(record, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Inspection":
        """Read the record of a folder.

        Raises:
            DataError: it has none, or not all of one.
        """
        try:
            record = json.loads((folder / RECORD).read_text())
            # Opened here: of half an archive numpy leaves the file open.
            with (folder / ARRAYS).open("rb") as file, np.load(file) as arrays:
                return _rich(cls, record, "", arrays)
        except _UNREADABLE as error:
            raise DataError(
                f"{folder}: no inspection can be read there ({type(error).__name__}: {error}). "
                "Make it with `hmoe inspect RUN`, those of a study with `hmoe report sweep=NAME "
                "inspect=16384`."
            ) from error


def _plain(value: Any, place: str, arrays: dict[str, Array]) -> Any:
    """A value as JSON; its arrays are put aside under the place where they belong."""
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return None
    if is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name), f"{place}/{f.name}", arrays)
            for f in fields(value)
        }
    if isinstance(value, Mapping) and not place.endswith("/tree_spec"):
        return {key: _plain(each, f"{place}/{key}", arrays) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each, f"{place}/{i}", arrays) for i, each in enumerate(value)]
    return value


def _rich(kind: Any, value: Any, place: str, arrays: Mapping[str, Array]) -> Any:
    """What `_plain` was given, by its type."""
    options = get_args(kind)
    if type(None) in options:
        return None if value is None else _rich(options[0], value, place, arrays)
    if kind is Array:
        return arrays[place]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(
            **{
                f.name: _rich(hints[f.name], value[f.name], f"{place}/{f.name}", arrays)
                for f in fields(kind)
            }
        )
    origin = getattr(kind, "__origin__", None)
    if origin is tuple:
        return tuple(
            _rich(options[0], each, f"{place}/{i}", arrays) for i, each in enumerate(value)
        )
    if isinstance(value, dict) and options:
        return {
            key: _rich(options[1], each, f"{place}/{key}", arrays) for key, each in value.items()
        }
    return value
