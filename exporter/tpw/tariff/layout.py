"""The layout of a table of prices, and the one reader of all tables.

Price lists differ in where the rows are, whether a time is the start or the end of its interval, its zone, and the unit. A
:class:`Layout` describes these; :func:`read_table` reads any table by its layout.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

from tpw.http.messages import MAX_BYTES, brief, json_of
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.spans import merged

MAX_ROWS = 200_000
"""More than two years of five-minute prices."""

_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the times and prices are in a table."""

    price: str
    """Column (CSV) or path within a row (JSON): ``price``, ``integrated[unit=CHF_kWh].value``, ``bands[0].price``."""
    time: str
    """The time, likewise."""
    end: str = ""
    """A second time that ends the interval; "" where there is none."""
    rows: tuple[str, ...] = ("",)
    """JSON: paths of the lists that hold the rows; "" is the document itself."""
    is_columnar: bool = False
    """JSON: ``time`` and ``price`` are parallel lists below ``rows`` instead of fields of rows."""
    is_csv: bool = False
    delimiter: str = ","
    has_header: bool = True
    """CSV: whether the first line names the columns. Else they are 1, 2, 3, ... and lines with one field are titles."""
    encoding: str = "utf-8-sig"
    where: Mapping[str, str] = field(default_factory=dict)
    """Only rows with these values in these fields."""
    stamps_end: bool = False
    """The time is the end of its interval ("hour ending")."""
    time_format: str = "iso"
    """``iso``, ``unix`` (seconds), ``unix_ms``, or a pattern such as ``%d.%m.%Y %H:%M``."""
    timezone: str = "UTC"
    """Zone of times without one; "" refuses such times, because a guessed zone would shift every price."""
    ignores_offset: bool = False
    """The offset or Z of the times is wrong: they are local to ``timezone``."""
    factor: float = 1.0
    """From a number in the table to whole units of the currency per kWh."""
    unit_field: str = ""
    """Field of the currency or unit of the prices, of each row or of the document; "" where the table has none."""
    units: tuple[str, ...] = ()
    """The accepted ones, in lower case without spaces: ``eur``, ``eur/mwh``."""
    more_time: tuple[str, ...] = ()
    """Further fields of the time, joined with spaces before it is read."""
    hour: str = ""
    """Completes a date: the hour of the local clock, from 1 ("hour ending")."""
    period: str = ""
    """Completes a date: number of the interval, from 1, in the hour where there is one, else in the local day, which has as
    many as it is long."""
    resolution_seconds: float | None = None
    """Length of an interval; None: the shortest distance between two times."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row, unparsed."""

    time: Any
    end: Any
    price: Any
    hour: float | None = None
    period: float | None = None


def read_table(
    text: str | bytes, layout: Layout, *, until_seconds: float | None = None, joined: bool = True
) -> tuple[PriceInterval, ...]:
    """The prices in a text, ordered and disjoint, per kWh in whole units of the currency.

    A row without a price is time without a price. An interval without an end lasts to the next row, the last one to
    ``until_seconds``. Where ``joined``, adjacent equal intervals are one. Raises SourceError: MALFORMED for what cannot be
    read, NOT_YET where there is no row.
    """
    try:
        found = list(_rows_of(_unzipped(text), layout))
        if not found:
            raise SourceError(Reason.NOT_YET, "the table of prices has no rows yet")
        intervals = _intervals(found, layout, until_seconds)
        return merged(intervals) if joined else tuple(intervals)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, OSError, csv.Error, EOFError) as error:
        raise SourceError(Reason.MALFORMED, f"the table of prices cannot be read: {brief(error)}") from error


# ----------------------------------------------------------------------------------------------------------------- rows


