"""Which way is better, for every metric that a study may take as an objective."""

import re
from typing import Literal

from hmoe.errors import ConfigError, nearest
from hmoe.metrics.load import DROPPED, LARGER_IS_BETTER, ON_LEVELS, STATISTICS

Direction = Literal["minimize", "maximize"]

_QUALITY: dict[str, Direction] = {
    "loss": "minimize",
    "bits_per_byte": "minimize",
    "mse": "minimize",
    "accuracy": "maximize",
    "auc": "maximize",
    "rmse": "minimize",
    "ndcg": "maximize",
}
_PARTS = ("auc", "rmse", "ndcg")
"""Scores that are also told of one target or of some of the rows, as auc/income or rmse/cold."""


def direction(metric: str) -> Direction:
    """Direction of a metric key such as "val/bits_per_byte" or "val/load/cv/expert".

    Raises:
        ConfigError: not a metric that a study can have as an objective.
    """
    known = {f"val/{name}": way for name, way in _QUALITY.items()}
    for name in STATISTICS:
        known[f"val/load/{name}/expert"] = "maximize" if name in LARGER_IS_BETTER else "minimize"
    known[f"val/load/{DROPPED}"] = "minimize"
    on_levels = rf"^(val/load/(?:{'|'.join(ON_LEVELS)}))/level_\d+$"
    place = re.sub(on_levels, r"\1/expert", metric)
    place = re.sub(rf"^(val/(?:{'|'.join(_PARTS)}))/\w+$", r"\1", place)
    if place not in known:
        raise ConfigError(
            f"objectives: '{metric}' is not a metric of the validation set. Known are "
            f"{', '.join(known)}; {', '.join(ON_LEVELS)} also end in /level_<n>, "
            f"{', '.join(_PARTS)} in /<part>." + nearest(metric, known)
        )
    return known[place]
