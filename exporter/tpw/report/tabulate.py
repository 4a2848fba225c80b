"""Rows of the books summed into the lines of a report.

Every joule, token and coin of the range is in exactly one line, so the lines sum to the totals whatever the report is
grouped by. A quantity stands in the line that it belongs to, and where it belongs to none by nature, in one whose column is
empty:

- tokens and requests are a server's and a model's: by state they stand with ``active``, by GPU with no GPU;
- by component, energy and grams stand with ``energy``, as credit does; GPU time and tokens stand with no component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import fsum

from tpw.ledger.books import Posting, PostingKey, Served, summed
from tpw.model import State, TokenKind
from tpw.report.periods import Calendar, Period, Unit

JOULES_PER_KWH = 3.6e6
MILLION = 1e6
ENERGY = "energy"


class Dimension(StrEnum):
    """What a report may be grouped by."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    SERVER = "server"
    MODEL = "model"
    STATE = "state"
    GPU = "gpu"
    COMPONENT = "component"

    @property
    def unit(self) -> Unit | None:
        """Which unit of time it is; None where it is none."""
        return Unit(self.value) if self in (Dimension.HOUR, Dimension.DAY, Dimension.MONTH) else None


DEFAULT = (Dimension.DAY, Dimension.SERVER, Dimension.MODEL, Dimension.STATE)


def dimensions(text: str) -> tuple[Dimension, ...]:
    """The dimensions of ``day,server``. Raises ValueError with a whole sentence."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    known = ", ".join(Dimension)
    for word in words:
        if word not in set(Dimension):
            raise ValueError(f"--by={text}: `{word}` is none of {known}")
    found = tuple(dict.fromkeys(Dimension(word) for word in words))
    if not found:
        raise ValueError(f"--by names nothing: give one or more of {known}")
    if sum(each.unit is not None for each in found) > 1:
        raise ValueError(f"--by={text}: give one of hour, day and month")
    return found


@dataclass(frozen=True, slots=True)
class Amounts:
    """What was used, done and paid."""

    gpu_seconds: float = 0.0
    joules: float = 0.0
    """Boundary gpu."""
    facility_joules: float = 0.0
    unpriced_joules: float = 0.0
    """Of the facility joules: those that have no price yet."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """By component."""
    credit: float = 0.0
    emissions_grams: Mapping[str, float] = field(default_factory=dict)
    """By basis."""
    tokens: Mapping[TokenKind, float] = field(default_factory=dict)
    requests: float = 0.0
    work: Mapping[str, float] = field(default_factory=dict)
    """By unit."""
    reference_cost: Mapping[str, float] = field(default_factory=dict)
    """By reference."""
    untariffed_joules: float = 0.0
    """Of the facility joules: those booked while no tariff was configured. They have no cost and wait for none."""

    def plus(self, other: Amounts) -> Amounts:
        """Both together."""
        return Amounts(
            self.gpu_seconds + other.gpu_seconds,
            self.joules + other.joules,
            self.facility_joules + other.facility_joules,
            self.unpriced_joules + other.unpriced_joules,
            summed(self.cost, other.cost),
            self.credit + other.credit,
            summed(self.emissions_grams, other.emissions_grams),
            summed(self.tokens, other.tokens),
            self.requests + other.requests,
            summed(self.work, other.work),
            summed(self.reference_cost, other.reference_cost),
            self.untariffed_joules + other.untariffed_joules,
        )

    @property
    def total_tokens(self) -> float:
        """All kinds: they are disjoint."""
        return fsum(self.tokens.values())

    @property
    def net_cost(self) -> float | None:
        """Everything that was charged less what was paid back. None where nothing has a cost, not even none."""
        return fsum(self.cost.values()) - self.credit if self.cost or self.credit else None

    @property
    def energy_cost(self) -> float | None:
        """Of the energy alone, less what was paid back."""
        return self.cost[ENERGY] - self.credit if ENERGY in self.cost else None

    @property
    def is_partly_tariffed(self) -> bool:
        """Whether some of the energy has a cost and some is from before a tariff was configured."""
        return ENERGY in self.cost and self.untariffed_joules > 0.0

    def per_million(self, cost: float | None, tokens: float) -> float | None:
        """A cost per million tokens. None where there were none, and where some of the energy has no price yet or is from
        before a tariff: the figure would be too low."""
        if cost is None or tokens <= 0.0 or self.unpriced_joules > 0.0 or self.is_partly_tariffed:
            return None
        return cost / tokens * MILLION

    def per_joule(self, tokens: float, joules: float) -> float | None:
        """Tokens per joule, which is tokens per second and watt. None where there is no energy or no token: a line by GPU
        has none, and made some all the same."""
        return tokens / joules if tokens > 0.0 and joules > 0.0 else None


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report. What it is not grouped by is "" or None."""

    period: Period | None
    server: str
    model: str
    state: str
    gpu: str
    """UUID."""
    component: str
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Report:
    """Lines in the order of what they are grouped by: servers by name, and what belongs to none at the end."""

    by: tuple[Dimension, ...]
    covered: Period
    lines: tuple[Line, ...]
    totals: Amounts
    timezone: str
    currency: str

    @property
    def components(self) -> tuple[str, ...]:
        """Components of cost that occur: energy first, the others by name."""
        return tuple(sorted(self.totals.cost, key=lambda name: (name != ENERGY, name)))

    @property
    def has_money(self) -> bool:
        """Whether anything has a cost."""
        return self.totals.net_cost is not None or self.totals.unpriced_joules > 0.0


_Key = tuple[Period | None, str, str, str, str, str]


