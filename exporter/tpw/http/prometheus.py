"""Queries of Prometheus' HTTP API v1, and their answers (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tpw.http.messages import Answer, brief, json_of, status_error
from tpw.model import Reason, SourceError


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a result. A scalar is one series without labels."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, float], ...]
    """(Unix seconds, value) in the order of the answer; one of an instant query. A value may be NaN or infinite."""


def instant_query(query: str) -> str:
    """The target of a query for the current value."""
    return f"/api/v1/query?query={quote(query, safe='')}"


def range_query(query: str, start_seconds: float, end_seconds: float, step_seconds: float) -> str:
    """The target of a query for the values at every step, both ends included, in Unix seconds."""
    span = f"start={start_seconds:.3f}&end={end_seconds:.3f}&step={step_seconds:g}"
    return f"/api/v1/query_range?query={quote(query, safe='')}&{span}"


def series_of(answer: Answer, where: str, what: str, *, is_range: bool = False) -> tuple[Series, ...]:
    """The series of a query's answer.

    Args:
        answer: of an instant or a range query.
        where: the address that answered, for messages.
        what: the query, for messages: "power_query".
        is_range: whether it is of a range query.

    Raises:
        SourceError: MALFORMED when Prometheus rejects the query or the answer is of another form; else by the status.
    """
    is_explained = answer.status in (400, 422, 503) and answer.body.startswith(b"{")
    if answer.status != 200 and not is_explained:
        raise status_error(where, answer)
    document = json_of(answer.body, f"the answer of {where}")
    if not isinstance(document, dict) or document.get("status") != "success":
        error = document.get("error", "") if isinstance(document, dict) else ""
        # 503 is Prometheus' status for a query that was aborted or exceeded its own time limit.
        reason = Reason.BROKEN if answer.status == 503 else Reason.MALFORMED
        raise SourceError(reason, f"{what} failed: {brief(ValueError(error)) or f'HTTP {answer.status}'}")
    data = document.get("data")
    kind, result = (data.get("resultType"), data.get("result")) if isinstance(data, dict) else (None, None)
    if not isinstance(result, list):
        raise SourceError(Reason.MALFORMED, f"the answer to {what} has no result")
    if kind not in (("matrix",) if is_range else ("scalar", "vector")):
        raise SourceError(Reason.MALFORMED, f"{what} gives a {kind}", f"Check {what}.")
    try:
        if kind == "scalar":
            return (Series({}, (_sample(result),)),)
        # Series of histograms have neither value nor values.
        return tuple(
            Series(dict(row["metric"]), tuple(map(_sample, row["values"] if is_range else [row["value"]])))
            for row in result
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(
            Reason.MALFORMED, f"the answer to {what} is not series of numbers: {brief(error)}", f"Check {what}."
        ) from error


def _sample(pair: Any) -> tuple[float, float]:
    at, value = pair
    return float(at), float(value)
