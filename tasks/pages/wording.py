"""Numbers and keys as people read them; filters of the page's template."""

from __future__ import annotations

import math
import re
from typing import Any

from markupsafe import Markup, escape

OTHER = "other"  # the name under which rare labels are shown together


def count(value: Any) -> str:
    """An integer with separators; a dash for nothing."""
    return "—" if value is None else f"{int(value):,}"


def short(value: Any) -> str:
    """A large number with three digits: `1.23 M`."""
    if value is None:
        return "—"
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == ' k' else size):.3g}{letter}"
    return f"{value:,.0f}"


def duration(seconds: Any) -> str:
    """Seconds in words: `2 min 46 s`."""
    if seconds is None:
        return "—"
    if seconds < 10:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def pace(rate: float, unit: str) -> str:
    """Units per second, `2,206 records per second`; where a unit takes longer than that, `4.3 s per run`."""
    if rate < 1:
        one = re.sub(r"s\b", "", unit, count=1)  # of plurals such as `runs` or `seconds of audio`
        return f"{duration(1 / rate)} per {one}"
    return f"{short(rate) if rate >= 10 else number(rate)} {unit} per second"


def number(value: Any) -> str:
    """Any number with three digits that count; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "—"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("-", "−")


def memory(value: Any) -> str:
    """Bytes as MB or GB."""
    if not value:
        return "—"
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def percent(value: Any) -> str:
    """A share as per cent."""
    return "—" if value is None else f"{100 * value:.1f} %"


def words(name: Any) -> str:
    """A key of a file in words."""
    return str(name).replace("_", " ")


def unbroken(sentence: str) -> Markup:
    """The sentence as HTML, with per cent signs tied to their numbers and no line ended in a hyphen."""
    escaped = str(escape(sentence)).replace(" %", "\u00a0%")
    return Markup(re.sub(r"\b\w+-\w+\b", r'<span class="nb">\g<0></span>', escaped))


def with_code(sentence: str) -> Markup:
    """The sentence as HTML, with names between backticks set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def excerpt(text: Any, most: int = 180) -> str:
    """One line of the text, cut at a word, without control characters."""
    line = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", "" if text is None else str(text)).strip()
    if len(line) <= most:
        return line
    return line[:most].rsplit(" ", 1)[0].rstrip(" ,;:") + " …"
