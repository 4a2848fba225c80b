"""Other contracts for the same load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tpw.advice.fleet import DAY, WEEK, Estimate, Fleet
from tpw.advice.lines import LEAST_RATIO, Advice, Kind, Missing
from tpw.billing.bill import Bill
from tpw.billing.curve import Load

Priced = Callable[[str, tuple[Load, ...], float, float], Bill]
"""(name of a contract, load, from, to) -> its bill."""

_MONTH_WEEKS = 365.0 / 12.0 / 7.0


def contracts(fleet: Fleet, present: str, others: Mapping[str, str], bill_of: Priced) -> Iterator[Advice | Missing]:
    """The contract that saves most.

    Args:
        fleet: the books.
        present: name of the contract in force.
        others: what the other contracts are called in text, by name.
        bill_of: makes a bill.
    """
    joules = fleet.total("facility_joules", lambda _: True)
    loads = tuple(Load(fleet.at(index), fleet.at(index + 1), used) for index, used in enumerate(joules))
    covered = fleet.covered_days()
    whole = [(start, start + WEEK) for start in range(0, fleet.quarters, WEEK)]
    weeks = [(start, end) for start, end in whole if all(covered[start // DAY : end // DAY])] or whole
    bills: dict[str, list[Bill]] = {}
    for name in (present, *others):
        found = [bill_of(name, loads[start:end], fleet.at(start), fleet.at(end)) for start, end in weeks]
        if name != present and found[0].currency != bills[present][0].currency:
            yield Missing(Kind.CONTRACT, others[name], f"{others[name]} is in another currency.")
            continue
        if any(one.unpriced_kwh > 0.0 for one in found):
            problems = "; ".join({problem for one in found for problem in one.problems})
            yield Missing(
                Kind.CONTRACT,
                others.get(name, name),
                f"The prices of {others.get(name, 'the present contract')} are not all known for the time of the books:"
                f" {problems or 'some of its intervals have no price'}.",
            )
            if name == present:
                return
            continue
        bills[name] = found
    if len(bills) < 2:
        return
    cost = sum(one.total for one in bills[present])
    best = min((name for name in bills if name != present), key=lambda name: sum(one.total for one in bills[name]))
    savings = [(one.total - other.total) * _MONTH_WEEKS for one, other in zip(bills[present], bills[best], strict=True)]
    value = sum(savings) / len(savings)
    if sum(savings) / _MONTH_WEEKS <= LEAST_RATIO * cost:
        return
    compared = ", ".join(
        f"{others.get(name, 'at present')} {sum(one.total for one in found) / len(weeks) * _MONTH_WEEKS:,.2f}"
        for name, found in bills.items()
    )
    yield Advice(
        Kind.CONTRACT,
        others[best],
        Estimate(value, min(savings), max(savings)),
        value,
        f"Change to the contract {others[best]}.",
        f"The load of this node in {len(weeks)} weeks, billed line by line, {fleet.currency} a month: {compared}. Low and"
        " high are those of single weeks. Peaks of a billing month are taken as those of each week; ratchets and terms of"
        " notice are not in it.",
        f"tpw-exporter bill --what-if={others[best]} has the lines.",
    )
