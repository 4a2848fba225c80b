"""Keeps the number of workloads in the books bounded: they are values of a metric label.

When a new workload comes and the limit is reached, the one that used least of those that are gone is added to
``OTHER_WORKLOAD``. If none is gone, the new one is booked there. Rows keep every workload.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from math import inf, nextafter

from tpw.ledger.amounts import NOTHING, Amounts
from tpw.ledger.books import Division, PostingKey, Postings
from tpw.model import OTHER_WORKLOAD, Workload


def bounded(divisions: dict[str, Division], postings: Postings, limit: int) -> tuple[dict[str, Division], Postings]:
    """Shares and postings with at most ``limit`` workloads, ``OTHER_WORKLOAD`` beside them.

    Args:
        divisions: who shares each GPU now, by UUID.
        postings: everything booked so far.
        limit: how many workloads are kept apart.
    """
    present = {key.workload: None for one in divisions.values() for key, _ in one.shares if key.workload is not None}
    if not present:
        return divisions, postings
    known = {key.workload for key in postings if key.workload is not None} - {OTHER_WORKLOAD}
    refused: set[Workload] = set()
    for workload in [one for one in present if one not in known and one != OTHER_WORKLOAD]:
        if len(known) >= limit:
            gone = known - present.keys()
            if not gone:
                refused.add(workload)
                continue
            least = min(gone, key=lambda one: (_joules(postings, one), one))
            postings = _added_to_other(postings, least)
            known.discard(least)
        known.add(workload)
    if refused:
        divisions = {uuid: _without(one, refused) for uuid, one in divisions.items()}
    return divisions, postings


def _joules(postings: Postings, workload: Workload) -> float:
    return sum(amounts.joules for key, amounts in postings.items() if key.workload == workload)


def _added_to_other(postings: Postings, workload: Workload) -> Postings:
    result = dict(postings)
    for key in [key for key in postings if key.workload == workload]:
        other = key._replace(workload=OTHER_WORKLOAD)
        result[other] = _at_least(result.get(other, NOTHING), result.pop(key))
    return result


def _at_least(first: Amounts, second: Amounts) -> Amounts:
    """Their sum, rounded up: the sum over all workloads is a counter and must not fall by a rounding."""
    total = first + second
    return replace(
        total,
        seconds=nextafter(total.seconds, inf),
        joules=nextafter(total.joules, inf),
        facility_joules=nextafter(total.facility_joules, inf),
        unpriced_joules=nextafter(total.unpriced_joules, inf),
        cost={name: nextafter(amount, inf) for name, amount in total.cost.items()},
        credit=nextafter(total.credit, inf),
        emissions_grams={name: nextafter(grams, inf) for name, grams in total.emissions_grams.items()},
        unrated_joules=nextafter(total.unrated_joules, inf),
        late_priced_joules=nextafter(total.late_priced_joules, inf),
    )


def _without(division: Division, refused: Collection[Workload]) -> Division:
    merged: dict[PostingKey, float] = {}
    for key, weight in _renamed(division, refused):
        merged[key] = merged.get(key, 0.0) + weight
    return replace(division, shares=tuple(merged.items()))


def _renamed(division: Division, refused: Collection[Workload]) -> Iterable[tuple[PostingKey, float]]:
    for key, weight in division.shares:
        yield (key._replace(workload=OTHER_WORKLOAD) if key.workload in refused else key), weight
