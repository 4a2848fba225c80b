"""What price and intensity feeds have in common when they are made of settings."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tpw.config.tables import Table
from tpw.http.fetch import fetch
from tpw.http.messages import Fetch

if TYPE_CHECKING:
    from tpw.tariff.feed import Reader
    from tpw.tariff.layout import Layout
    from tpw.tariff.schedule import Publication, Schedule

_MINUTE, _SIX_HOURS = 60.0, 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What feeds need of the world."""

    clock: Callable[[], float] = time.time
    """Unix time."""
    fetch: Fetch = fetch
    cache: Path | None = None
    """Directory that keeps fetched prices; None keeps them in memory."""
    jitter: float = field(default_factory=random.random)
    """In [0, 1): when after publication this process asks."""


def cache_file(around: Surroundings, name: str, identity: str) -> Path | None:
    """One file per thing that is read, so that two layers, or yesterday's tariff, are not mixed up."""
    if around.cache is None:
        return None
    return around.cache / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def layout_of(
    table: Table, number_field: str, timezone: str | None, *, per_mwh: bool = False, in_minor_units: bool = False
) -> Layout:
    """The layout that the settings of a list describe."""
    from tpw.tariff.layout import Layout

    return Layout(
        price=number_field,
        time=table.time or "",
        end=table.end or "",
        rows=table.rows or ("",),
        is_columnar=table.columns,
        is_csv=table.format == "csv",
        delimiter=table.delimiter,
        where=table.where,
        stamps_end=table.stamp == "end",
        time_format=table.time_format,
        timezone=table.timezone or timezone or "UTC",
        ignores_offset=table.ignore_offset,
        per_mwh=per_mwh,
        in_minor_units=in_minor_units,
        resolution_seconds=table.resolution,
    )


def table_reader(table: Table, layout: Layout, fetch: Fetch) -> Reader:
    """What reads a list of one's own."""
    if table.format == "prometheus":
        from tpw.tariff.prometheus import STEP_SECONDS, FromPrometheus

        step = table.resolution or STEP_SECONDS
        return FromPrometheus(
            table.url or "", table.query or "", fetch, step, layout.factor, table.token_file, table.headers_file
        )
    from tpw.tariff.intervals import FromAddress, FromFile

    if table.file is not None:
        return FromFile(table.file, layout)
    return FromAddress(table.url or "", layout, fetch, token_file=table.token_file, headers_file=table.headers_file)


def table_schedule(table: Table, publication: Publication | None, around: Surroundings) -> Schedule:
    """When a list is read: a file and a Prometheus once a minute, an address as the settings say."""
    from tpw.tariff.schedule import Schedule

    if table.file is not None or table.format == "prometheus":
        every = table.every if table.file is None else None
        return Schedule(every_seconds=every or _MINUTE, patience_seconds=_MINUTE, last_retry_seconds=_MINUTE)
    return Schedule(publication, every_seconds=table.every or _SIX_HOURS, jitter=around.jitter)


def table_cache(table: Table, around: Surroundings, reader: Reader, layout: Layout) -> Path | None:
    """Where the numbers of a list are kept: a file and a Prometheus keep their own. What was read by another layout (its
    unit, its zone, which end of an interval a stamp is) is something else, though it came from the same address."""
    if table.file is not None or table.format == "prometheus":
        return None
    return cache_file(around, reader.name, f"{reader.identity} {layout!r}")
