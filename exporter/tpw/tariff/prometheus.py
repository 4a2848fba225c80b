"""Prices (or intensities) that somebody else already has in Prometheus: a range query of one series.

The query is evaluated at whole multiples of the step, so that asking again gives the same samples. A value holds until the
next step; where the query gives none at a step, because nothing was scraped or the target is gone, nothing is known there.
How long a value outlives its last scrape is Prometheus' own rule (its lookback, five minutes unless it is set otherwise);
that is also how the newest value reaches a little into the future. Source: Prometheus HTTP API v1, ``query_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite
from typing import Any
from urllib.parse import quote

from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.fetch import Fetch, Request, body_of, brief, json_of, secret_of
from tpw.tariff.intervals import headers_of
from tpw.tariff.spans import merged

STEP_SECONDS = 60.0
"""How finely a query is evaluated where nothing else is said: a price that changes on the hour is late by less than this
and the scrape interval."""
MAX_POINTS = 10_000
"""Points asked for in one question; Prometheus gives 11 000 at most."""


@dataclass(frozen=True, slots=True)
class FromPrometheus:
    """Reads the one series of a query. ``factor`` makes a value of it a price per kWh in whole units of the currency."""

    url: str
    query: str
    fetch: Fetch
    step_seconds: float = STEP_SECONDS
    factor: float = 1.0
    token_file: str | None = None
    """A bearer token."""
    headers_file: str | None = None
    """``Name: value`` lines."""
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
            samples.extend(samples_of(self._ask(begin * step, until * step)))
        if not samples:
            raise SourceError(
                Reason.ABSENT,
                f"the query of the prices gives no series: {brief(ValueError(self.query), 80)}",
                "check `query`, and that Prometheus scrapes the target behind it",
            )
        return held(samples, step, self.factor)

    def _ask(self, start: float, end: float) -> bytes:
        headers = {} if self.headers_file is None else headers_of(self.headers_file)
        if self.token_file is not None:
            headers["Authorization"] = f"Bearer {secret_of(self.token_file, 'a token')}"
        span = f"start={start:.3f}&end={end:.3f}&step={self.step_seconds:g}"
        url = f"{self.url.rstrip('/')}/api/v1/query_range?query={quote(self.query, safe='')}&{span}"
        request = Request(url, headers)
        return body_of(request, self.fetch(request))


def samples_of(body: bytes) -> list[tuple[float, float]]:
    """(Unix seconds, value) of the one series in the answer to a range query, in order; none where there is no series.
    A value that is not finite says nothing. Raises SourceError (MALFORMED)."""
    document = json_of(body, "the answer of Prometheus")
    try:
        if document["status"] != "success":
            raise ValueError(f"the query failed: {document.get('error', document['status'])}")
        kind, result = document["data"]["resultType"], document["data"]["result"]
        if kind != "matrix":
            raise ValueError(f"the answer is a {kind}, expected a matrix")
        if len(result) > 1:
            raise ValueError(f"the query gives {len(result)} series: aggregate it to one")
        samples = list(_samples(result[0])) if result else []
        if any(after[0] <= before[0] for before, after in pairwise(samples)):
            raise ValueError("samples out of order")
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(
            Reason.MALFORMED, f"the prices of Prometheus cannot be read: {brief(error)}", "check `query`"
        ) from error
    return [each for each in samples if isfinite(each[1])]


def _samples(series: Any) -> Iterator[tuple[float, float]]:
    if "values" not in series:
        raise ValueError("a series of histograms, expected numbers")
    for at, value in series["values"]:
        yield float(at), float(value)


def held(samples: list[tuple[float, float]], step: float, factor: float) -> tuple[PriceInterval, ...]:
    """Each value until the next step; no value, no price."""
    return merged(PriceInterval(at, at + step, value * factor) for at, value in samples)
