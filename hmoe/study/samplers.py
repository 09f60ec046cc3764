"""Who draws: TPE, NSGA-II, random or grid; made anew for every slot: restarts draw the same.

A sampler's seed is a function of the study's seed and the slot alone: the same in every arm, so
that arms are paired, and another one in every slot, so that workers never draw one configuration
twice. What a sampler has learnt it reads from the trials in the storage.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import optuna
from optuna.trial import BaseTrial

from hmoe.errors import ConfigError
from hmoe.study.spec import Search

# As many as TPE draws at random before it learns: the samplers begin alike, and are paired alike.
_POPULATION = 10
_MOST = 1000  # combinations of a grid


def make_sampler(search: Search, seed: int, slot: int) -> optuna.samplers.BaseSampler:
    """The sampler of one slot, of all arms.

    tpe: multivariate and grouped (Bergstra et al. 2011; Falkner et al. 2018). It draws at random
        until ten trials of the arm have ended; from then on arms share the random numbers, but
        each draws by its own history. Running trials of other workers count as bad ones (the
        constant liar), so that two do not try the same place.
    nsga2: Deb et al. 2002 with ten parents. The first generation is random, and paired between
        arms; generations are counted in complete trials, so pruned ones only make them longer.
        A child of one searched setting is always drawn anew, so it needs two and more to learn.
    random: all slots are independent, and paired between arms throughout.
    grid: nothing is drawn; see `combinations`.

    tpe and nsga2 prefer trials within the study's bounds, by the constraints kept with each.
    """
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{slot}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=mixed, multivariate=True, group=True, constant_liar=True
                )
            case "nsga2":
                return optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=mixed)
            case "random" | "grid":
                return optuna.samplers.RandomSampler(seed=mixed)


def combinations(draw: Callable[[BaseTrial], Sequence[str]]) -> list[dict[str, Any]]:
    """Every combination of a space, as the parameters of a trial; the first varies fastest.

    Optuna's own grid knows no conditions and numbers its trials; here a combination is a path
    through all that one trial suggests, and those that mean the same run are one.

    Args:
        draw: lets a trial suggest all parameters, and returns the overrides that they come to.

    Raises:
        ConfigError: a range without steps, or more than 1,000 combinations.
    """
    found: dict[tuple[str, ...], _Path] = {}
    path: _Path | None = _Path(())
    while path is not None:
        found.setdefault(tuple(draw(cast(BaseTrial, path))), path)
        if len(found) > _MOST:
            raise ConfigError(
                f"search.sampler=grid: the space has more than {_MOST} combinations;"
                " search.sampler=random takes a sample of them"
            )
        path = path.next()
    paths = sorted(found.values(), key=lambda p: p.indices[::-1])
    return [path.params for path in paths]


class _Path:
    """Stands in for a trial: suggests the values at given places of their lists, then the first."""

    def __init__(self, start: Sequence[int]) -> None:
        self._start = start
        self._sizes: list[int] = []
        self.indices: list[int] = []
        self.params: dict[str, Any] = {}

    def next(self) -> "_Path | None":
        """The path after this one, None after the last."""
        for place in reversed(range(len(self.indices))):
            if self.indices[place] + 1 < self._sizes[place]:
                return _Path([*self.indices[:place], self.indices[place] + 1])
        return None

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        return self._take(name, range(low, high + 1, step))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        if step is None:
            raise ConfigError(
                f"search.sampler=grid: {name} lies anywhere between {low:g} and {high:g}; a grid"
                " needs its values, as choice(a, b) or range(start, stop, step)"
            )
        # As written in decimals: three steps of 0.1 are 0.3.
        first, each = Decimal(str(low)), Decimal(str(step))
        return self._take(
            name, [float(first + i * each) for i in range(round((high - low) / step) + 1)]
        )

    def _take(self, name: str, values: Sequence[Any]) -> Any:
        place = len(self.indices)
        index = self._start[place] if place < len(self._start) else 0
        self.indices.append(index)
        self._sizes.append(len(values))
        self.params[name] = values[index]
        return values[index]
