"""The books of some weeks, by quarter-hour, as advice is reckoned from them.

A column has one number for each quarter-hour. Columns are arrays: a month of 200 servers takes some tens of MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import NamedTuple

from tpw.ledger.amounts import ENERGY, JOULES_PER_KWH, Amounts, Served
from tpw.ledger.attribution import PREFILL_WEIGHT
from tpw.ledger.books import ROW_SECONDS, PostingKey, PowerLimit
from tpw.model import Gpu, ServerWorkload, State, TokenKind

DAY = 96
"""Quarter-hours."""
WEEK = 7 * DAY

_COVERED = 0.95
"""Part of a time that must be in the books: the exporter may have been down for a while."""

_FEW = 1e-3
"""A kind with this part of all tokens is none of a server's work: prefill answers a request with one token."""

RENT = "gpu_hour"
OWNED = ("hardware", "hosting", "operations")
"""Components of GPU time that is paid whether it is used or not. Charges of the contract by month and by peak are in
neither: less use of one GPU does not change them by its part."""

Column = array  # of floats


def column(quarters: int) -> Column[float]:
    """Zeros."""
    return array("d", bytes(8 * quarters))


class Slot(NamedTuple):
    """Who used a GPU in which state. ``server`` and ``workload`` are "" where there is none."""

    gpu: str
    server: str
    state: State
    workload: str = ""


class Use:
    """What was used and paid for one slot, by quarter-hour."""

    __slots__ = ("energy_cost", "facility_joules", "grams", "joules", "owned_cost", "rent", "seconds")

    def __init__(self, quarters: int) -> None:
        self.seconds, self.facility_joules = column(quarters), column(quarters)
        self.energy_cost, self.rent, self.owned_cost = column(quarters), column(quarters), column(quarters)
        self.joules, self.grams = column(quarters), column(quarters)


class Work:
    """What one server did, by quarter-hour."""

    __slots__ = (
        "computed",
        "kinds",
        "missed",
        "model",
        "reference_cost",
        "requests",
        "running_seconds",
        "tokens",
        "waiting_seconds",
    )

    def __init__(self, quarters: int) -> None:
        self.model = ""
        self.computed = column(quarters)
        """Decoded tokens, prompt tokens weighted: the measure of load."""
        self.requests = column(quarters)
        self.running_seconds, self.waiting_seconds = column(quarters), column(quarters)
        self.missed = column(quarters)
        """Requests that missed the target that most of them missed."""
        self.tokens = 0.0
        self.kinds: dict[TokenKind, float] = {}
        """Tokens of each kind."""
        self.reference_cost: dict[str, float] = {}

    def phases(self) -> tuple[bool, bool]:
        """Whether it counts prompt tokens, and whether output: one of a pair of prefill and decode counts one of them."""
        least = _FEW * self.tokens
        return self.kinds.get(TokenKind.INPUT, 0.0) > least, self.kinds.get(TokenKind.OUTPUT, 0.0) > least


