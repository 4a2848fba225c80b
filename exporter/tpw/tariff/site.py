"""The section ``site``: which part of the site's contract is this node's, and what is queried of the whole site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd, isfinite
from typing import TYPE_CHECKING

from tpw.http.prometheus import instant_query, series_of
from tpw.model import Reason, SourceError
from tpw.settings.scalars import choice, number, text
from tpw.settings.shapes import BAD, FilePath, OrMapping, Report, Section, setting
from tpw.settings.values import http_url

if TYPE_CHECKING:
    from tpw.http.messages import Fetch
    from tpw.tariff.context import FeedContext
    from tpw.tariff.months import BillingMonths
    from tpw.tariff.settings import Tariff

LATE_SECONDS = 90.0
"""Prometheus has the samples of a moment by then: one scrape interval, and the time it takes."""

STEP_SECONDS = 900
"""Means of this length are read, or of a divisor of it where a window of a demand charge is shorter."""

_TOTAL = number("a number above 0", above=0.0)


@dataclass(frozen=True, slots=True)
class SiteReading:
    """What was returned. None where nothing is configured or known."""

    total: float | None = None
    spans: tuple[tuple[float, float, float], ...] = ()
    """(start, end, joules) of the whole site, since the billing month began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteQuery:
    """A number from a Prometheus."""

    url: str = setting(http_url(), "Address of Prometheus, or of another server with its `/api/v1/query`.")
    query: str = setting(text("a PromQL expression"), "PromQL expression of one number.")
    headers_file: str | None = setting(
        FilePath(),
        "File with HTTP headers, one `Name: value` per line, or one bearer token. Lines that start with # are comments.",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """The site of this node. The contract's charges (`tariff.fixed`, `capacity`, `demand`) are those of the whole site, and
    each node books its part of them."""

    name: str = setting(text("a name"), "The `site` label.")
    by: str = setting(
        choice("gpu", "kw", "energy"),
        "What the nodes share the charges by: their number of GPUs, their kW, or the energy that was measured.",
        default="gpu",
    )
    node: float | None = setting(
        number("a number above 0", above=0.0),
        "GPUs or kW of this node. In a configuration that several nodes share, leave it out: GPUs are counted.",
        default=None,
        default_words="the GPUs that are found",
    )
    total: float | SiteQuery | None = setting(
        OrMapping(_TOTAL, Section(SiteQuery), "a number, or a mapping with a query"),
        "GPUs or kW of all nodes of the site. While a query has not returned it, charges are deferred.",
        default=None,
    )
    power: SiteQuery | None = setting(
        Section(SiteQuery),
        "Power of the whole site in watts, the same for all nodes: for demand charges (the peak of the site), prices by"
        " steps (its kWh) and `by: energy`.",
        default=None,
    )

    def check(self, tariff: Tariff, report: Report) -> None:
        """Report what the charges need and what is not given."""
        if self.by is BAD:
            return
        if self.by == "energy":
            if self.node is not None or self.total is not None:
                report(
                    "site", "by energy has neither node nor total: energy is measured, and `power` is that of the site"
                )
            if self.power is None:
                report("site", "by energy needs `power`: a query of the power of the whole site")
        elif self.total is None:
            report("site", f"by {self.by} needs `total`: that of all nodes of the site, a number or a query")
        elif (
            isinstance(self.total, float) and self.node is not None and self.node is not BAD and self.node > self.total
        ):
            report("site.node", f"is more than the total of the site, {self.total:g}")
        if self.by == "kw" and self.node is None:
            report("site", "by kw needs `node`: the kW of this node")
        steps = tariff and any(getattr(layer, "blocks", ()) for _, layer in tariff.layers())
        if self.power is None and self.by != "energy" and tariff and (tariff.demand or steps):
            what = "demand charges" if tariff.demand else "prices by steps"
            report("site", f"{what} of a site need `power`: a query of the power of the whole site")

    def reading(self) -> SiteReading:
        """What is known without a query."""
        return SiteReading(self.total if isinstance(self.total, float) else None)

    def sentence(self) -> str:
        """How the node's part is found."""
        of_node = {
            "gpu": "the GPUs of the node" if self.node is None else f"{self.node:g} GPUs",
            "kw": f"{self.node:g} kW" if self.node else "",
            "energy": "the energy of the node in a quarter-hour",
        }[self.by]
        total = f"{self.total:g}" if isinstance(self.total, float) else "site.total"
        of_site = "that of the site, by site.power" if self.by == "energy" else f"{total} of the site"
        return f"site {self.name}: each node books its part of the site's charges: {of_node} / {of_site}"


class SiteSource:
    """Reads the queries of a site.

    Args:
        settings: see there.
        months: billing months of the contract.
        windows: seconds that demand charges average over.
        context: clock and fetch.
    """

    name = "site"

    def __init__(
        self, settings: SiteSettings, months: BillingMonths, windows: Iterable[float], context: FeedContext
    ) -> None:
        self._settings, self._months, self._context = settings, months, context
        self._step = gcd(STEP_SECONDS, *(int(window) for window in windows))
        self._spans: list[tuple[float, float, float]] = []
        self._total = settings.reading().total

    @property
    def is_needed(self) -> bool:
        """Whether anything is queried."""
        return self._settings.power is not None or isinstance(self._settings.total, SiteQuery)

    def read(self) -> SiteReading:
        """What is known now. Raises SourceError; what was known before stays."""
        if isinstance(self._settings.total, SiteQuery):
            self._total = _value(self._settings.total, self._context.fetch)
        if self._settings.power is not None:
            self._read_power(self._settings.power)
        return SiteReading(self._total, tuple(self._spans))

    def _read_power(self, query: SiteQuery) -> None:
        from tpw.tariff.prometheus import FromPrometheus

        step, now = self._step, self._context.clock()
        begin, _ = self._months.bounds(now - 86400.0)
        end = (now - LATE_SECONDS) // step * step
        start = max(begin, self._spans[-1][1] if self._spans else begin)
        if end <= start:
            return
        source = FromPrometheus(
            query.url,
            f"avg_over_time(({query.query})[{step}s:30s])",
            self._context.fetch,
            step,
            headers_file=query.headers_file,
            name="site.power",
        )
        # A mean stands at the end of its time.
        found = source.read(start + step, end + step)
        spans = [
            (at - step, at, max(0.0, one.price_per_kwh) * step)
            for one in found
            for at in _steps(one.start_seconds, one.end_seconds, step)
            if at <= end
        ]
        self._spans = [span for span in (*self._spans, *spans) if span[0] >= begin]


def _steps(start: float, end: float, step: int) -> list[float]:
    return [start + count * step for count in range(round((end - start) / step))]


def _value(query: SiteQuery, fetch: Fetch) -> float:
    from tpw.http.messages import Request
    from tpw.http.secrets import read_headers

    request = Request(query.url.rstrip("/") + instant_query(query.query), read_headers(query.headers_file))
    series = series_of(fetch(request), request.address, "site.total")
    if len(series) != 1:
        raise SourceError(
            Reason.ABSENT,
            f"site.total gives {len(series)} series",
            "Write a query of one number, and check its targets.",
        )
    [(_, value)] = series[0].samples
    if not isfinite(value) or value <= 0.0:
        raise SourceError(
            Reason.MALFORMED, f"site.total gives {value:g}, which is no number above 0", "Check the query."
        )
    return value
