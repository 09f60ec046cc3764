"""Names of metrics in words, for those who do not know how hmoe spells them."""

from collections.abc import Callable

_SPLITS = ("best/", "final/", "val/", "test/", "train/")
_LOADS: dict[str, Callable[[str], str]] = {
    "cv": lambda units: f"spread of {units} load (CV)",
    "max_violation": lambda units: f"largest excess of {units} load",
    "entropy": lambda units: f"evenness of {units} load (entropy)",
    "dead": lambda units: f"share of dead {units} nodes",
}


def metric_words(metric: str) -> str:
    """ "val/load/cv/expert" as "spread of expert load (CV)"; others without splits and underscores.

    The split, validation or test, is said once by the text around it.
    """
    name = metric
    for split in _SPLITS:
        name = name.removeprefix(split)
    match name.split("/"):
        case ["load", statistic, level] if statistic in _LOADS:
            return _LOADS[statistic](level.replace("_", " "))
    return name.replace("/", " ").replace("_", " ")
