"""Values at a moment of the day, calculated from the hand books (:mod:`support.handbooks`).

Tokens, joules, money and seconds of a window, by owner. Expectations of rules and dashboards are written in these terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from support import fleetday as day
from support.samples import Labels, Samples, Series, labels

Rows = dict[Labels, float]
Match = Mapping[str, str | tuple[str, ...]]
WASTE = ("parked", "idle")
WINDOWS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600, "1d": 86400}


def by(rows: Rows, names: Iterable[str], fold: Callable[[list[float]], float] = math.fsum) -> Rows:
    """Rows folded into one for every combination of these labels. A label without a value is none."""
    wanted = set(names)
    groups: dict[Labels, list[float]] = {}
    for who, value in rows.items():
        groups.setdefault(tuple(pair for pair in who if pair[0] in wanted and pair[1]), []).append(value)
    return {who: fold(values) for who, values in groups.items()}


def count(values: list[float]) -> float:
    """How many."""
    return float(len(values))


def mean(values: list[float]) -> float:
    """Their mean."""
    return math.fsum(values) / len(values)


def over(above: Rows, below: Rows, on: Iterable[str] | None = None) -> Rows:
    """Quotients where there is a divisor above zero; ``on`` are the labels that both have, all where it is left out."""
    names = None if on is None else set(on)
    found = {}
    for who, value in above.items():
        divisor = below.get(who if names is None else tuple(pair for pair in who if pair[0] in names), 0.0)
        if divisor > 0:
            found[who] = value / divisor
    return found


def less(whole: Rows, part: Rows) -> Rows:
    """Differences; what is not there is nothing."""
    return {who: value - part.get(who, 0.0) for who, value in whole.items()}


def times(rows: Rows, factor: float) -> Rows:
    """All of them multiplied."""
    return {who: value * factor for who, value in rows.items()}


def tagged(rows: Rows, **more: str) -> Rows:
    """With further labels."""
    return {tuple(sorted((*who, *more.items()))): value for who, value in rows.items()}


def plus(*parts: Rows) -> Rows:
    """Several sets of rows as one."""
    return {who: value for part in parts for who, value in part.items()}


def above(rows: Rows, bound: float) -> Rows:
    """Those that are larger."""
    return {who: value for who, value in rows.items() if value > bound}


@dataclass(frozen=True)
class Choice:
    """Values of a dashboard's variables."""

    kind: str = "output"
    scope: str = "full"
    boundary: str = "gpu"


