"""Time, joules and money into postings.

Time is booked as it passes, with the costs that run with it. Joules are booked when they have been read, spread evenly
over the time they cover; each piece is priced at the price of its moment, so an interval that spans a price change is
split at it. What is booked is never priced again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpw.ledger.attribution import Shares
from tpw.ledger.books import Pending, Posting, PostingKey
from tpw.ledger.tick import Curve
from tpw.model import Rate

JOULES_PER_KWH = 3.6e6

_MAX_PENDING = 512
"""Pieces kept for a GPU that does not answer for a long time; above it the oldest two become one."""


@dataclass(slots=True)
class Draft:
    """One posting while a tick is being booked. Never leaves the ledger."""

    seconds: float
    joules: float
    facility_joules: float
    unpriced_joules: float
    cost: dict[str, float]
    credit: float
    emissions_grams: dict[str, float] = field(default_factory=dict)

    def freeze(self) -> Posting:
        """The posting it has become."""
        return Posting(
            self.seconds,
            self.joules,
            self.facility_joules,
            self.unpriced_joules,
            self.cost,
            self.credit,
            self.emissions_grams,
        )


class Drafts:
    """The postings a tick changes, opened from the books on first touch."""

    __slots__ = ("_books", "_open")

    def __init__(self, books: Mapping[PostingKey, Posting]) -> None:
        self._books = books
        self._open: dict[PostingKey, Draft] = {}

    def of(self, key: PostingKey) -> Draft:
        """The draft of one posting."""
        draft = self._open.get(key)
        if draft is None:
            old = self._books.get(key)
            if old is None:
                draft = Draft(0.0, 0.0, 0.0, 0.0, {}, 0.0)
            else:
                draft = Draft(
                    old.seconds,
                    old.joules,
                    old.facility_joules,
                    old.unpriced_joules,
                    dict(old.cost),
                    old.credit,
                    dict(old.emissions_grams),
                )
            self._open[key] = draft
        return draft

    def close(self) -> dict[PostingKey, Posting]:
        """The books with everything that was drafted."""
        postings = dict(self._books)
        for key, draft in self._open.items():
            postings[key] = draft.freeze()
        return postings


def book_time(drafts: Drafts, shares: Shares, seconds: float, rates: Sequence[Rate]) -> None:
    """Time of one GPU, and the costs that run with it."""
    for key, weight in shares:
        draft = drafts.of(key)
        part = seconds * weight
        draft.seconds += part
        for rate in rates:
            draft.cost[rate.component] = draft.cost.get(rate.component, 0.0) + part * rate.per_gpu_second


def book_joules(
    drafts: Drafts, pending: Sequence[Pending], joules: float, facility_factor: float, curve: Curve | None
) -> None:
    """Joules of one GPU over its pending time.

    Args:
        drafts: where to.
        pending: the time they cover, at least one piece.
        joules: boundary gpu.
        facility_factor: facility joules per joule of the board.
        curve: prices; None where no tariff is configured.
    """
    total_seconds = sum(piece.end_seconds - piece.start_seconds for piece in pending)
    for piece in pending:
        seconds = piece.end_seconds - piece.start_seconds
        part = joules * seconds / total_seconds if total_seconds > 0.0 else joules / len(pending)
        money, credit, unpriced = _price(piece, part * facility_factor, curve)
        for key, weight in piece.shares:
            draft = drafts.of(key)
            draft.joules += part * weight
            draft.facility_joules += part * facility_factor * weight
            if curve is not None:
                draft.cost["energy"] = draft.cost.get("energy", 0.0) + money * weight
                draft.credit += credit * weight
                draft.unpriced_joules += unpriced * weight


def _price(piece: Pending, facility_joules: float, curve: Curve | None) -> tuple[float, float, float]:
    """(charge, credit, unpriced joules) of facility joules spread evenly over the piece."""
    if curve is None:
        return 0.0, 0.0, 0.0
    seconds = piece.end_seconds - piece.start_seconds
    # A piece without length (the first look of a GPU) is priced at its moment.
    end = piece.end_seconds if seconds > 0.0 else piece.start_seconds + 1e-3
    span = end - piece.start_seconds
    charge = credit = unpriced = 0.0
    for cut_start, cut_end, price in curve.pieces(piece.start_seconds, end):
        part = facility_joules * (cut_end - cut_start) / span
        if price is None:
            unpriced += part
        elif price.price_per_kwh >= 0.0:
            charge += part / JOULES_PER_KWH * price.price_per_kwh
        else:
            credit -= part / JOULES_PER_KWH * price.price_per_kwh
    return charge, credit, unpriced


def extend(pending: tuple[Pending, ...], start: float, end: float, shares: Shares) -> tuple[Pending, ...]:
    """Pending time with [start, end) added; time with the same shares grows the last piece."""
    if not pending:
        return (Pending(start, end, shares),)
    last = pending[-1]
    if last.shares == shares:
        # The lengths add up and the end is now: the wall clock may have been set in between.
        seconds = (last.end_seconds - last.start_seconds) + (end - start)
        return (*pending[:-1], Pending(end - seconds, end, shares))
    grown = (*pending, Pending(start, end, shares))
    if len(grown) > _MAX_PENDING:
        first, second = grown[0], grown[1]
        merged = Pending(first.start_seconds, second.end_seconds, second.shares)
        grown = (merged, *grown[2:])
    return grown
