"""Numbers and durations as the report prints them: the same everywhere.

Four significant digits; whole numbers in full; thin spaces between thousands; a dash for nothing.
"""

import math
from datetime import UTC, datetime

THIN = "\u202f"  # narrow no-break space
NOTHING = "\u2013"
_MINUS = "\u2212"
_DIGITS = 4
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_IN_FULL = 1e9  # whole numbers from here on are rounded like any other
_SMALL = 1e-4
_MOST_DECIMALS = 8


def number(value: float | None) -> str:
    """1234567 as 1 234 567, 0.123456 as 0.1235, 6.02e23 as 6.020 × 10²³."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    size = abs(value)
    if value == int(value) and size < _IN_FULL:
        text = f"{int(size):,}"
    elif size >= _IN_FULL or size < _SMALL:
        mantissa, _, power = f"{size:.{_DIGITS - 1}e}".partition("e")
        text = f"{mantissa} × 10{str(int(power)).translate(_SUPERSCRIPT)}"
    else:
        # One rounding decides the number of digits before the point (9.99996 is 10.00).
        exponent = int(f"{size:.{_DIGITS - 1}e}".partition("e")[2])
        text = f"{round(size, _DIGITS - 1 - exponent):,.{max(0, _DIGITS - 1 - exponent)}f}"
    return (_MINUS if value < 0 else "") + text.replace(",", THIN).replace(" ", THIN)


def plus_minus(mean: float | None, sd: float | None) -> str:
    """2.18712 and 0.01234 as 2.187 ± 0.012: the spread to the decimals of the mean."""
    text = number(mean)
    if mean is None or sd is None or "10" in text.partition("×")[2]:
        return text + (f" ± {number(sd)}" if mean is not None and sd is not None else "")
    decimals = len(text.partition(".")[2])
    return (
        f"{text} ± {sd:,.{decimals}f}".replace(",", THIN) if decimals else f"{text} ± {number(sd)}"
    )


def p_value(value: float) -> str:
    """0.07775 as 0.078; what is below 0.001 as that."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001".replace(" ", THIN)


def percent(value: float | None, *, signed: bool = False) -> str:
    """0.0213 as 2.13 %, with its sign if asked."""
    if value is None or math.isnan(value):
        return NOTHING
    sign = _MINUS if value < 0 else "+" if signed and value > 0 else ""
    return f"{sign}{abs(100 * value):.2f}{THIN}%"


def share(value: float) -> str:
    """0.613 as 61 %, for sentences; only nothing is 0 % and only all is 100 %."""
    whole = round(100 * value)
    if whole == 0 and value > 0:
        return f"less than 1{THIN}%"
    if whole == 100 and value < 1:
        return f"more than 99{THIN}%"
    return f"{whole}{THIN}%"


def decimals(value: float | None) -> str:
    """Numbers of everyday size side by side: 0.05 as 0.050; what rounds to 0 has no sign."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:z.3f}".replace("-", _MINUS)


def duration(seconds: float | None) -> str:
    """3725 seconds as 1 h 2 min; below a minute with one decimal."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f}{THIN}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        left = round(seconds) % 60
        whole = round(seconds) // 60
        return f"{whole}{THIN}min" + (f" {left}{THIN}s" if left else "")
    hours, left = divmod(minutes, 60)
    return f"{hours}{THIN}h" + (f" {left}{THIN}min" if left else "")


def moment(time_ms: int | None) -> str:
    """Unix milliseconds as a date and time, UTC."""
    if time_ms is None:
        return NOTHING
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def count(n: int, noun: str) -> str:
    """3 and "trial" as "3 trials"."""
    return f"{number(n)} {noun}{'' if n == 1 else 's'}"


def interval(mean: float | None, low: float = 0.0, high: float = 0.0) -> str:
    """0.0031, -0.0042 and 0.0104 as +0.0031 [-0.0042, +0.0104]: the width decides the decimals."""
    if mean is None:
        return NOTHING
    half = (high - low) / 2
    if half == 0:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    decimals = min(max(1 - math.floor(math.log10(half)), 0), _MOST_DECIMALS)
    shown = [f"{x:+z.{decimals}f}".replace("-", _MINUS) for x in (mean, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"
