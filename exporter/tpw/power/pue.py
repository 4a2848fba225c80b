"""Power usage effectiveness of the facility, from whoever measures it: a Prometheus query."""

from __future__ import annotations

import math
import time
from typing import Any
from urllib.parse import quote

from tpw.model import Reason, SourceError
from tpw.power import Clock
from tpw.power.web import Site

LOWEST, HIGHEST = 1.0, 10.0
"""Facility energy contains IT energy, so nothing is below 1; above 10 it is another quantity (percent, kW)."""


class PueQuery:
    """One number from Prometheus' HTTP API.

    Args:
        url: Prometheus (or anything with its ``/api/v1/query``).
        query: PromQL that gives one number.
        headers_file, timeout_seconds: see :class:`tpw.power.web.Site`.
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
        self._site = Site(url, timeout_seconds=timeout_seconds, headers_file=headers_file, clock=clock)

    def read(self) -> float:
        """The power usage effectiveness now. Raises SourceError."""
        answer = self._site.ask("GET", f"/api/v1/query?query={quote(self._query, safe='')}")
        if answer.status not in (200, 400, 422, 503):
            raise self._site.refusal(answer.status, "/api/v1/query")
        document = answer.json(f"{self._site.url}/api/v1/query")
        if not isinstance(document, dict) or document.get("status") != "success":
            told = document.get("error", "") if isinstance(document, dict) else ""
            raise SourceError(Reason.MALFORMED, f"the query of the PUE failed: {told or f'HTTP {answer.status}'}")
        value = _number(document.get("data"))
        if not LOWEST <= value <= HIGHEST:
            raise SourceError(
                Reason.MALFORMED,
                f"the query of the PUE gives {value:g}, which is none: facility energy divided by IT energy is 1 or more",
                "check facility.pue.query",
            )
        return value

    def close(self) -> None:
        """Drop the connection."""
        self._site.close()


def _number(data: Any) -> float:
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if not isinstance(result, list):
        raise SourceError(Reason.MALFORMED, "the answer to the query of the PUE holds no result")
    if kind == "vector" and not result:
        raise SourceError(
            Reason.ABSENT, "the query of the PUE gives no series", "check facility.pue.query, and the target behind it"
        )
    if kind == "vector" and len(result) > 1:
        raise SourceError(
            Reason.MALFORMED, f"the query of the PUE gives {len(result)} series", "aggregate it to one number"
        )
    try:
        value = float(result[1] if kind == "scalar" else result[0]["value"][1])
    except (LookupError, TypeError, ValueError) as error:
        raise SourceError(
            Reason.MALFORMED, f"the query of the PUE gives a {kind}, not one number", "check facility.pue.query"
        ) from error
    if not math.isfinite(value):
        raise SourceError(Reason.ABSENT, f"the query of the PUE gives {value}", "check facility.pue.query")
    return value
