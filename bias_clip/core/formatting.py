"""How the report spells numbers: as short as can be read without counting zeros."""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

GIB = 2.0**30  # bytes
NOTHING = "—"  # a number that does not exist
MINUS, TIMES = "\u2212", "\u00d7"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_number(value: Any) -> str:
    """Four significant digits, thousands apart, powers of ten below a thousandth: 12,345, 0.2861, 2.50 × 10⁻⁴."""
    if not is_number(value):
        return _format_other(value)
    # Up to 1e15 float64 holds integers exactly; beyond it the digits would pretend to be known.
    if value == int(value) and abs(value) < 1e15:
        return _minus(f"{int(value):,}")
    if not 1e-3 <= abs(value) < 1e15:
        mantissa, power = f"{value:.2e}".split("e")
        return _minus(f"{mantissa} {TIMES} 10") + str(int(power)).translate(_SUPERSCRIPT)
    # log10 of 0 cannot come: 0 is an integer and was returned above.
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return _minus(f"{value:,.{digits}f}")


def format_percent(value: Any) -> str:
    """A share as a percentage: 17.0 %, and two significant digits below one per cent: 0.025 %."""
    if not is_number(value):
        return _format_other(value)
    size = abs(100 * value)
    digits = 1 if size >= 1 or size == 0 else min(5, 1 - math.floor(math.log10(size)))
    return _minus(f"{100 * value:.{digits}f}") + "\u202f%"


def format_points(value: Any) -> str:
    """A difference of two shares, with its sign, in percentage points: +12.3."""
    if not is_number(value):
        return _format_other(value)
    text = f"{100 * value:+.1f}"
    # Rounded to nothing, "+0.0" or "-0.0" would suggest a direction.
    return "0.0" if float(text) == 0 else _minus(text)


def plain_percent(share: float | None) -> str:
    """A share in the ASCII of a terminal, in two decimals, which line up: 62.92%; "-" for None."""
    return "-" if share is None else f"{100 * share:.2f}%"


def plain_points(gap: float | None) -> str:
    """A difference of shares as `plain_percent` has it, in percentage points: 12.30."""
    return "-" if gap is None else f"{100 * gap:.2f}"


def format_unit(value: Any, unit: str) -> str:
    """A value in its unit: 17.0 % (share), 12.3 pp (points), +12.3 pp (signed points), or a number.

    Args:
      value: shares and points from 0 to 1.
      unit: of `evals.metrics.Unit`; one that is not listed above is a number.
    """
    if unit == "share":
        return format_percent(value)
    if unit not in ("points", "signed points"):
        return format_number(value)
    text = format_points(value) if unit == "signed points" else format_points(value).lstrip("+")
    return text + "\u202fpp" if is_number(value) else text


def format_large(value: Any) -> str:
    """A count in few characters: 12,345, then 1.23 M, 4.56 B, 7.89 T."""
    if not is_number(value):
        return _format_other(value)
    for divisor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= divisor:
            return _minus(f"{value / divisor:,.2f}") + "\u202f" + letter
    return format_number(round(value) if abs(value) >= 100 else value)


def format_duration(seconds: float) -> str:
    """Returns "1 h 02 min", "3 min 20 s" or "20 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def spaced(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").replace("/", " / ")


def format_ticks(values: Sequence[float], *, percent: bool = False) -> list[str]:
    """The marks of one axis, all in the same form: 20%, 1.5k, 0.5e−3."""
    if percent:
        return [_minus(f"{100 * value:.4g}%") for value in values]
    largest = max(abs(value) for value in values)
    if 0 < largest < 1e-2:
        # The logarithm of a power of ten may come out just below the integer.
        power = math.floor(math.log10(largest) + 1e-9)
        return [_minus(f"{v / 10.0**power:.4g}e{power}") if v else "0" for v in values]
    for divisor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if largest >= divisor:
            return [_minus(f"{v / divisor:.4g}{letter}") if v else "0" for v in values]
    return [_minus(f"{value:.4g}") for value in values]


def _format_other(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    return _minus(str(value))


def _minus(text: str) -> str:
    return text.replace("-", MINUS)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
