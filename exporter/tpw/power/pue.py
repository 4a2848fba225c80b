"""Power usage effectiveness (PUE) of the facility, queried from Prometheus."""

from __future__ import annotations

import math
import time

from tpw.http.client import Client
from tpw.http.prometheus import instant_query, series_of
from tpw.model import Reason, SourceError
from tpw.power import Clock

LOWEST, HIGHEST = 1.0, 10.0
"""Facility energy includes IT energy, so a PUE is at least 1. A value above 10 is another quantity (percent, kW)."""


class PueQuery:
    """The result of an instant query.

    Args:
        url: Prometheus, or another server with its ``/api/v1/query``.
        query: PromQL with one number as its result.
        headers_file, timeout_seconds: see :class:`tpw.http.client.Client`.
        clock: monotonic seconds.
    """

    name = "pue"

    def __init__(
        self,
        url: str,
        query: str,
        *,
        headers_file: str = "",
        timeout_seconds: float = 5.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._query = query
        self._client = Client(url, timeout_seconds=timeout_seconds, headers_file=headers_file, clock=clock)

    def read(self) -> float:
        """The current power usage effectiveness. Raises SourceError."""
        client = self._client
        target = client.prefix + instant_query(self._query)
        series = series_of(client.request(target), client.where(target), "facility.pue.query")
        if not series:
            raise SourceError(
                Reason.ABSENT, "facility.pue.query gives no series", "Check the query, and its target in Prometheus."
            )
        if len(series) > 1:
            raise SourceError(
                Reason.MALFORMED, f"facility.pue.query gives {len(series)} series", "Aggregate it to one number."
            )
        [(_, value)] = series[0].samples
        if not math.isfinite(value):
            raise SourceError(Reason.ABSENT, f"facility.pue.query gives {value}", "Check the query.")
        if not LOWEST <= value <= HIGHEST:
            raise SourceError(
                Reason.MALFORMED,
                f"facility.pue.query gives {value:g}, which is not a PUE: it is at least 1",
                "Check the query.",
            )
        return value

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()
