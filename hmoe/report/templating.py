"""The templates of pages, and how they show numbers, times and names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hmoe.report import numbers
from hmoe.report.answer import better
from hmoe.report.tables import Spread
from hmoe.report.verdicts import common_reference, needed

_TEMPLATES = Path(__file__).parent / "templates"


def environment(markdown: bool = False) -> Environment:
    """The templates, for HTML with every name escaped, or for markdown."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=not markdown,
        finalize=_markdown if markdown else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "number": numbers.number,
        "percent": numbers.percent,
        "duration": numbers.duration,
        "count": numbers.count,
        "better": better,
        "spread": _spread,
        "decimals": _decimals,
        "needed": needed,
        "reference": common_reference,
        "p": numbers.p_value,
        "given": lambda x: f"{x:g}",
        "ended": _ended,
        "tree": lambda text: text.replace('"', "") or "none",
        "setting": _setting,
        "backticks": _backticks,
        "code": lambda text: _Code(text.replace("\n", " ")),
    }
    return made


def _spread(spread: Spread | None) -> str:
    return numbers.plus_minus(spread.mean, spread.sd) if spread else numbers.NOTHING


def _decimals(spread: Spread | None) -> str:
    if spread is None or spread.sd is None:
        return numbers.decimals(spread.mean if spread else None)
    return f"{numbers.decimals(spread.mean)} ± {numbers.decimals(spread.sd)}"


def _ended(states: Mapping[str, int]) -> str:
    return ", ".join(f"{n}\u00a0{state}" for state, n in states.items()) or numbers.NOTHING


def _setting(text: str) -> str:
    """A swept setting: 0.001 as it was given, other numbers like all, anything else as it is."""
    try:
        shown = numbers.number(float(text))
    except ValueError:
        return text or numbers.NOTHING
    return shown.rstrip("0").rstrip(".") if "." in shown and "×" not in shown else shown


def _backticks(text: str) -> Markup:
    """Escaped text in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


class _Code(str):
    """Text for an indented block of markdown, where no sign has a meaning."""


def _markdown(text: Any) -> str:
    """Names from users must neither open a tag nor end a cell of a table."""
    if isinstance(text, _Code):
        return text
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "\n": " "}
    return "".join(marks.get(c, c) for c in str(text))
