"""Do the rows sum to the counters? Every entry is booked in a row and in a posting; here both are summed separately and
compared."""

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
    """One quantity of one GPU, server, model and state."""

    quantity: str
    key: tuple[str, ...]


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
        """Whether pruned rows can have this sum: it is at most the counter."""
        return self.agrees or self.rows < self.counter


def compared(
    rows: Iterable[tuple[float, PostingKey, Amounts]],
    served: Iterable[tuple[float, str, str, Served]],
    postings: Iterable[tuple[PostingKey, Amounts]],
    servers: Iterable[ServerAccount],
) -> list[Comparison]:
    """Every item of either side, in order."""
    by_rows: dict[Item, float] = {}
    for _, key, amounts in rows:
        _add(by_rows, _words(key), _quantities(amounts, amounts.unpriced_joules))
    for _, server, model, work in served:
        _add(by_rows, (server, model), _of_served(work))
    by_counters: dict[Item, float] = {}
    for key, amounts in postings:
        # A counter never falls, so late priced joules stay in it; a row has only those without a price.
        _add(by_counters, _words(key), _quantities(amounts, amounts.unpriced_joules - amounts.late_priced_joules))
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


def _words(key: PostingKey) -> tuple[str, ...]:
    workload = key.workload
    return key[:4] if workload is None else (*key[:4], workload.kind, workload.name)


def _add(sums: dict[Item, float], key: tuple[str, ...], amounts: Iterable[tuple[str, float]]) -> None:
    for quantity, amount in amounts:
        item = Item(quantity, key)
        sums[item] = sums.get(item, 0.0) + amount


def _quantities(amounts: Amounts, unpriced_joules: float) -> Iterator[tuple[str, float]]:
    yield "seconds", amounts.seconds
    yield "energy gpu J", amounts.joules
    yield "energy facility J", amounts.facility_joules
    yield "credit", amounts.credit
    yield "energy without intensity J", amounts.unrated_joules
    yield "energy without a price J", unpriced_joules
    for component, cost in amounts.cost.items():
        yield f"cost {component}", cost
    for basis, grams in amounts.emissions_grams.items():
        yield f"emissions {basis} g", grams


def _of_served(work: Served) -> Iterator[tuple[str, float]]:
    for kind, tokens in work.tokens.items():
        yield f"tokens {kind}", tokens
    yield "requests", work.requests
    for unit, amount in work.work.items():
        yield f"work {unit}", amount
    for reference, cost in work.reference_cost.items():
        yield f"reference cost {reference}", cost


def check_text(comparisons: Iterable[Comparison], pruned_before: str | None) -> tuple[str, bool]:
    """The text of the result, and whether the books are consistent.

    Args:
        comparisons: of all rows.
        pruned_before: the moment before which rows were deleted; None if none were.
    """
    found = list(comparisons)
    wrong = [one for one in found if not (one.agrees if pruned_before is None else one.is_possible)]
    lines = [f"{'':30} {'COUNTERS':>24} {'ROWS':>24} {'DIFFERENCE':>13}"]
    for quantity in dict.fromkeys(one.item.quantity for one in found):
        compared_items = [one for one in found if one.item.quantity == quantity]
        counter = math.fsum(one.counter for one in compared_items)
        rows = math.fsum(one.rows for one in compared_items)
        lines.append(f"{quantity:30} {counter:24.17g} {rows:24.17g} {rows - counter:13.3g}")
    lines.append("")
    if pruned_before is not None:
        lines.append(
            f"Rows from before {pruned_before} were deleted (state.keep); the counters still include them. Only"
            " rows above the counters are errors."
        )
    for comparison in wrong:
        key = ", ".join(name or "(none)" for name in comparison.item.key)
        lines.append(
            f"differs: {comparison.item.quantity} of {key}: counter {comparison.counter!r}, rows {comparison.rows!r}"
        )
    if not wrong:
        kind = (
            "The rows are within the counters"
            if pruned_before
            else f"The rows sum to the counters within {TOLERANCE:g}"
        )
        lines.append(f"{kind}: {len(found)} sums compared.")
    return "\n".join(line.rstrip() for line in lines) + "\n", not wrong