def _unzipped(body: str | bytes) -> str | bytes:
    """The table of a zip file with one; any other body as it is. Raises SourceError (NOT_YET) for a message."""
    if not isinstance(body, bytes) or not body.startswith(b"PK\x03\x04"):
        return body
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            names = archive.namelist()
            name = next((name for name in names if name.lower().endswith((".csv", ".json", ".txt"))), names[0])
            with archive.open(name) as member:
                text = member.read(MAX_BYTES + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(f"the zip file cannot be read: {error}") from error
    if len(text) > MAX_BYTES:
        raise ValueError(f"{name} in the zip file has more than {MAX_BYTES >> 20} MiB")
    if text.lstrip()[:1] == b"<" and b"no data" in text[:4096].lower():  # OASIS of the California ISO
        raise SourceError(Reason.NOT_YET, "the service has no prices for this time")
    return text


def _rows_of(text: str | bytes, layout: Layout) -> Iterator[_Row]:
    body = text.decode(layout.encoding) if isinstance(text, bytes) else text
    unit_field = layout.unit_field
    if layout.is_csv:
        rows = _csv_rows(body, layout)
    else:
        document = json_of(body, "the table of prices")
        rows = _json_rows(document, layout)
        if unit_field and isinstance(document, dict) and unit_field in document:
            _check_unit(document[unit_field], layout)
            unit_field = ""
    times = (layout.time, *layout.more_time)
    for number, row in enumerate(rows):
        if number >= MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} rows")
        if any(str(pick(row, name)) != value for name, value in layout.where.items()):
            continue
        if unit_field:
            _check_unit(pick(row, unit_field), layout)
        yield _Row(
            pick(row, layout.time) if len(times) == 1 else " ".join(str(pick(row, name)).strip() for name in times),
            pick(row, layout.end) if layout.end else None,
            pick(row, layout.price),
            number_of(str(pick(row, layout.hour)).removesuffix(":00")) if layout.hour else None,
            number_of(pick(row, layout.period)) if layout.period else None,
        )


def _check_unit(unit: Any, layout: Layout) -> None:
    if "".join(str(unit).lower().split()) not in layout.units:
        raise ValueError(f"the prices are in {unit}, not in {' or '.join(layout.units)}")


def _csv_rows(body: str, layout: Layout) -> Iterator[Any]:
    wanted = {layout.time, *layout.more_time, layout.price, *layout.where}
    wanted |= {name for name in (layout.end, layout.hour, layout.period, layout.unit_field) if name}
    if not layout.has_header:
        yield from _numbered_rows(body, layout, wanted)
        return
    reader = csv.DictReader(io.StringIO(body), delimiter=layout.delimiter, skipinitialspace=True)
    missing = wanted - set(reader.fieldnames or ())
    if missing:
        raise ValueError(
            f"no column {', '.join(sorted(missing))}; the columns are {', '.join(reader.fieldnames or ())}"
        )
    for row in reader:
        if None in row.values():
            raise ValueError(f"line {reader.line_num} has fewer fields than the header")
        yield row


def _numbered_rows(body: str, layout: Layout, wanted: set[str]) -> Iterator[Any]:
    lines = csv.reader(io.StringIO(body), delimiter=layout.delimiter, skipinitialspace=True)
    for fields in lines:
        if sum(bool(value.strip()) for value in fields) < 2:
            continue
        row = {str(number): value for number, value in enumerate(fields, 1)}
        if not wanted <= row.keys():
            raise ValueError(f"line {lines.line_num} has {len(row)} fields: no column {min(wanted - row.keys())}")
        yield row


def _json_rows(document: Any, layout: Layout) -> Iterator[Any]:
    for path in layout.rows:
        found = pick(document, path)
        if layout.is_columnar:
            times, prices = pick(found, layout.time), pick(found, layout.price)
            if len(times) != len(prices):
                raise ValueError(f"{len(times)} times but {len(prices)} prices")
            for stamp, price in zip(times, prices, strict=True):
                yield {layout.time: stamp, layout.price: price}
        elif found is None:
            continue
        elif isinstance(found, list):
            yield from found
        else:
            raise ValueError(f"{path or 'the document'} is not a list of rows")


STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]|\[([^=\]]+)=([^\]]*)\]")


