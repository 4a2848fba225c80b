"""What is accepted from a server's page.

The page is written by another process, which may have a bug or be hostile, and a counter of the books never falls: an
absurd value that is booked once stays for ever. So every rise has a limit that follows from time, and the number of models
and series per server is limited. What is above a limit is not booked and counted as an anomaly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tpw.model import UNKNOWN_MODEL, Role, ServerReading, ServiceReading

OTHER_MODEL = "other"
"""Model label of what a server counts for models above the limit."""

BURST_SECONDS = 60.0
"""A rise may be that of this much more time. Tuning: engines that count at the end of a request count minutes at once."""

_LIFE_SECONDS = 20 * 365 * 86400.0
"""No counter has counted for longer."""

MODELS_IN_ALL = 10
"""Models of one server in the books, retired ones included, as a multiple of the limit on its page."""

SERIES = 16384
"""Counters per server. Tuning: 200 models have 4 to 8 counters for each of up to 8 ranks."""

PATHS = 50
"""Paths per server by which requests without usage are counted. Tuning: the proxy has at most 31."""

OTHER_PATH = "other"


class Anomaly(StrEnum):
    """Why values were not booked."""

    IMPLAUSIBLE = "implausible"
    """The counter rose by more than the server can do."""
    MODELS = "models"
    """A new model above the limit: booked as ``other``."""
    INVALID = "invalid"
    """The value was negative, not finite or above 2^63: not read."""
    SERIES = "series"
    """A new series above the limit: not booked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one counter series of a server can rise by in a second, and how many models and workloads are kept apart."""

    tokens_per_second: float = 5e6
    """Tuning: prefill of an 8B model reaches 0.1 million tokens per second and GPU, small embedding models and caches
    several millions per server."""
    requests_per_second: float = 1e5
    work_units_per_second: float = 1e8
    """Units are seconds of audio, images, characters or pixels."""
    models: int = 200
    by_server: Mapping[str, Limits] = field(default_factory=dict)
    """Limits of servers that differ."""
    workloads: int = 100
    """Workloads of a node that are no servers. Chosen: with one GPU each, as many series as a node has for its servers."""

    def rise(self, role: Role | None, seconds: float) -> float:
        """The highest plausible rise of a counter over this time. No role: a counter of work."""
        return self._rate(role) * (max(0.0, seconds) + BURST_SECONDS)

    def value(self, role: Role | None) -> float:
        """The highest plausible value of a counter."""
        return self._rate(role) * _LIFE_SECONDS

    def _rate(self, role: Role | None) -> float:
        if role is None:
            return self.work_units_per_second
        return self.requests_per_second if role is Role.REQUESTS else self.tokens_per_second


def within_models(reading: ServerReading, known: Mapping[str, float], limit: int, present: int) -> ServerReading | None:
    """The reading with the models above the limit as one, ``other``. None if there are none.

    Args:
        reading: one page.
        known: models of the server in the books.
        limit: how many may be on the page.
        present: how many of the known ones count against the limit.
    """
    new = sorted(models_of(reading) - known.keys() - {UNKNOWN_MODEL, OTHER_MODEL})
    accepted = max(0, min(limit - present, MODELS_IN_ALL * limit - len(known)))
    above = frozenset(new[accepted:])
    if not above:
        return None
    return replace(
        reading,
        series=tuple(replace(one, model=OTHER_MODEL) if one.model in above else one for one in reading.series),
        work=tuple(replace(one, model=OTHER_MODEL) if one.model in above else one for one in reading.work),
        loads=tuple(one for one in reading.loads if one.model not in above),
        in_flight=tuple(replace(one, model=OTHER_MODEL) if one.model in above else one for one in reading.in_flight),
        service=_within_models(reading.service, above),
    )


def _within_models(service: ServiceReading | None, above: frozenset[str]) -> ServiceReading | None:
    if service is None:
        return None
    series = (replace(one, model=OTHER_MODEL) if one.model in above else one for one in service.series)
    return replace(service, series=tuple(series))


def models_of(reading: ServerReading) -> set[str]:
    """The models that the page names."""
    names = {one.model for one in reading.series}
    names.update(one.model for one in reading.work)
    names.update(load.model for load in reading.loads)
    if reading.service is not None:
        names.update(one.model for one in reading.service.series)
    names.discard("")
    return names
