"""Compare a config with the signatures of what it names, before anything is built."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hmoe.config.targets import MISSING, SPECIAL, locate, targets
from hmoe.config.text import join, literal, resolved
from hmoe.errors import ConfigError, nearest

_LISTS = (list, tuple, Sequence)
_DICTS = (dict, Mapping)
_NOUNS: dict[Any, tuple[str, str]] = {
    int: ("an int", "ints"),
    float: ("a float", "floats"),
    bool: ("true or false", "booleans"),
    str: ("a string", "strings"),
    NoneType: ("null", "nulls"),
    Any: ("anything", "anything"),
}


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name) or not name.strip("."):
        raise ValueError("1 to 80 of A-Z a-z 0-9 . _ - are allowed, and not dots only")
    return name


RunName = Annotated[str, AfterValidator(_run_name)]  # it is the name of a folder as well


class _Top(BaseModel):
    """The keys of a config that belong to no group."""

    model_config = ConfigDict(strict=True)

    seed: int = Field(ge=0, lt=2**32)
    system: str | None = None  # where the root file has no systems
    name: RunName | None
    runs: str
    test: bool


def check(cfg: DictConfig) -> None:
    """Compare every `_target_` node with the signature of its target, and the top-level keys.

    Imports the targets. Arguments whose type cannot be written in YAML are left to the
    constructors. All faults are in one `ConfigError`, one a line.
    """
    config = resolved(cfg)
    faults: list[str] = []
    try:
        _Top.model_validate(config)
    except ValidationError as error:
        faults += explain(error)
    for path, node in targets("", config):
        faults += _argument_faults(path, node)
    # A part that several places refer to is at fault once, under its shortest name.
    once = [
        f for f in dict.fromkeys(faults) if not any(f.endswith(f".{other}") for other in faults)
    ]
    if once:
        raise ConfigError("\n".join(once))


def explain(error: ValidationError) -> list[str]:
    """One line for each fault that pydantic found: `key=value: what is wrong`."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        cause = fault.get("ctx", {}).get("error")
        told = re.sub(r"^[A-Z]\w* should", "must", fault["msg"]).replace(" after validation", "")
        reason = str(cause or told)
        if fault["type"] == "literal_error":
            allowed = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
            reason += f".{hint}" if (hint := nearest(str(fault["input"]), allowed)) else ""
        if fault["type"] in ("model_type", "dict_type"):
            reason = "must be a mapping, as in {key: value}"
        if fault["type"] == "string_type":
            reason += f"; text that reads as something else is written '{fault['input']}', quoted"
        if fault["type"] == "missing":
            lines.append(f"{key}: must be given")
        elif isinstance(cause, ConfigError):  # it shows the value itself
            lines.append(f"{key}: {cause}" if key else reason)
        else:
            lines.append(f"{key}={literal(fault['input'])}: {reason}" if key else reason)
    return lines


def _argument_faults(path: str, node: dict[str, Any]) -> Iterator[str]:
    target = node["_target_"]
    try:
        signature = _signature(locate(path, target))
    except ConfigError as error:
        yield str(error)
        return
    kind = inspect.Parameter
    takes_any = any(p.kind is kind.VAR_KEYWORD for p in signature.parameters.values())
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY)
    }
    for key, value in node.items():
        given = f"{join(path, key)}={literal(value)}"
        if key in SPECIAL or (key not in named and takes_any):
            continue
        if key not in named:
            hint = f"{nearest(str(key), named)} Arguments: {', '.join(named)}."
            yield f"{given}: no such argument of {target}.{hint}"
        elif value == MISSING:
            if not node.get("_partial_"):
                yield f"{given}: must be given"
        elif not _fits(value, annotation := named[key].annotation):
            hint = nearest(literal(value), _literals(annotation))
            yield f"{given}: {_noun(annotation)[0]} is expected{hint and '.' + hint}"
    for name, parameter in named.items():
        optional = parameter.default is not kind.empty or node.get("_partial_")
        if name not in node and not optional:
            yield f"{join(path, name)}: must be given, {target} has no default for it"


def _signature(target: Any) -> inspect.Signature:
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that only type checkers can see: no type for YAML
        return inspect.signature(target)


def _fits(value: Any, annotation: Any) -> bool:
    if not _writable(annotation) or any(targets("", value)):
        return True
    # Read from JSON, pydantic's strict mode takes a list for a tuple; it takes an int for a float.
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        return False
    return True


def _writable(annotation: Any) -> bool:
    """Whether values of this type can be written in YAML."""
    origin = get_origin(annotation)
    if origin is Literal or annotation is None:
        return True
    if origin in (Union, UnionType, *_LISTS, *_DICTS):
        return all(_writable(arg) for arg in get_args(annotation) if arg is not Ellipsis)
    return any(annotation is known for known in (*_NOUNS, *_LISTS, *_DICTS))


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [literal(arg) for arg in get_args(annotation)]
    return [name for arg in get_args(annotation) for name in _literals(arg)]


def _noun(annotation: Any) -> tuple[str, str]:
    """How a message calls one value of a type, and several."""
    origin = get_origin(annotation) or annotation
    args = [arg for arg in get_args(annotation) if arg is not Ellipsis]
    if origin is Literal:
        names = f"one of {', '.join(_literals(annotation))}"
        return names, names
    one, many = [_noun(arg)[0] for arg in args], [_noun(arg)[1] for arg in args]
    if origin in (Union, UnionType):
        return " or ".join(one), " or ".join(many)
    if origin in _LISTS:
        fixed = origin is tuple and Ellipsis not in get_args(annotation)
        of = f" of {len(args)} " if fixed else " of "
        return f"a list{of}{' and '.join(dict.fromkeys(many)) or 'anything'}", "lists"
    if origin in _DICTS:
        return f"a mapping of {' to '.join(many) or 'anything'}", "mappings"
    return _NOUNS[NoneType if annotation is None else annotation]
