"""What a study searches: Hydra's override grammar read as Optuna distributions.

    optim.lr=tag(log, interval(1e-3, 1e-2))    float, both ends included, uniform in the logarithm
    experts.k=int(interval(1, 8))              int, both ends included
    model.depth=range(2, 9, 2)                 2, 4, 6, 8: the stop is excluded, as in Hydra
    tree.spec=choice([16], [4,4])              one of the values; also written tree.spec=[16],[4,4]

Branches are parameters that exist only while a condition `key=value` holds.
"""

import inspect
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil, inf, isfinite
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    QuotedString,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from hmoe.config import has_sweep, key_of, literal, parse
from hmoe.errors import ConfigError

_SUPPORTED = (
    "a search is choice(a, b), range(start, stop, step), interval(low, high),"
    " int(interval(low, high)) or tag(log, interval(low, high))"
)
_FUNCTIONS = ("choice", "range", "interval", "tag", "int", "float", "str", "bool")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One searched key. `name` is its name in Optuna: the key, or key@condition."""

    key: str
    name: str
    distribution: BaseDistribution
    texts: tuple[str, ...] = ()  # Hydra text of each choice

    def draw(self, trial: BaseTrial) -> str:
        """Let the trial suggest a value; return its Hydra text."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return self.texts[choices.index(trial.suggest_categorical(self.name, choices))]
            case IntDistribution(low=low, high=high, step=step, log=log):
                return literal(trial.suggest_int(self.name, low, high, step=step, log=log))
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return literal(trial.suggest_float(self.name, low, high, step=step, log=log))
        raise AssertionError(self.distribution)

    def may_be(self, text: str) -> bool:
        """Whether a draw can give this text; never for a float, which meets no value twice."""
        match self.distribution:
            case CategoricalDistribution():
                return text in self.texts
            case IntDistribution(low=low, high=high, step=step):
                return text in map(str, range(low, high + 1, step))
        return False


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Parameters that exist while `key` has the value whose Hydra text is `value`."""

    key: str
    value: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Space:
    """All that one study may draw, in the order of the file."""

    parameters: tuple[Parameter, ...]
    branches: tuple[Branch, ...]

    def suggest(self, trial: BaseTrial, settings: Mapping[str, str]) -> list[str]:
        """Draw one configuration and return it as overrides, exact for floats too.

        `settings` are the choices of the arm, key to value as text: see `settings_of`.
        """
        now = {key: _canonical(key, text) for key, text in settings.items()}
        drawn: dict[str, str] = {}

        def draw(parameters: Iterable[Parameter]) -> None:
            for parameter in parameters:
                if parameter.key not in drawn:
                    drawn[parameter.key] = now[parameter.key] = parameter.draw(trial)

        draw(self.parameters)
        waiting = list(self.branches)
        while holds := [branch for branch in waiting if now.get(branch.key) == branch.value]:
            draw(holds[0].parameters)
            waiting.remove(holds[0])
        return [f"{key}={text}" for key, text in drawn.items()]

    def keys(self) -> tuple[str, ...]:
        """Every key the space can draw under some condition."""
        groups = (self.parameters, *(branch.parameters for branch in self.branches))
        return tuple(dict.fromkeys(parameter.key for group in groups for parameter in group))

    def reachable(self, settings: Mapping[str, str]) -> "Space":
        """The part of the space that an arm with these settings can draw from."""
        fixed = {key: _canonical(key, text) for key, text in settings.items()}
        live: list[Parameter] = list(self.parameters)
        branches: list[Branch] = []
        waiting = list(self.branches)

        def may_hold(branch: Branch) -> bool:
            drawn = any(p.key == branch.key and p.may_be(branch.value) for p in live)
            return drawn or fixed.get(branch.key) == branch.value

        while may := [branch for branch in waiting if may_hold(branch)]:
            live += may[0].parameters
            branches.append(may[0])
            waiting.remove(may[0])
        return replace(self, branches=tuple(b for b in self.branches if b in branches))

    def only(self, known: Container[str]) -> "Space":
        """The space without the unconditional parameters whose key an arm does not have."""
        return replace(self, parameters=tuple(p for p in self.parameters if p.key in known))


def parse_space(lines: Sequence[str], when: Mapping[str, Sequence[str]] | None = None) -> Space:
    """Read searched overrides, and those of each branch under its condition `key=value`.

    A key is its own name in Optuna. Where branches give one key different ranges, each of them is
    named key@condition, since Optuna ranks a parameter by its name and drops one with two ranges
    from joint sampling.
    """
    parameters = _read(lines, "")
    branches = []
    for condition, branch_lines in (when or {}).items():
        ((key, value),) = settings_of([condition]).items()
        read = _read(branch_lines, f"{key}={value}")
        branches.append(Branch(key=key, value=value, parameters=read))
    space = Space(parameters=parameters, branches=tuple(branches))
    differing = _differing(space)

    def named(branch: Branch) -> Branch:
        renamed = (p if p.key in differing else replace(p, name=p.key) for p in branch.parameters)
        return replace(branch, parameters=tuple(renamed))

    return replace(space, branches=tuple(map(named, branches)))


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    """Key to value text of plain overrides; the later of two for one key wins."""
    parsed = [parse(override) for override in overrides]
    return {key_of(override): literal(override.value()) for override in parsed}


def overlap(one: str, other: str) -> bool:
    """Whether two keys are one, or one of them lies inside the other, as tree.spec in tree."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _canonical(key: str, text: str) -> str:
    return settings_of([f"{key}={text}"])[key]