class Hand:
    """The day up to one instant.

    Args:
        samples: the hand books' series.
        at: the instant, a whole minute.
        range_seconds: the time range of the dashboard.
        choice: its variables.
        older: whether to extrapolate rates as Prometheus 2.42 does.
    """

    def __init__(
        self,
        samples: Samples,
        at: int,
        range_seconds: int = 3 * 3600,
        choice: Choice | None = None,
        *,
        older: bool = False,
    ) -> None:
        self.samples = samples
        self.at = at
        self.range = range_seconds
        self.choice = choice or Choice()
        self.older = older
        self.earlier = cache(self._earlier)

    @property
    def polled(self) -> int:
        """The poll that the last scrapes show. A scrape follows its poll by some seconds."""
        return self.at - day.TICK

    def _earlier(self, at: int) -> Hand:
        return Hand(self.samples, at, self.range, self.choice, older=self.older)

    def minutes(self, seconds: int, upto: int | None = None) -> list[Hand]:
        """The instants at which rules were evaluated in a window, each with what it knew then. For older Prometheus the
        window has both its ends."""
        end = self.at if upto is None else upto
        begin = max(day.START, end - seconds + (0 if self.older else 60))
        return [self.earlier(at) for at in range(begin, end + 1, 60)]

    # ---------------------------------------------------------------------------------------------------- what is read

    def gained(self, metric: str, seconds: int, names: Iterable[str] = (), /, **match: str | tuple[str, ...]) -> Rows:
        """What counters gained over a window."""

        def read(series: Series) -> float | None:
            return series.increase(self.at, seconds, older=self.older)

        return by(self.samples.rows(metric, read, match), names)

    def rate(self, metric: str, seconds: int, names: Iterable[str] = (), /, **match: str | tuple[str, ...]) -> Rows:
        """The same per second."""
        return times(self.gained(metric, seconds, names, **match), 1 / seconds)

    def now(
        self,
        metric: str,
        names: Iterable[str] = (),
        fold: Callable[[list[float]], float] = math.fsum,
        /,
        **match: str | tuple[str, ...],
    ) -> Rows:
        """Gauges as they stand."""
        return by(self.samples.rows(metric, lambda series: series.at(self.at), match), names, fold)

    def averaged(
        self,
        metric: str,
        seconds: int,
        names: Iterable[str] = (),
        fold: Callable[[list[float]], float] = math.fsum,
        /,
        **match: str | tuple[str, ...],
    ) -> Rows:
        """Means of gauges over a window."""
        return by(self.samples.rows(metric, lambda series: series.mean(self.at, seconds), match), names, fold)

    # ------------------------------------------------------------------------------------------- tokens, joules, money

    def tokens(self, seconds: int, names: Iterable[str] = (), kind: str | None = None) -> Rows:
        """Tokens of a window; ``kind`` total is all of them."""
        kind = kind or self.choice.kind
        match: dict[str, str | tuple[str, ...]] = {} if kind == "total" else {"kind": kind}
        return self.gained("tpw_server_tokens_total", seconds, names, **match)

    def joules(
        self, seconds: int, names: Iterable[str] = (), boundary: str | None = None, **match: str | tuple[str, ...]
    ) -> Rows:
        """Joules of servers over a window."""
        prefix = "facility_energy" if (boundary or self.choice.boundary) == "facility" else "energy"
        return self.gained(f"tpw_server_{prefix}_joules_total", seconds, names, **match)

    def all_joules(
        self, seconds: int, names: Iterable[str] = (), boundary: str | None = None, **match: str | tuple[str, ...]
    ) -> Rows:
        """Joules of all GPUs, whoever owns them."""
        prefix = "facility_energy" if (boundary or self.choice.boundary) == "facility" else "energy"
        return self.gained(f"tpw_gpu_state_{prefix}_joules_total", seconds, names, **match)

    def cost(
        self, seconds: int, names: Iterable[str] = (), scope: str | None = None, **match: str | tuple[str, ...]
    ) -> Rows:
        """What servers cost over a window, less credit."""
        return self._net("tpw_server", seconds, names, scope or self.choice.scope, match)

    def all_cost(
        self, seconds: int, names: Iterable[str] = (), scope: str | None = None, **match: str | tuple[str, ...]
    ) -> Rows:
        """What all GPUs cost over a window, less credit."""
        return self._net("tpw_gpu_state", seconds, names, scope or self.choice.scope, match)

    def _net(self, prefix: str, seconds: int, names: Iterable[str], scope: str, match: Match) -> Rows:
        names = tuple(names)
        charged = self.gained(
            f"{prefix}_cost_total", seconds, names, **({"component": "energy"} if scope == "energy" else {}), **match
        )
        return less(charged, self.gained(f"{prefix}_credit_total", seconds, names, **match))

    def elsewhere(self, seconds: int, names: Iterable[str] = (), reference: str = "api-70b") -> Rows:
        """What the same work would have cost at a reference."""
        return self.gained("tpw_server_reference_cost_total", seconds, names, reference=reference)

    def per_million(self, cost: Rows, tokens: Rows, on: Iterable[str] | None = None) -> Rows:
        """Money per million tokens."""
        return times(over(cost, tokens, on), 1e6)

    def known(self, seconds: int, names: Iterable[str] = ()) -> Rows:
        """Share of a window that has data: from the first page to the last, and half an interval before and after. Nothing
        where it is less than a quarter."""
        pages = {
            who: series.within(self.at, seconds)[1]
            for who, series in self.samples.select("tpw_snapshot_timestamp_seconds", {})
        }
        first = by({who: values[0] for who, values in pages.items()}, names, min)
        last = by({who: values[-1] for who, values in pages.items()}, names, max)
        count = by({who: float(len(values)) for who, values in pages.items()}, names, max)
        share = {who: (last[who] - first[who]) * n / (n - 1) / seconds for who, n in count.items()}
        return {who: min(value, 1.0) for who, value in share.items() if value > 0.25}

    def running(self, names: Iterable[str] = ("server", "model")) -> Rows:
        """Mean requests running over five minutes."""
        return self.averaged("tpw_server_requests_running", 300, names)


def single(value: float) -> Rows:
    """One number without labels."""
    return {(): value}


def row(value: float, **who: str) -> Rows:
    """One number with labels."""
    return {labels(**who): value}