@dataclass(frozen=True, slots=True)
class Estimate:
    """Money a month: the mean of the days seen, and its interval."""

    value: float
    low: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Fleet:
    """One node over whole weeks. ``start_seconds`` is the first quarter-hour."""

    currency: str
    start_seconds: float
    quarters: int
    uses: dict[Slot, Use] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    gpus: Mapping[str, Gpu] = field(default_factory=dict)
    limits: Mapping[str, tuple[PowerLimit, ...]] = field(default_factory=dict)
    owners: Mapping[str, ServerWorkload] = field(default_factory=dict)
    other_cost: dict[str, float] = field(default_factory=dict)
    """Components of servers that are in no column, by server."""
    components: dict[str, set[str]] = field(default_factory=dict)
    """Components that were booked, by server; all under ""."""
    unpriced_joules: list[float] = field(default_factory=lambda: [0.0])
    _prices: list[float | None] = field(default_factory=list)
    _days: list[bool] = field(default_factory=list)

    def add(
        self,
        rows: Iterable[tuple[float, PostingKey, Amounts]],
        served: Iterable[tuple[float, str, str, Served]],
    ) -> None:
        """Add rows of the books."""
        for start, key, amounts in rows:
            index = int((start - self.start_seconds) // ROW_SECONDS)
            if 0 <= index < self.quarters:
                self._used(index, key, amounts)
        models: dict[str, dict[str, float]] = {}
        for start, server, model, done in served:
            index = int((start - self.start_seconds) // ROW_SECONDS)
            if 0 <= index < self.quarters:
                work = self.work.get(server)
                if work is None:
                    work = self.work[server] = Work(self.quarters)
                _served(work, index, done)
                by_model = models.setdefault(server, {})
                by_model[model] = by_model.get(model, 0.0) + fsum(done.tokens.values())
        for server, by_model in models.items():
            self.work[server].model = max(by_model, key=lambda model: by_model[model])

    def _used(self, index: int, key: PostingKey, amounts: Amounts) -> None:
        slot = Slot(key.gpu, key.server, key.state, "" if key.workload is None else key.workload.name)
        use = self.uses.get(slot)
        if use is None:
            use = self.uses[slot] = Use(self.quarters)
        use.seconds[index] += amounts.seconds
        use.joules[index] += amounts.joules
        use.facility_joules[index] += amounts.facility_joules
        use.energy_cost[index] += amounts.net_energy_cost
        use.rent[index] += amounts.cost.get(RENT, 0.0)
        use.owned_cost[index] += fsum(amounts.cost.get(name, 0.0) for name in OWNED)
        if amounts.emissions_grams:
            use.grams[index] += min(amounts.emissions_grams.items())[1]
        rest = fsum(cost for name, cost in amounts.cost.items() if name not in (ENERGY, RENT, *OWNED))
        self.other_cost[key.server] = self.other_cost.get(key.server, 0.0) + rest
        for server in (key.server, ""):
            self.components.setdefault(server, set()).update(amounts.cost)
        self.unpriced_joules[0] += amounts.unpriced_joules

    # ------------------------------------------------------------------------------------------------------------ reading

    @property
    def days(self) -> int:
        """How many are covered."""
        return sum(self.covered_days())

    def at(self, index: int) -> float:
        """Start of a quarter-hour, Unix seconds."""
        return self.start_seconds + index * ROW_SECONDS

    def total(self, quantity: str, chosen: Callable[[Slot], bool]) -> Column[float]:
        """The sum of one column over some slots."""
        result = column(self.quarters)
        for slot, use in self.uses.items():
            if chosen(slot):
                for index, value in enumerate(getattr(use, quantity)):
                    if value:
                        result[index] += value
        return result

    def gpus_of(self, server: str) -> list[str]:
        """UUIDs, by index."""
        return sorted({slot.gpu for slot in self.uses if slot.server == server}, key=self.index_of)

    def index_of(self, gpu: str) -> int:
        """The number of a GPU on its node."""
        return self.gpus[gpu].index if gpu in self.gpus else -1

    def servers(self) -> list[str]:
        """All that hold GPUs now: in the last hour of the books."""
        held: dict[str, float] = {}
        for slot, use in self.uses.items():
            held[slot.server] = held.get(slot.server, 0.0) + fsum(use.seconds[-4:])
        return sorted(server for server, seconds in held.items() if server and seconds > 0.0)

    def covers(self, seconds: Column[float], first: int, gpus: int) -> bool:
        """Whether so many GPUs were in these slots for nearly all the time from a quarter-hour on."""
        return fsum(seconds[first:]) >= _COVERED * (self.quarters - first) * ROW_SECONDS * gpus

    def prices(self) -> list[float | None]:
        """What a facility kWh cost in each quarter-hour; None where nothing was priced."""
        if not self._prices:
            joules, cost = self.total("facility_joules", _any), self.total("energy_cost", _any)
            self._prices.extend(
                money / used * JOULES_PER_KWH if used > 0.0 and money else None
                for used, money in zip(joules, cost, strict=True)
            )
        return self._prices

    def mean_watts(self, chosen: Callable[[Slot], bool], first: int = 0) -> float | None:
        """Facility watts of a GPU in some slots; None where they have less than an hour."""
        seconds = fsum(self.total("seconds", chosen)[first:])
        return fsum(self.total("facility_joules", chosen)[first:]) / seconds if seconds >= 3600.0 else None

    def freed_watts(self, server: str) -> tuple[float, bool]:
        """What the GPUs of a server would draw without it, and whether that is known. Otherwise it is what they draw
        parked, so that no electricity counts as saved."""
        gpus = self.gpus_of(server)
        known = [watts for gpu in gpus if (watts := self.idle_watts(gpu)) is not None]
        if len(known) == len(gpus):
            return fsum(known), True
        held = self.mean_watts(lambda slot: slot.server == server and slot.state is State.PARKED)
        return (held or 0.0) * len(gpus), False

    def idle_watts(self, gpu: str) -> float | None:
        """Facility watts of a GPU that nobody uses, else of those of its name; None where none was idle for an hour."""
        own = self.mean_watts(lambda slot: slot.gpu == gpu and slot.state is State.IDLE)
        if own is not None or gpu not in self.gpus:
            return own
        alike = {uuid for uuid, other in self.gpus.items() if other.name == self.gpus[gpu].name}
        return self.mean_watts(lambda slot: slot.gpu in alike and slot.state is State.IDLE)

    def covered_days(self) -> list[bool]:
        """Whether a day of the books has most of its time: the exporter may have been down."""
        if not self._days:
            seconds = self.total("seconds", _any)
            days = [fsum(seconds[start : start + DAY]) for start in range(0, self.quarters, DAY)]
            self._days.extend(day > 0.5 * max(days) for day in days)
        return self._days

    def monthly(self, gains: Sequence[float]) -> Estimate:
        """Money by quarter-hour, up to the end of the books, as money a month: the mean of whole days, and its interval.

        From two weeks on each day is compared with the same day of other weeks: a free weekend is no chance.
        """
        first = self.quarters - len(gains) // DAY * DAY
        offset = first - (self.quarters - len(gains))
        strata: dict[int, list[float]] = {}
        for number, start in enumerate(range(offset, len(gains), DAY), first // DAY):
            if self.covered_days()[number]:
                strata.setdefault(number % 7 if len(gains) >= 2 * WEEK else 0, []).append(
                    fsum(gains[start : start + DAY])
                )
        count = sum(map(len, strata.values()))
        if not count:
            return Estimate(0.0, 0.0, 0.0)
        mean = fsum(map(fsum, strata.values())) / count
        freedom = count - len(strata)
        half = 0.0
        if freedom:
            squares = fsum((day - fsum(alike) / len(alike)) ** 2 for alike in strata.values() for day in alike)
            # Student's t for 95 %, within 2 % from 6 degrees of freedom on.
            half = (1.96 + 2.9 / freedom) * (squares / freedom / count) ** 0.5
        return Estimate(mean * MONTH_DAYS, (mean - half) * MONTH_DAYS, (mean + half) * MONTH_DAYS)


MONTH_DAYS = 365.0 / 12.0


def _served(work: Work, index: int, done: Served) -> None:
    output = done.tokens.get(TokenKind.OUTPUT, 0.0)
    work.computed[index] += output + PREFILL_WEIGHT * done.tokens.get(TokenKind.INPUT, 0.0)
    for kind, tokens in done.tokens.items():
        work.kinds[kind] = work.kinds.get(kind, 0.0) + tokens
    work.requests[index] += done.requests
    work.running_seconds[index] += done.running_seconds
    work.waiting_seconds[index] += done.waiting_seconds
    work.missed[index] += max(done.missed.values(), default=0.0)
    work.tokens += fsum(done.tokens.values())
    for name, cost in done.reference_cost.items():
        work.reference_cost[name] = work.reference_cost.get(name, 0.0) + cost


def _any(_: Slot) -> bool:
    return True


def runs(flags: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """[start, end) of each stretch of True."""
    start = None
    index = -1
    for index, flag in enumerate(flags):
        if flag and start is None:
            start = index
        if not flag and start is not None:
            yield start, index
            start = None
    if start is not None:
        yield start, index + 1
