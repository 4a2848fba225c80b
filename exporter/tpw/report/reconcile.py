"""Do the rows sum to the counters? What is booked goes into a row and into a posting at once; here both are added up apart
from each other and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import PostingKey, ServerAccount

TOLERANCE = 1e-9
"""Relative; of quantities below one, absolute. Sums of millions of floats differ in the last digits."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """What is compared: a quantity of one GPU, server, model and state."""

    quantity: str
    whose: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One item, by the counters and by the rows."""

    item: Item
    counter: float
    rows: float

    @property
    def agrees(self) -> bool:
        """Equal within the tolerance."""
        return math.isclose(self.counter, self.rows, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

    @property
    def is_possible(self) -> bool:
        """Whether rows of which some were thrown away can have come to this: they cannot be more than the counter."""
        return self.agrees or self.rows < self.counter


def compared(
    rows: Iterable[tuple[float, PostingKey, Amounts]],
    served: Iterable[tuple[float, str, str, Served]],
    postings: Iterable[tuple[PostingKey, Amounts]],
    servers: Iterable[ServerAccount],
) -> list[Comparison]:
    """Every item that the one or the other side knows, in order."""
    by_rows: dict[Item, float] = {}
    for _, key, posting in rows:
        _add(by_rows, key, _of_row(posting))
    for _, server, model, work in served:
        _add(by_rows, (server, model), _of_served(work))
    by_counters: dict[Item, float] = {}
    for key, posting in postings:
        _add(by_counters, key, _of_posting(posting))
    for account in servers:
        for (model, kind), tokens in account.tokens.items():
            _add(by_counters, (account.name, model), [(f"tokens {kind}", tokens)])
        for model, requests in account.requests.items():
            _add(by_counters, (account.name, model), [("requests", requests)])
        for (model, unit), amount in account.work.items():
            _add(by_counters, (account.name, model), [(f"work {unit}", amount)])
        for (model, reference), cost in account.reference_cost.items():
            _add(by_counters, (account.name, model), [(f"reference cost {reference}", cost)])
    items = sorted(by_counters.keys() | by_rows.keys())
    return [Comparison(item, by_counters.get(item, 0.0), by_rows.get(item, 0.0)) for item in items]


def _add(sums: dict[Item, float], whose: tuple[str, ...], amounts: Iterable[tuple[str, float]]) -> None:
    for quantity, amount in amounts:
        item = Item(quantity, whose)
        sums[item] = sums.get(item, 0.0) + amount


def _common(posting: Amounts) -> Iterator[tuple[str, float]]:
    yield "seconds", posting.seconds
    yield "energy gpu J", posting.joules
    yield "energy facility J", posting.facility_joules
    yield "credit", posting.credit
    yield "energy without intensity J", posting.unrated_joules
    for component, cost in posting.cost.items():
        yield f"cost {component}", cost
    for basis, grams in posting.emissions_grams.items():
        yield f"emissions {basis} g", grams


def _of_row(posting: Amounts) -> Iterator[tuple[str, float]]:
    yield from _common(posting)
    yield "energy without a price J", posting.unpriced_joules


def _of_posting(posting: Amounts) -> Iterator[tuple[str, float]]:
    """A counter cannot fall, so it keeps what had no price once; a row has only what has none yet."""
    yield from _common(posting)
    yield "energy without a price J", posting.unpriced_joules - posting.late_priced_joules


def _of_served(work: Served) -> Iterator[tuple[str, float]]:
    for kind, tokens in work.tokens.items():
        yield f"tokens {kind}", tokens
    yield "requests", work.requests
    for unit, amount in work.work.items():
        yield f"work {unit}", amount
    for reference, cost in work.reference_cost.items():
        yield f"reference cost {reference}", cost


def check_text(comparisons: Iterable[Comparison], pruned_before: str | None) -> tuple[str, bool]:
    """What came of it, and whether the books are sound.

    Args:
        comparisons: of all rows there are.
        pruned_before: before which moment rows were thrown away; None where none were.
    """
    found = list(comparisons)
    wrong = [each for each in found if not (each.agrees if pruned_before is None else each.is_possible)]
    lines = [f"{'':30} {'COUNTERS':>24} {'ROWS':>24} {'DIFFERENCE':>13}"]
    for quantity in dict.fromkeys(each.item.quantity for each in found):
        of_it = [each for each in found if each.item.quantity == quantity]
        counter, rows = math.fsum(each.counter for each in of_it), math.fsum(each.rows for each in of_it)
        lines.append(f"{quantity:30} {counter:24.17g} {rows:24.17g} {rows - counter:13.3g}")
    lines.append("")
    if pruned_before is not None:
        lines.append(
            f"Rows from before {pruned_before} were thrown away (state.keep); the counters keep what was in them. So only"
            " that the rows are not more than the counters can be checked."
        )
    for each in wrong:
        whose = ", ".join(name or "(nobody)" for name in each.item.whose)
        lines.append(f"differs: {each.item.quantity} of {whose}: counter {each.counter!r}, rows {each.rows!r}")
    if not wrong:
        kind = (
            "The rows are within the counters"
            if pruned_before
            else f"The rows sum to the counters within {TOLERANCE:g}"
        )
        lines.append(f"{kind}: {len(found)} sums compared.")
    return "\n".join(line.rstrip() for line in lines) + "\n", not wrong
