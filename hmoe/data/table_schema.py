"""Schema: what the columns of a table are for, as one line of YAML says it.

{target: income, kind: classification, numbers: [age, hours], categories: [work], domains: [work]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hmoe.errors import ConfigError, check_names, nearest

Kind = Literal["classification", "regression", "yes_or_no"]
_KEYS = ("target", "kind", "numbers", "categories", "domains")
_EXAMPLE = "data.schema={target: income, kind: classification, numbers: [age], categories: [work]}"


@dataclass(frozen=True)
class Target:
    """A column to predict.

    Attributes:
        name: of the target, in scores.
        column: of the table.
        positive: what means yes, of a yes-or-no target; () reads 1, true and yes as yes, 0, false
            and no as no.
    """

    name: str
    column: str
    positive: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """What the columns are for.

    Attributes:
        kind: of the task.
        targets: what to predict: of classification one.
        numbers: inputs to be standardised.
        categories: inputs to become one column a value.
        domains: labels for inspection, name -> columns; of several columns the one that is not 0.
    """

    kind: Kind
    targets: tuple[Target, ...]
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    domains: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        domains = [column for columns in self.domains.values() for column in columns]
        targets = [target.column for target in self.targets]
        return tuple(dict.fromkeys([*targets, *self.numbers, *self.categories, *domains]))

    @classmethod
    def parse(cls, said: Mapping[str, Any] | None) -> "Schema":
        """Read a schema.

        Args:
            said: target, kind, numbers, categories, domains. `target` is a column, a list of them,
                or name -> {column: its column, positive: the value or values that mean yes};
                `domains` a list of columns, or name -> columns.

        Raises:
            ConfigError: it is missing, or not such a mapping.
        """
        if said is None:
            raise ConfigError(f"data.schema=null: must be given, as in {_EXAMPLE}.")
        for key in said:
            if key not in _KEYS:
                raise ConfigError(
                    f"data.schema has {key!r}: must be one of {', '.join(_KEYS)}."
                    f"{nearest(str(key), _KEYS)}"
                )
        kind, target = said.get("kind"), said.get("target")
        check_names("data.schema.kind", [kind], get_args(Kind))
        if not target:
            raise ConfigError(
                f"data.schema.target = {target}: must name a column to predict, as in {_EXAMPLE}."
            )
        numbers, categories = (_names(key, said.get(key)) for key in ("numbers", "categories"))
        domains = said.get("domains") or ()
        if not isinstance(domains, Mapping):
            domains = {name: (name,) for name in _names("domains", domains)}
        parsed = cls(
            kind=kind,
            targets=_targets(kind, target),
            numbers=numbers,
            categories=categories,
            domains={name: _names("domains", columns) for name, columns in domains.items()},
        )
        parsed._check()
        return parsed

    def _check(self) -> None:
        inputs = [*self.numbers, *self.categories]
        if not inputs:
            raise ConfigError(
                "data.schema has no inputs: name columns as numbers, categories or both, as in "
                f"{_EXAMPLE}."
            )
        for name in inputs:
            if inputs.count(name) > 1:
                raise ConfigError(f"data.schema has {name!r} twice among numbers and categories.")
            if name in [target.column for target in self.targets]:
                raise ConfigError(
                    f"data.schema.target has {name!r}, which is an input as well: the answer would "
                    "be told. Leave it out of numbers and categories."
                )
        if self.kind == "classification" and len(self.targets) > 1:
            raise ConfigError(
                f"data.schema.target has {len(self.targets)} columns: classification has one. "
                "Several yes-or-no targets are kind: yes_or_no."
            )


def _names(key: str, value: Any) -> tuple[str, ...]:
    """Names of columns: one, or a list."""
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"data.schema.{key} = {value}: must be a column's name or a list of them; a name that "
            "reads as a number is quoted."
        )
    return tuple(names)


def _targets(kind: Kind, said: Any) -> tuple[Target, ...]:
    if not isinstance(said, Mapping):
        return tuple(Target(name, name) for name in _names("target", said))
    if kind != "yes_or_no":
        raise ConfigError(
            f"data.schema.target = {said}: a mapping is for kind: yes_or_no. Of {kind} name the "
            "column."
        )
    found = []
    for name, each in said.items():
        if not isinstance(each, Mapping) or each.keys() != {"column", "positive"}:
            raise ConfigError(
                f"data.schema.target.{name} = {each}: must be {{column: its column, positive: the "
                "value that means yes}."
            )
        said_yes = each["positive"]
        values = said_yes if isinstance(said_yes, list | tuple) else [said_yes]
        found.append(Target(str(name), str(each["column"]), tuple(map(str, values))))
    return tuple(found)
