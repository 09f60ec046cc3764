"""The page of a reproduction, from its declaration and its stored result alone."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any

from hmoe.report.numbers import NOTHING, duration
from hmoe.reproductions.record import Criterion, Figure, Reproduction

PICTURE = "figure.svg"
_TINY = 1e-4


def readme(reproduction: Reproduction, result: Mapping[str, Any]) -> str:
    """Markdown: verdict, figures beside those published, criteria, deviations, how it was run."""
    return "\n".join(_lines(reproduction, result)) + "\n"


def _lines(reproduction: Reproduction, result: Mapping[str, Any]) -> Iterator[str]:
    figures = {name: Figure(**plain) for name, plain in result["figures"].items()}
    yield from (f"# {reproduction.name}", "", reproduction.title, "")
    yield from (f"**Verdict: {result['verdict']}.**", "")
    yield from (f"Claim: {reproduction.claim}", "", f"Source: {reproduction.source}", "")
    yield from ("| figure | published | here |", "|---|--:|--:|")
    for row in reproduction.rows:
        found = shown(figures.get(row.figure), row.digits)
        yield f"| {row.label} | {row.published or NOTHING} | {found} |"
    yield from ("", "Here: mean ± standard deviation (seeds), intervals in brackets.", "")
    for note in reproduction.notes(figures):
        yield from (note, "")
    yield from (f"![{reproduction.title}]({PICTURE})", "")
    when = _moment(result["declared_at"])
    yield from (f"## Criteria, written down {when}, before the first run", "")
    if result["declared_criteria"] != result["criteria"]:
        yield from ("**They were changed since: the verdict is not of what was declared.**", "")
        yield "Declared was:"
        yield from ("", *(_declared(plain) for plain in result["declared_criteria"]), "")
    yield from ("| criterion | asked | found | holds | decides |", "|---|--:|--:|---|---|")
    for criterion in reproduction.criteria:
        yield _criterion(criterion, figures)
    yield ""
    if reproduction.deviations:
        yield from ("## Where we differ", "")
        yield from (f"- {deviation}" for deviation in reproduction.deviations)
        yield ""
    yield from ("## How it was run", "")
    taken = f"{duration(60 * result['added_minutes'])} added up"
    if result["minutes"] is not None:
        taken += f", {duration(60 * result['minutes'])} by the clock"
    yield from (f"    {result['command']}", "")
    yield f"- size: {result['size']}; {len(result['cells'])} cells; {taken}"
    yield f"- at: {result['at']}, on {result['hardware']}"
    dirty = ", with changes that were not committed" if result["git_dirty"] else ""
    yield f"- git commit: {(result['git_commit'] or 'unknown')[:12]}{dirty}"
    measured_at = [short(commit) for commit in result.get("measured_at", ())]
    if measured_at and measured_at != [short(result["git_commit"] or "")]:
        changes = " (+: with changes)" if any(c.endswith("+") for c in measured_at) else ""
        yield f"- cells were measured at: {', '.join(measured_at)}{changes}"
    yield "- versions: " + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
    again = f"hmoe reproduce {reproduction.name} --check"
    yield f"- every number: result.json; `{again}` judges them anew"


def _criterion(criterion: Criterion, figures: Mapping[str, Figure]) -> str:
    figure = figures.get(criterion.figure)
    found = NOTHING if figure is None else _text(figure.value, 3)
    held = "yes" if criterion.holds(figures) else "**no**"
    decides = {"claim": "the claim", "shape": "claim and shape", "aside": "nothing"}[criterion.role]
    asked = _asked(criterion.low, criterion.high)
    return f"| {criterion.says} | {asked} | {found} | {held} | {decides} |"


def _declared(plain: Mapping[str, Any]) -> str:
    """A criterion as it was declared; infinities are stored as null."""
    low = -inf if plain["low"] is None else plain["low"]
    high = inf if plain["high"] is None else plain["high"]
    return f"- {plain['says']}: {_asked(low, high)} ({plain['role']})"


def _asked(low: float, high: float) -> str:
    if low == -inf:
        return f"≤ {high:g}"
    return f"≥ {low:g}" if high == inf else f"{low:g} to {high:g}"


def short(commit: str) -> str:
    """The first twelve digits of a commit, and the plus of one with changes."""
    return commit[:12] + "+" * commit.endswith("+")


def shown(figure: Figure | None, digits: int) -> str:
    """A figure with its spread, such as "0.099 ± 0.012 (5)" or "2.100 [1.900, 2.300]"."""
    if figure is None:
        return NOTHING
    words = [_text(figure.value, digits)]
    if figure.sd is not None:
        words.append(f"± {_text(figure.sd, digits)}")
    if figure.n is not None:
        words.append(f"({figure.n})")
    if figure.low is not None and figure.high is not None:
        words.append(f"[{_text(figure.low, digits)}, {_text(figure.high, digits)}]")
    return " ".join(words)


def _text(value: float, digits: int) -> str:
    if 0 < abs(value) < min(_TINY, 10**-digits):
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
