"""Load curves: the energy of intervals, from a CSV file or from the books."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpw.model import Reason, SourceError
from tpw.tariff.layout import Layout, read_table

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Load:
    """Energy used evenly over [start, end), Unix seconds."""

    start_seconds: float
    end_seconds: float
    joules: float
    kva: float | None = None
    """Apparent power, where it is metered."""


def from_csv(path: str, timezone: str) -> tuple[Load, ...]:
    """The load of a CSV file with a column ``time``, the start of an interval, and ``kW`` or ``kWh``, and perhaps ``kVA``.
    Times without an offset are local to ``timezone``. Raises SourceError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(Reason.ABSENT, f"the load cannot be read from {path}: {error}") from error
    header = text.partition("\n")[0].strip()
    delimiter = max(",;\t", key=header.count)
    names = {name.strip().strip('"').lower(): name.strip().strip('"') for name in header.split(delimiter)}
    unit = next((unit for unit in ("kwh", "kw") if unit in names), None)
    if unit is None or "time" not in names:
        raise SourceError(
            Reason.MALFORMED,
            f"{path} has the columns {', '.join(names.values())}",
            "name them time and kW, or time and kWh",
        )

    def column(name: str) -> Layout:
        return Layout(price=names[name], time=names["time"], is_csv=True, delimiter=delimiter, timezone=timezone)

    rows = read_table(text, column(unit), joined=False)
    apparent = {}
    if "kva" in names:
        apparent = {row.start_seconds: row.price_per_kwh for row in read_table(text, column("kva"), joined=False)}
    loads = []
    for row in rows:
        hours = (row.end_seconds - row.start_seconds) / 3600.0
        kwh = row.price_per_kwh if unit == "kwh" else row.price_per_kwh * hours
        if kwh < 0.0:
            raise SourceError(Reason.MALFORMED, f"{path} has a negative load: fed-in energy is not consumption")
        loads.append(Load(row.start_seconds, row.end_seconds, kwh * JOULES_PER_KWH, apparent.get(row.start_seconds)))
    return tuple(loads)


def from_rows(rows: Iterable[tuple[float, float]], row_seconds: float) -> tuple[Load, ...]:
    """The load of (start, facility joules) of rows of the books, in order of time; several may have the same start."""
    joules: dict[float, float] = {}
    for start, amount in rows:
        joules[start] = joules.get(start, 0.0) + amount
    return tuple(Load(start, start + row_seconds, amount) for start, amount in joules.items())


def clipped(loads: Sequence[Load], start_seconds: float, end_seconds: float) -> list[Load]:
    """The parts of a load within [start, end)."""
    result = []
    for load in loads:
        start, end = max(load.start_seconds, start_seconds), min(load.end_seconds, end_seconds)
        if start < end:
            share = (end - start) / (load.end_seconds - load.start_seconds)
            result.append(Load(start, end, load.joules * share, load.kva))
    return result


def covered_seconds(loads: Sequence[Load], start_seconds: float, end_seconds: float) -> float:
    """For how much of [start, end) there is a load."""
    return sum(load.end_seconds - load.start_seconds for load in clipped(loads, start_seconds, end_seconds))