class Tabulation:
    """Sums rows into lines.

    Args:
        by: what to group by.
        covered: the range; rows that begin outside it are not to be given.
        calendar: of the zone whose hours, days and months are meant.
        cut: gives the period of a moment that no line may reach out of, such as its billing month; None for none.
    """

    def __init__(
        self,
        by: Sequence[Dimension],
        covered: Period,
        calendar: Calendar,
        cut: Callable[[float], Period] | None = None,
    ) -> None:
        self._by = tuple(by)
        self._covered = covered
        self._calendar = calendar
        self._cut = cut
        self._unit = next((each.unit for each in by if each.unit is not None), None)
        self._server = Dimension.SERVER in by
        self._model = Dimension.MODEL in by
        self._state = Dimension.STATE in by
        self._gpu = Dimension.GPU in by
        self._component = Dimension.COMPONENT in by
        self._sums: dict[_Key, _Sum] = {}

    def add_rows(self, rows: Iterable[tuple[float, PostingKey, Posting]]) -> None:
        """Energy, time and money of quarter-hours."""
        for start, key, posting in rows:
            place = self._place(start, key.server, key.model, key.state, key.gpu)
            if not self._component:
                self._at((*place, "")).add(posting)
                continue
            self._at((*place, "")).gpu_seconds += posting.seconds
            energy = self._at((*place, ENERGY))
            energy.add_energy(posting)
            for component, amount in posting.cost.items():
                self._at((*place, component)).charge(component, amount)

    def add_served(self, served: Iterable[tuple[float, str, str, Served]]) -> None:
        """What servers did in quarter-hours."""
        for start, server, model, work in served:
            place = self._place(start, server, model, State.ACTIVE, "")
            self._at((*place, "")).serve(work)

    def report(self, currency: str) -> Report:
        """What it has come to."""
        lines = [Line(*key, amounts) for key, each in self._sums.items() if (amounts := each.frozen()) != NOTHING]
        lines.sort(key=self._order)
        totals = NOTHING
        for line in lines:
            totals = totals.plus(line.amounts)
        return Report(self._by, self._covered, tuple(lines), totals, self._calendar.timezone, currency)

    def _place(
        self, start: float, server: str, model: str, state: State, gpu: str
    ) -> tuple[Period | None, str, str, str, str]:
        return (
            None if self._unit is None else self._period(self._unit, start),
            server if self._server else "",
            model if self._model else "",
            state.value if self._state else "",
            gpu if self._gpu else "",
        )

    def _period(self, unit: Unit, start: float) -> Period:
        period = self._calendar.period(unit, start).within(self._covered)
        return period if self._cut is None else period.within(self._cut(start))

    def _order(self, line: Line) -> tuple[tuple[float, str], ...]:
        """In the order of what it is grouped by; what belongs to nobody comes last."""
        parts: list[tuple[float, str]] = []
        for each in self._by:
            match each:
                case Dimension.SERVER:
                    parts.append((not line.server, line.server))
                case Dimension.MODEL:
                    parts.append((not line.model, line.model))
                case Dimension.STATE:
                    parts.append((_STATES[line.state], ""))
                case Dimension.GPU:
                    parts.append((not line.gpu, line.gpu))
                case Dimension.COMPONENT:
                    parts.append((2.0 if not line.component else line.component != ENERGY, line.component))
                case _:
                    parts.append((line.period.start_seconds if line.period else 0.0, ""))
        return tuple(parts)

    def _at(self, key: _Key) -> _Sum:
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum()
        return found


_STATES = {"": 0, State.ACTIVE: 1, State.PARKED: 2, State.IDLE: 3}


@dataclass(slots=True)
class _Sum:
    """Amounts that are being added up. A year has millions of additions: they are done in place."""

    gpu_seconds: float = 0.0
    joules: float = 0.0
    facility_joules: float = 0.0
    unpriced_joules: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    credit: float = 0.0
    emissions_grams: dict[str, float] = field(default_factory=dict)
    tokens: dict[TokenKind, float] = field(default_factory=dict)
    requests: float = 0.0
    work: dict[str, float] = field(default_factory=dict)
    reference_cost: dict[str, float] = field(default_factory=dict)
    untariffed_joules: float = 0.0

    def add(self, posting: Posting) -> None:
        self.gpu_seconds += posting.seconds
        self.add_energy(posting)
        for component, amount in posting.cost.items():
            self.charge(component, amount)

    def add_energy(self, posting: Posting) -> None:
        self.joules += posting.joules
        self.facility_joules += posting.facility_joules
        self.unpriced_joules += posting.unpriced_joules
        if ENERGY not in posting.cost:  # what a tariff priced, or is to price, has a cost of energy, if it is none yet
            self.untariffed_joules += posting.facility_joules
        self.credit += posting.credit
        for basis, grams in posting.emissions_grams.items():
            self.emissions_grams[basis] = self.emissions_grams.get(basis, 0.0) + grams

    def charge(self, component: str, amount: float) -> None:
        self.cost[component] = self.cost.get(component, 0.0) + amount

    def serve(self, work: Served) -> None:
        self.requests += work.requests
        for kind, tokens in work.tokens.items():
            self.tokens[kind] = self.tokens.get(kind, 0.0) + tokens
        for unit, amount in work.work.items():
            self.work[unit] = self.work.get(unit, 0.0) + amount
        for reference, amount in work.reference_cost.items():
            self.reference_cost[reference] = self.reference_cost.get(reference, 0.0) + amount

    def frozen(self) -> Amounts:
        return Amounts(
            self.gpu_seconds,
            self.joules,
            self.facility_joules,
            self.unpriced_joules,
            self.cost,
            self.credit,
            self.emissions_grams,
            self.tokens,
            self.requests,
            self.work,
            self.reference_cost,
            self.untariffed_joules,
        )
