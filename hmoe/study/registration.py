"""What defines a study: kept before its first trial, compared whenever it goes on."""

from collections.abc import Mapping
from typing import Any

from hmoe.config import literal, parse
from hmoe.study.spec import Sweep

_NOT_STUDY = {"runs", "tracking"}  # where runs are kept and shown does not change the answer


def fingerprint(sweep: Sweep) -> dict[str, Any]:
    """What defines a study, as plain data for JSON: two sweeps with equal ones may share trials.

    Question, name, budget and workers may change from one call to the next.
    """
    kept = {"objectives", "contract", "overrides", "arms", "space", "when", "seed"}
    content = sweep.model_dump(include=kept)
    content["overrides"] = [
        override
        for override in sweep.overrides
        if parse(override).key_or_group.partition(".")[0] not in _NOT_STUDY
    ]
    return content


def diff_fingerprints(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences of two fingerprints, one a line; none when they are equal."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    lines = []
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        if one == other:
            continue
        if not (isinstance(one, list) and isinstance(other, list)):
            lines.append(f"{key}: {_word(key, before)} -> {_word(key, after)}")
        elif sorted(one) == sorted(other):
            lines.append(f"{key}: in another order")
        else:
            lines += [f"{key}: - {item}" for item in one if item not in other]
            lines += [f"{key}: + {item}" for item in other if item not in one]
    return lines


def _leaves(path: str, node: Any) -> list[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        return [(path, node)]
    return [
        leaf
        for key, value in node.items()
        for leaf in _leaves(f"{path}.{key}" if path else str(key), value)
    ]


def _word(key: str, leaves: Mapping[str, Any]) -> str:
    return literal(leaves[key]) if key in leaves else "(absent)"