def pick(value: Any, path: str) -> Any:
    """Follow a path into parsed JSON: ``a.b[0].c``, and ``list[key=value]`` for the first entry with that value.

    A row that is a flat mapping may also have the whole path as its key. Raises KeyError, IndexError or ValueError.
    """
    if not path:
        return value
    if isinstance(value, dict) and path in value:
        return value[path]
    position = 0
    for match in STEP.finditer(path):
        if path[position : match.start()] not in {"", "."}:
            raise ValueError(f"path {path} cannot be followed")
        position = match.end()
        key, index, name, wanted = match.groups()
        if key is not None:
            value = value[key]
        elif index is not None:
            value = value[int(index)]
        else:
            value = next((item for item in value if str(item.get(name)) == wanted), None)
            if value is None:
                raise KeyError(f"[{name}={wanted}]")
    return value


# ---------------------------------------------------------------------------------------------------------------- times


_SECOND = timedelta(seconds=1)
_MIDNIGHT_OF_A_DAYS_END = re.compile(r"(?<![\d:.])24(:00(?::00)?)(?![\d:])")


class _Clock:
    """Converts times to Unix seconds. Local times without an offset are read in order: of an hour that occurs twice, the
    second occurrence is the one that is not later than the time before."""

    def __init__(self, layout: Layout, *, is_end: bool) -> None:
        self._layout = layout
        self._is_end = is_end
        self._zone = ZoneInfo(layout.timezone) if layout.timezone else None
        self._last = float("-inf")

    def start(self, row: _Row) -> float:
        """Unix seconds of the time of a row."""
        if row.hour is None and row.period is None:
            return self.seconds(row.time)
        length, day = self._layout.resolution_seconds or _HOUR_SECONDS, self.reading(row.time).date()
        if row.hour is not None:
            number = row.period or 1.0
            if not (1 <= row.hour <= 24 and 1 <= number <= _HOUR_SECONDS / length):
                raise ValueError(f"interval {number:g} of hour {row.hour:g} is beyond the day {day}")
            after_midnight = timedelta(hours=row.hour - 1, seconds=(number - 1) * length)
            return self._local(datetime.combine(day, time()) + after_midnight, f"hour {row.hour:g} of {day}")
        number = row.period or 0.0
        zone = self._zone or UTC
        start, end = (datetime.combine(day + timedelta(days=n), time(), zone).timestamp() for n in (0, 1))
        if not 1 <= number <= (end - start) / length:
            raise ValueError(f"interval {number:g} is beyond the {(end - start) / length:g} of {day}")
        return start + (number - 1) * length

    def seconds(self, stamp: Any) -> float:
        """Unix seconds of a time in the table."""
        if self._layout.time_format == "unix":
            return number_of(stamp)
        if self._layout.time_format == "unix_ms":
            return number_of(stamp) / 1000
        moment = self.reading(stamp)
        if moment.tzinfo is not None and not self._layout.ignores_offset:
            return moment.timestamp()
        return self._local(moment.replace(tzinfo=None), stamp)

    def reading(self, stamp: Any) -> datetime:
        """A time given as text, with its offset, if any."""
        if not isinstance(stamp, str):
            raise ValueError(f"{stamp!r} is not an ISO 8601 time")
        text, days = _MIDNIGHT_OF_A_DAYS_END.subn(r"00\1", stamp.strip())
        if "%" in self._layout.time_format:
            moment = datetime.strptime(text, self._layout.time_format)  # noqa: DTZ007 - the caller applies the zone
        else:
            moment = datetime.fromisoformat(text)
        return moment + timedelta(days=days)

    def is_falling(self, first: Any, last: Any) -> bool:
        """Whether the table is in descending order."""
        if self._layout.time_format in {"unix", "unix_ms"}:
            return False
        return self.reading(first).replace(tzinfo=None) > self.reading(last).replace(tzinfo=None)

    def _local(self, reading: datetime, stamp: str) -> float:
        if self._zone is None:
            raise ValueError(f"{stamp} has no time zone")
        first = reading.replace(tzinfo=self._zone, fold=0)
        second = reading.replace(tzinfo=self._zone, fold=1)
        seconds = first.timestamp()
        if self._shows(seconds) != reading and not (self._is_end and self._shows(seconds - 1) == reading - _SECOND):
            # An interval may end where the clock is set forward: its end is skipped, the second before it exists.
            raise ValueError(f"{stamp} does not exist in {self._layout.timezone}: the clock is set forward there")
        if seconds <= self._last:
            seconds = second.timestamp()
        self._last = seconds
        return seconds

    def _shows(self, seconds: float) -> datetime:
        """Local time of a moment."""
        return datetime.fromtimestamp(seconds, UTC).astimezone(self._zone).replace(tzinfo=None)

    def a_day_from(self, seconds: float, days: int) -> float:
        """The same local time so many days later."""
        zone = self._zone or UTC
        local = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
        return datetime.combine(local.date() + timedelta(days=days), local.time(), zone).timestamp()


