"""Arithmetic on price intervals, which are half-open, ordered and disjoint everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tpw.model import PriceInterval, PriceState

_RELIANCE = (
    PriceState.FINAL,
    PriceState.PRELIMINARY,
    PriceState.FORECAST,
    PriceState.FALLBACK,
    PriceState.MISSING,
)


def least_reliable(states: Iterable[PriceState]) -> PriceState:
    """The state of a sum: that of its least reliable part."""
    return max(states, key=_RELIANCE.index)


def merged(pieces: Iterable[PriceInterval]) -> tuple[PriceInterval, ...]:
    """The intervals with adjacent equal ones joined."""
    result: list[PriceInterval] = []
    for piece in pieces:
        last = result[-1] if result else None
        if (
            last is not None
            and last.end_seconds == piece.start_seconds
            and last.price_per_kwh == piece.price_per_kwh
            and last.state is piece.state
            and last.steps == piece.steps
            and last.month_start_seconds == piece.month_start_seconds
        ):
            result[-1] = replace(last, end_seconds=piece.end_seconds)
        else:
            result.append(piece)
    return tuple(result)


def clipped(pieces: Iterable[PriceInterval], start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
    """The parts of intervals within [start, end)."""
    return tuple(
        piece
        if start_seconds <= piece.start_seconds and piece.end_seconds <= end_seconds
        else replace(
            piece,
            start_seconds=max(piece.start_seconds, start_seconds),
            end_seconds=min(piece.end_seconds, end_seconds),
        )
        for piece in pieces
        if piece.start_seconds < end_seconds and piece.end_seconds > start_seconds
    )


def united(lists: Iterable[Sequence[PriceInterval]]) -> tuple[PriceInterval, ...]:
    """The intervals of several lists in order; a repeated price once. Raises ValueError for two prices of one moment."""
    result: list[PriceInterval] = []
    for piece in sorted((piece for pieces in lists for piece in pieces), key=lambda piece: piece.start_seconds):
        last = result[-1] if result else None
        rest = piece
        if last is not None and piece.start_seconds < last.end_seconds:
            if piece.price_per_kwh != last.price_per_kwh:
                at = datetime.fromtimestamp(piece.start_seconds, UTC)
                prices = f"{last.price_per_kwh:g} and {piece.price_per_kwh:g} per kWh"
                raise ValueError(f"two prices for {at:%Y-%m-%dT%H:%MZ}: {prices}")
            rest = replace(piece, start_seconds=last.end_seconds)
        if rest.start_seconds < rest.end_seconds:
            result.append(rest)
    return merged(result)


def overlaid(upper: Sequence[PriceInterval], lower: Sequence[PriceInterval]) -> tuple[PriceInterval, ...]:
    """``upper`` where it covers, ``lower`` elsewhere. Both ordered and disjoint."""
    result: list[PriceInterval] = list(upper)
    first = 0
    for piece in lower:
        while first < len(upper) and upper[first].end_seconds <= piece.start_seconds:
            first += 1
        start, index = piece.start_seconds, first
        while index < len(upper) and upper[index].start_seconds < piece.end_seconds:
            if upper[index].start_seconds > start:
                result.append(replace(piece, start_seconds=start, end_seconds=upper[index].start_seconds))
            start = upper[index].end_seconds
            index += 1
        if start < piece.end_seconds:
            result.append(replace(piece, start_seconds=start))
    result.sort(key=lambda piece: piece.start_seconds)
    return merged(result)