def _differing(space: Space) -> set[str]:
    """Keys to which branches give different ranges; refused where both may hold in one trial."""
    differing = set()
    seen: list[tuple[Branch | None, Parameter]] = [(None, p) for p in space.parameters]
    for branch in space.branches:
        for parameter in branch.parameters:
            for other, earlier in seen:
                if earlier.key != parameter.key or _same_range(earlier, parameter):
                    continue
                if other is None or other.key != branch.key or other.value == branch.value:
                    place = f"under '{other.key}={other.value}'" if other else "in `space`"
                    raise ConfigError(
                        f"{parameter.key}: has one range {place} and another under"
                        f" '{branch.key}={branch.value}', and one trial may meet both"
                    )
                differing.add(parameter.key)
            seen.append((branch, parameter))
    return differing


def _same_range(one: Parameter, other: Parameter) -> bool:
    return one.distribution == other.distribution and one.texts == other.texts


def _read(lines: Sequence[str], condition: str) -> tuple[Parameter, ...]:
    read: dict[str, Parameter] = {}
    for line in lines:
        key, sweep = _parse(line)
        if key in read:
            raise ConfigError(f"{line}: '{key}' is searched twice")
        distribution, texts = _distribution(line, sweep)
        name = f"{key}@{condition}" if condition else key
        read[key] = Parameter(key=key, name=name, distribution=distribution, texts=texts)
    return tuple(read.values())


def _parse(line: str) -> tuple[str, Sweep]:
    try:
        parsed = _parser().parse_override(line)
    except HydraException as error:
        # A function's refusal is the cause; what the grammar refuses, Hydra says itself.
        refusal = isinstance(error.__cause__, HydraException | ValueError | TypeError)
        reason = str(error.__cause__ if refusal else error).partition("\n")[0]
        raise ConfigError(f"{line}: {reason}; {_SUPPORTED}") from error
    if parsed.get_key_element() != parsed.key_or_group or not parsed.key_or_group:
        raise ConfigError(f"{line}: a key is a group, or names joined by dots")
    value = parsed.value()
    if not isinstance(value, Sweep):
        raise ConfigError(
            f"{line}: nothing to search; a fixed value goes under `overrides`, {_SUPPORTED}"
        )
    return parsed.key_or_group, value


def _parser() -> OverridesParser:
    """Hydra's parser with the functions that mean a distribution, and null among choices."""
    parser = OverridesParser.create()
    functions = parser.functions
    for name in set(functions.functions) - set(_FUNCTIONS):
        del functions.functions[name], functions.definitions[name]
    functions.definitions["choice"] = inspect.signature(lambda *args: None)
    functions.functions["tag"] = _log_only(functions.functions["tag"])
    return parser


def _log_only(tag: Callable[..., Sweep]) -> Callable[..., Sweep]:
    def checked(*args: Any, **kwargs: Any) -> Sweep:
        sweep = tag(*args, **kwargs)
        if not isinstance(sweep, IntervalSweep) or sweep.tags != {"log"}:
            raise ConfigError("tag takes log and an interval: tag(log, interval(low, high))")
        return sweep

    return checked


def _distribution(line: str, sweep: Sweep) -> tuple[BaseDistribution, tuple[str, ...]]:
    match sweep:
        case ChoiceSweep():
            return _categorical(line, sweep)
        case IntervalSweep():
            return _interval(line, sweep), ()
        case RangeSweep():
            return _range(line, sweep), ()
    raise AssertionError(sweep)


def _categorical(line: str, sweep: ChoiceSweep) -> tuple[BaseDistribution, tuple[str, ...]]:
    values: list[Any] = []  # what Optuna stores: scalars, and lists and mappings as their text
    elements = [_plain(element) for element in sweep.list]
    for element in elements:
        if has_sweep(element):
            raise ConfigError(f"{line}: a search inside a value; choose between whole values")
        value = literal(element) if isinstance(element, list | dict) else element
        if value in values or value != value:
            raise ConfigError(f"{line}: {literal(element)} cannot be told from the other values")
        values.append(value)
    return CategoricalDistribution(values), tuple(map(literal, elements))


def _interval(line: str, sweep: IntervalSweep) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    if low is None or high is None or not -inf < low < high < inf:
        raise ConfigError(f"{line}: low < high is expected, both finite")
    if log and low <= 0:
        raise ConfigError(f"{line}: a logarithm needs low > 0")
    if isinstance(low, int) and isinstance(high, int):  # by int(interval(...)) only
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _range(line: str, sweep: RangeSweep) -> BaseDistribution:
    bounds = (sweep.start, sweep.stop, sweep.step)
    if any(isinstance(bound, bool) or bound is None or not isfinite(bound) for bound in bounds):
        raise ConfigError(f"{line}: finite numbers are expected")
    # As written in decimals: three steps of 0.1 are 0.3, and 0.3 is the excluded stop.
    start, stop, step = (Decimal(str(bound)) for bound in bounds)
    count = ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ConfigError(f"{line}: holds no value between start and stop (excluded)")
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(bound, int) for bound in bounds):
        return IntDistribution(int(low), int(high), step=int(abs(step)))
    return FloatDistribution(float(low), float(high), step=float(abs(step)))


def _plain(value: Any) -> Any:
    """The value without Hydra's record of quotes."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.text if isinstance(value, QuotedString) else value