def number_of(value: Any) -> float:
    """A finite number, also from text and with a decimal comma. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    if isinstance(value, str):
        compact = value.strip().replace("\u00a0", "")
        if re.fullmatch(r"[+-]?\d+,\d+", compact):
            compact = compact.replace(",", ".")
        value = compact
    try:
        result = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not isfinite(result):
        raise ValueError(f"{value!r} is not a number")
    return result


# ------------------------------------------------------------------------------------------------------------ intervals


def _intervals(rows: Sequence[_Row], layout: Layout, until_seconds: float | None) -> list[PriceInterval]:
    stamps, ends = _Clock(layout, is_end=layout.stamps_end), _Clock(layout, is_end=True)
    if stamps.is_falling(rows[0].time, rows[-1].time):
        rows = rows[::-1]
    timed = [(stamps.start(row), None if row.end in {None, ""} else ends.seconds(row.end), row.price) for row in rows]
    timed.sort(key=lambda row: row[0])
    distances = [after[0] - before[0] for before, after in pairwise(timed) if after[0] > before[0]]
    length = layout.resolution_seconds or (min(distances) if distances else None)
    result: list[PriceInterval] = []
    for index, (stamp, end, price) in enumerate(timed):
        following = timed[index + 1][0] if index + 1 < len(timed) else None
        if following == stamp:
            if price != timed[index + 1][2]:
                raise ValueError(f"two prices for {datetime.fromtimestamp(stamp, UTC):%Y-%m-%dT%H:%MZ}")
            continue
        lasts = length
        if length is not None and abs(length - _DAY_SECONDS) <= _HOUR_SECONDS:
            lasts = _day_of(stamps, stamp, following, is_end=layout.stamps_end)
        start, until = _span(stamp, end, following, lasts, layout, until_seconds)
        if result and 0.0 < start - result[-1].end_seconds <= 1.0:
            start = result[-1].end_seconds  # intervals that begin a second after the one before (Amber, Australia)
        if price is None or price == "" or until <= start:
            continue
        result.append(PriceInterval(start, until, number_of(price) * layout.factor))
    return result


def _day_of(clock: _Clock, stamp: float, following: float | None, *, is_end: bool) -> float:
    """Length of a local day, 23 or 25 hours where the clock changes. The next row shows it where the days are of another
    zone than the table's."""
    if is_end:
        return stamp - clock.a_day_from(stamp, -1)
    until = clock.a_day_from(stamp, 1)
    if following is not None and abs(following - until) <= _HOUR_SECONDS:
        until = following
    return until - stamp


def _span(
    stamp: float, end: float | None, following: float | None, length: float | None, layout: Layout, until: float | None
) -> tuple[float, float]:
    """(start, end) of the interval of one row."""
    if layout.stamps_end:
        if length is None:
            raise ValueError("one row has an end but no start: set `resolution`")
        return stamp - length, stamp
    if end is not None:
        if end <= stamp:
            raise ValueError(f"an interval ends before it starts, {datetime.fromtimestamp(stamp, UTC):%Y-%m-%dT%H:%MZ}")
        return stamp, min(end, following) if following is not None else end
    if layout.end:
        open_end = following if following is not None else until
        if open_end is None:
            raise ValueError("the last interval has no end")
        return stamp, open_end
    if length is None:
        raise ValueError("one row alone has no length: set `resolution`")
    return stamp, min(stamp + length, following) if following is not None else stamp + length
