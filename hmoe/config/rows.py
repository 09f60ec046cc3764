"""Systems and experiments: what their names stand for, put in place."""

from collections.abc import Callable, Sequence
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
    given = list(overrides)
    if EXPERIMENT in group_names(conf_dir):
        own = _last(given, SYSTEM)

        def choices_of(name: str, last: bool) -> Sequence[str]:
            said = read_experiment(name, conf_dir).choices
            # A system that comes after the experiment replaces the experiment's own.
            return said if not last else [c for c in said if not c.startswith(f"{SYSTEM}=")]

        place = _last(given, EXPERIMENT)
        given = _expanded(
            given,
            EXPERIMENT,
            conf_dir,
            lambda name: choices_of(name, own is not None and place is not None and own > place),
        )
    return _expanded(given, SYSTEM, conf_dir, lambda name: read_system(name, conf_dir).choices)


def named(overrides: Sequence[str], key: str, *, conf_dir: Path = CONF) -> str | None:
    """The system or the experiment that counts among some overrides, None if there is none."""
    if key == SYSTEM and (place := _last(overrides, EXPERIMENT)) is not None:
        said = read_experiment(str(parse(overrides[place]).value()), conf_dir).choices
        overrides = [*overrides[:place], *said, *overrides[place + 1 :]]
    place = _last(overrides, key)
    return None if place is None else str(parse(overrides[place]).value())


def _last(overrides: Sequence[str], key: str) -> int | None:
    """Where the last override of a key is."""
    places = [n for n, override in enumerate(overrides) if override.startswith(f"{key}=")]
    return places[-1] if places else None


def _expanded(
    overrides: Sequence[str], key: str, conf_dir: Path, choices_of: Callable[[str], Sequence[str]]
) -> list[str]:
    """Put in place of `key=<name>` the choices of its row; see `expand`."""
    groups = group_names(conf_dir)
    given = [parse(override) for override in overrides]
    rows = [i for i, o in enumerate(given) if o.key_or_group == key and key in groups]
    expanded: list[str] = []
    for index, override in enumerate(overrides):
        if index not in rows:
            expanded.append(override)
            continue
        parsed, later = given[index], given[index + 1 :]
        if not isinstance(parsed.value(), str):
            raise ConfigError(f"{override}: the name of one {key} is expected")
        check_options(parsed, options(key, conf_dir))
        if index != rows[-1]:
            continue
        # What a system of later stands for counts as chosen, too.
        plain = [
            parse(choice)
            for o in later
            for choice in (
                read_system(str(o.value()), conf_dir).choices
                if o.key_or_group == SYSTEM and o.value() in options(SYSTEM, conf_dir)
                else [str(o.input_line)]
            )
        ]
        anew = {o.package or o.key_or_group for o in plain if o.key_or_group in groups}
        for choice in choices_of(str(parsed.value())):
            said = parse(choice)
            place = said.package or said.key_or_group
            # A choice inside another group stays: `ffn@model.ffn` is for every model.
            replaced = [group for group in anew if f"{place}.".startswith(f"{group}.")]
            if said.key_or_group in groups:
                replaced = [g for g in replaced if g in (place, said.key_or_group)]
            if not replaced:
                expanded.append(choice)
    return expanded
