"""Prices (or intensities) from a Prometheus: a range query of one series.

The query is evaluated at multiples of the step, so that a repeated query returns the same samples. A value is in force
until the next step; time without a sample is unknown. How long a value outlives its last scrape is the lookback of
Prometheus (five minutes by default), by which the newest value also reaches into the future. Source: Prometheus HTTP API
v1, ``query_range``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite

from tpw.http.messages import Fetch, Request, brief
from tpw.http.prometheus import range_query, series_of
from tpw.http.secrets import bearer, read_headers
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.spans import merged

STEP_SECONDS = 60.0
"""Default step: a price that changes on the hour is late by less than this and the scrape interval."""
MAX_POINTS = 10_000
"""Points of one request; Prometheus returns 11 000 at most."""


@dataclass(frozen=True, slots=True)
class FromPrometheus:
    """Reads the one series of a query. ``factor`` converts its values to prices per kWh in whole units of the currency."""

    url: str
    query: str
    fetch: Fetch
    step_seconds: float = STEP_SECONDS
    factor: float = 1.0
    token_file: str | None = None
    """A bearer token."""
    headers_file: str | None = None
    """Lines of ``Name: value``."""
    name: str = "intervals"

    @property
    def identity(self) -> str:
        """Address and query."""
        return f"{self.url} {self.query}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        step = self.step_seconds
        first, last = floor(start_seconds / step), ceil(end_seconds / step)
        samples: list[tuple[float, float]] = []
        for begin in range(first, last, MAX_POINTS):
            until = min(begin + MAX_POINTS, last) - 1
            samples.extend(self._samples(begin * step, until * step))
        if not samples:
            raise SourceError(
                Reason.ABSENT,
                f"the query returns no series: {brief(ValueError(self.query), 80)}",
                "check `query`, and that Prometheus scrapes the target behind it",
            )
        return held(samples, step, self.factor)

    def _samples(self, start: float, end: float) -> list[tuple[float, float]]:
        """(Unix seconds, value) of the one series in order; none where there is no series. Values that are not finite are
        left out."""
        headers = read_headers(self.headers_file)
        if self.token_file is not None:
            headers.update(bearer(self.token_file))
        request = Request(self.url.rstrip("/") + range_query(self.query, start, end, self.step_seconds), headers)
        series = series_of(self.fetch(request), request.address, "query", is_range=True)
        if len(series) > 1:
            raise SourceError(Reason.MALFORMED, f"query gives {len(series)} series", "Aggregate it to one series.")
        samples = series[0].samples if series else ()
        if any(after[0] <= before[0] for before, after in pairwise(samples)):
            raise SourceError(Reason.MALFORMED, f"{request.address} gives samples out of order")
        return [sample for sample in samples if isfinite(sample[1])]


def held(samples: list[tuple[float, float]], step: float, factor: float) -> tuple[PriceInterval, ...]:
    """Each value until the next step."""
    return merged(PriceInterval(at, at + step, value * factor) for at, value in samples)
