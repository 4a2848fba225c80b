"""Price sources: one file for each, with its settings, factory and reader.

A price source returns the all-in price per kWh as half-open UTC intervals. It knows nothing of joules: the ledger splits
energy at the interval boundaries and prices each piece at its moment.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tpw.http.fetch import fetch
from tpw.http.messages import Fetch
from tpw.model import PriceInterval
from tpw.settings.shapes import Report

if TYPE_CHECKING:
    from tpw.tariff.settings import Tariff

LAYERS: Mapping[str, str] = {
    "flat": "tpw.tariff.flat:FlatLayer",
    "time_of_use": "tpw.tariff.time_of_use:TimeOfUseLayer",
    "urdb": "tpw.tariff.urdb:UrdbLayer",
    "octopus": "tpw.tariff.octopus:OctopusLayer",
    "entsoe": "tpw.tariff.entsoe:EntsoeLayer",
    "intervals": "tpw.tariff.intervals:IntervalsLayer",
}
"""Kind of a price layer -> ``module:class`` of its settings, which make its source."""


class PriceSource(Protocol):
    """Returns prices."""

    name: str
    """Kind of the source, e.g. ``flat``."""

    def intervals(self, start_seconds: float, end_seconds: float) -> Sequence[PriceInterval]:
        """Prices known for [start, end), Unix seconds: ordered, not overlapping, clipped to the range. Time without a
        known price is not covered. Raises SourceError when a feed cannot be read and nothing is cached."""


class Layer:
    """The settings of one layer of the price."""

    __slots__ = ()

    @property
    def contains_vat(self) -> bool:
        """Whether the prices contain value added tax."""
        return bool(getattr(self, "includes_vat", False))

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""

    def notes(self, tariff: Tariff) -> Sequence[str]:
        """What an operator should know of these valid settings. May read files that the settings name."""
        return ()

    def source(self, tariff: Tariff, context: FeedContext) -> PriceSource:
        """The source. Reads and fetches nothing."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class FeedContext:
    """The outside world, as feeds use it."""

    clock: Callable[[], float] = time.time
    """Unix time."""
    fetch: Fetch = fetch
    cache: Path | None = None
    """Directory that keeps fetched prices; None keeps them in memory."""
    jitter: float = field(default_factory=random.random)
    """In [0, 1): when after publication this process fetches."""

    def cache_file(self, name: str, identity: str) -> Path | None:
        """One file for each identity, so that two layers, or the tariff of yesterday's configuration, do not share one."""
        if self.cache is None:
            return None
        return self.cache / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"
