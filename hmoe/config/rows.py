"""Systems and experiments: what their names stand for, put in place."""

from collections.abc import Sequence
from pathlib import Path

from hmoe.config.grammar import check_options, parse
from hmoe.config.groups import CONF, group_names, options
from hmoe.config.systems import read_experiment, read_system
from hmoe.errors import ConfigError

SYSTEM, EXPERIMENT = "system", "experiment"


def expand(overrides: Sequence[str], *, conf_dir: Path = CONF) -> list[str]:
    """Put in place of `system=<name>` and `experiment=<name>` the choices that they stand for.

    Whatever comes later wins over them: a value over a value, and the choice of a group over all
    that the row said about that group, which need not have the same settings. A later system
    replaces an earlier one altogether, that of an experiment too: what only the earlier one chose
    is no part of the later. So does a later experiment.
    """
    place = _last(overrides, EXPERIMENT, conf_dir)
    if place is None:
        return _with_system(overrides, conf_dir)
    before, later = without(overrides[:place], EXPERIMENT), overrides[place + 1 :]
    row: Sequence[str] = read_experiment(_name(overrides[place], conf_dir), conf_dir).choices
    if _last(later, SYSTEM, conf_dir) is not None:
        row = without(row, SYSTEM)
        before = without(before, SYSTEM)
    elif _last(row, SYSTEM, conf_dir) is not None:
        before = without(before, SYSTEM)
    before, row, later = (_with_system(part, conf_dir) for part in (before, row, later))
    return [*before, *_kept(row, later, group_names(conf_dir)), *later]


def named(overrides: Sequence[str], key: str, *, conf_dir: Path = CONF) -> str | None:
    """The system or the experiment that counts among some overrides, None if there is none."""
    place = _last(overrides, EXPERIMENT, conf_dir)
    if key == SYSTEM and place is not None:
        row = read_experiment(_name(overrides[place], conf_dir), conf_dir).choices
        overrides = [*overrides[:place], *row, *overrides[place + 1 :]]
    place = _last(overrides, key, conf_dir)
    return None if place is None else _name(overrides[place], conf_dir)


def without(overrides: Sequence[str], key: str) -> list[str]:
    """The overrides but those of a key."""
    return [override for override in overrides if parse(override).key_or_group != key]


def _with_system(overrides: Sequence[str], conf_dir: Path) -> list[str]:
    """Put in place of `system=<name>` its choices; see `expand`."""
    place = _last(overrides, SYSTEM, conf_dir)
    if place is None:
        return list(overrides)
    row = read_system(_name(overrides[place], conf_dir), conf_dir).choices
    before, later = without(overrides[:place], SYSTEM), overrides[place + 1 :]
    return [*before, *_kept(row, later, group_names(conf_dir)), *later]


def _kept(row: Sequence[str], later: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What of a row of choices stands beside the choices that come later."""
    chosen = [parse(override) for override in later]
    anew = {o.package or o.key_or_group for o in chosen if o.key_or_group in groups}
    kept = []
    for choice in row:
        said = parse(choice)
        place = said.package or said.key_or_group
        # A choice inside another group stays: `ffn@model.ffn` is for every model.
        replaced = [group for group in anew if f"{place}.".startswith(f"{group}.")]
        if said.key_or_group in groups:
            replaced = [g for g in replaced if g in (place, said.key_or_group)]
        if not replaced:
            kept.append(choice)
    return kept


def _last(overrides: Sequence[str], key: str, conf_dir: Path) -> int | None:
    """Where the last override of a key is; nowhere in a configuration without that group."""
    if not (conf_dir / key).is_dir():  # asked at every composition: no walk through the folder
        return None
    places = [n for n, override in enumerate(overrides) if parse(override).key_or_group == key]
    for place in places:
        _name(overrides[place], conf_dir)  # a wrong name is told, even one that does not count
    return places[-1] if places else None


def _name(override: str, conf_dir: Path) -> str:
    parsed = parse(override)
    if not isinstance(parsed.value(), str):
        raise ConfigError(f"{override}: the name of one {parsed.key_or_group} is expected")
    check_options(parsed, options(str(parsed.key_or_group), conf_dir))
    return str(parsed.value())
