"""Shapes of single values: texts, choices, switches, numbers. ``parse`` raises ValueError with a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tpw.settings.shapes import JsonSchema, Scalar
from tpw.settings.words import did_you_mean, listed, shortened


def text(words: str = "a text", *, pattern: str = "", advice: str = "") -> Scalar:
    """A non-empty text; with a pattern, one that the pattern matches in full."""
    compiled = re.compile(pattern) if pattern else None

    def parse(value: str) -> str:
        if not value.strip():
            raise ValueError(f"is empty: give {words}")
        if compiled is not None and not compiled.fullmatch(value):
            raise ValueError(f"`{shortened(value)}` should be {words}{f': {advice}' if advice else ''}")
        return value

    json = {"type": "string", "pattern": f"^(?:{pattern})$"} if pattern else {"type": "string", "minLength": 1}
    return Scalar(words, parse, json)


def choice(*words: str, aliases: Mapping[str, str] | None = None) -> Scalar:
    """One of a closed set of values."""
    accepted = {**{word: word for word in words}, **(aliases or {})}

    def parse(value: str) -> str:
        if value not in accepted:
            raise ValueError(f"`{shortened(value)}` is not {listed(words)}{did_you_mean(value, words)}")
        return accepted[value]

    return Scalar(listed(words), parse, {"type": "string", "enum": list(accepted)})


def switch() -> Scalar:
    """True or false."""
    values = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def parse(value: str) -> bool:
        if value.lower() not in values:
            raise ValueError(f"`{shortened(value)}` should be true or false")
        return values[value.lower()]

    return Scalar("true or false", parse, {"type": "boolean"}, bare=True)


def number(
    words: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    advice: str = "",
) -> Scalar:
    """A finite number within bounds. ``advice`` is appended where it is out of bounds."""
    tail = f": {advice}" if advice else ""

    def parse(value: str) -> float:
        result = _finite(value, words)
        if minimum is not None and result < minimum:
            raise ValueError(f"{value} is less than {minimum:g}{tail}")
        if above is not None and result <= above:
            raise ValueError(f"should be more than {above:g}, not {value}{tail}")
        if maximum is not None and result > maximum:
            raise ValueError(f"{value} is more than {maximum:g}{tail}")
        return result

    json: JsonSchema = {"type": "number"}
    for key, bound in (("minimum", minimum), ("exclusiveMinimum", above), ("maximum", maximum)):
        if bound is not None:
            json[key] = bound
    return Scalar(words, parse, json, bare=True)


def whole_number(words: str, *, minimum: int, maximum: int) -> Scalar:
    """A whole number within bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", value):
            raise ValueError(f"`{shortened(value)}` should be {words}")
        if not minimum <= int(value) <= maximum:
            raise ValueError(f"{value} is not between {minimum} and {maximum}")
        return int(value)

    return Scalar(words, parse, {"type": "integer", "minimum": minimum, "maximum": maximum}, bare=True)


def _finite(value: str, words: str) -> float:
    compact = value.strip()
    if re.fullmatch(r"[+-]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?", compact):
        return float(compact)
    if re.fullmatch(r"[+-]?\d+,\d{1,2}", compact):
        raise ValueError(f"`{compact}`: write the decimals after a point, {compact.replace(',', '.')}")
    if re.fullmatch(r"[+-]?\d{1,3}([,' ]\d{3})+(\.\d+)?", compact):
        raise ValueError(f"`{compact}`: write {re.sub(r'[^0-9.+-]', '', compact)}, without thousands separators")
    if match := re.fullmatch(r"([+-]?[\d.]+)\s*%", compact):
        raise ValueError(f"`{compact}`: write the fraction, {float(match.group(1)) / 100:g}")
    amounts = re.findall(r"[+-]?\d+(?:\.\d+)?", compact)
    if len(amounts) == 1:
        raise ValueError(
            f"`{shortened(compact)}` should be {words}: write {amounts[0]} alone, units and currency are separate settings"
        )
    raise ValueError(f"`{shortened(compact)}` should be {words}")
