"""Every feed in every case: a table of feeds by cases.

The tests write bodies in the form of each service, for local days of 23, 24 and 25 hours, and read them through its
reader. The bodies of presets follow from their layouts.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tpw.carbon.electricity_maps import ElectricityMaps
from tpw.carbon.intervals import GRAMS
from tpw.carbon.uk import Uk
from tpw.carbon.watttime import GRAMS_PER_KWH, WattTime
from tpw.http.messages import Answer, Fetch, Request
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.entsoe import Entsoe
from tpw.tariff.feed import Reader
from tpw.tariff.intervals import PER_MWH, PRESETS
from tpw.tariff.layout import STEP, Layout
from tpw.tariff.lists import FromAddress
from tpw.tariff.octopus import Octopus
from tpw.tariff.prometheus import FromPrometheus
from tpw.tariff.spans import clipped, merged

BERLIN = ZoneInfo("Europe/Berlin")
DAYS = {"92": "2026-03-29", "96": "2026-06-15", "100": "2026-10-25"}
"""Quarter-hours of a local day -> the day."""


@dataclass(frozen=True)
class Row:
    """A number of the service; None for a row without one."""

    start: float
    end: float
    number: float | None


Rows = Sequence[Row]
Stamp = Callable[[float], str]


def zulu(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def offset(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, BERLIN).isoformat(timespec="minutes")


def bare(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M")


def entsoe(rows: Rows, stamp: Stamp) -> bytes:
    """Curve type A01: an omitted point is missing. One period."""
    first, last = rows[0].start, rows[-1].end
    points = "".join(
        f"<Point><position>{round((row.start - first) / 900) + 1}</position>"
        + ("" if row.number is None else f"<price.amount>{row.number}</price.amount>")
        + "</Point>"
        for row in rows
    )
    return (
        '<Publication_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3"><TimeSeries>'
        "<currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name>"
        f"<curveType>A01</curveType><Period><timeInterval><start>{stamp(first)}</start><end>{stamp(last)}</end>"
        f"</timeInterval><resolution>PT15M</resolution>{points}</Period></TimeSeries></Publication_MarketDocument>"
    ).encode()


def octopus(rows: Rows, stamp: Stamp) -> bytes:
    """Newest first."""
    results = [
        {
            "value_exc_vat": row.number,
            "valid_from": stamp(row.start),
            "valid_to": stamp(row.end),
            "payment_method": None,
        }
        for row in reversed(rows)
    ]
    return json.dumps({"count": len(rows), "next": None, "previous": None, "results": results}).encode()


def steps_of(path: str) -> list[tuple[str, ...]]:
    return [match.groups() for match in STEP.finditer(path)]


def nested(path: str, value: Any) -> Any:
    """A document with a value at a path of a layout."""
    for key, index, name, wanted in reversed(steps_of(path)):
        if key is not None:
            value = {key: value}
        elif index is not None:
            value = [*[None] * int(index), value]
        else:
            value = [{name: f"not {wanted}"}, {name: wanted, **value}]
    return value


def joined(first: Any, second: Any) -> Any:
    """Two nested documents in one."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: joined(first.get(key), second.get(key)) for key in {**first, **second}}
    if isinstance(first, list) and isinstance(second, list):
        return [joined(*pair) for pair in zip_longest(first, second)]
    return second if first is None else first


def unit_of(layout: Layout) -> dict[str, str]:
    return {layout.unit_field: layout.units[0]} if layout.unit_field else {}


def listing(layout: Layout) -> Callable[[Rows, Stamp], bytes]:
    """Writes bodies in a layout of JSON."""

    def written(seconds: float, stamp: Stamp) -> Any:
        factors = {"unix": 1, "unix_ms": 1000}
        return seconds * factors[layout.time_format] if layout.time_format in factors else stamp(seconds)

    def fields_of(row: Row, stamp: Stamp) -> Any:
        fields = joined(nested(layout.time, written(row.start, stamp)), nested(layout.price, row.number))
        fields = joined(fields, unit_of(layout))
        return joined(fields, nested(layout.end, written(row.end, stamp))) if layout.end else fields

    def body(rows: Rows, stamp: Stamp) -> bytes:
        if layout.is_columnar:
            times = [written(row.start, stamp) for row in rows]
            columns = {layout.time: times, layout.price: [row.number for row in rows]}
            columns |= unit_of(layout)
            return json.dumps(nested(layout.rows[0], columns)).encode()
        found = [fields_of(row, stamp) for row in rows]
        share = -(-len(found) // len(layout.rows))
        parts = [found[n * share : (n + 1) * share] for n in range(len(layout.rows))]
        lists = [nested(path, part) for path, part in zip(layout.rows, parts, strict=True)]
        return json.dumps(reduce(joined, lists)).encode()

    return body


def own_csv(rows: Rows, stamp: Stamp) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["t", "p"])
    writer.writerows([[stamp(row.start), "" if row.number is None else row.number] for row in rows])
    return text.getvalue().encode()


def prometheus(rows: Rows, stamp: Stamp) -> bytes:
    values = [[row.start, "NaN" if row.number is None else repr(row.number)] for row in rows]
    data = {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
    return json.dumps({"status": "success", "data": data}).encode()


def uk(rows: Rows, stamp: Stamp) -> bytes:
    data = [
        {"from": stamp(row.start), "to": stamp(row.end), "intensity": {"forecast": row.number, "actual": row.number}}
        for row in rows
    ]
    return json.dumps({"data": data}).encode()


def electricity_maps(rows: Rows, stamp: Stamp) -> bytes:
    history = [{"datetime": stamp(row.start), "carbonIntensity": row.number} for row in rows]
    return json.dumps({"zone": "DE", "history": history, "temporalGranularity": "hourly"}).encode()


def watttime(rows: Rows, stamp: Stamp) -> bytes:
    data = [{"point_time": stamp(row.start), "value": row.number} for row in rows]
    return json.dumps({"data": data, "meta": {"units": "lbs_co2_per_mwh"}}).encode()


@dataclass(frozen=True)
class Service:
    """A feed: its reader, the form of its bodies, the length of its intervals, and its differences in the cases."""

    reader: Callable[[Fetch, str], Reader]
    body: Callable[[Rows, Stamp], bytes]
    step: float = 900.0
    factor: float = 0.001
    """From its numbers to those per kWh."""
    stamp: Stamp | None = zulu
    """Format of its times. None: numbers, which have no zone."""
    without_number: str = "missing"
    """A row with null as its number: ``missing`` or ``refused``."""
    without_zone: str = "refused"
    """A time without a zone: ``refused``, or ``utc`` by the service or the configuration."""


def own(**layout: object) -> Callable[[Fetch, str], Reader]:
    table = Layout(**OWN, **layout)  # type: ignore[arg-type]
    return lambda fetch, secret: FromAddress("https://list.example/", table, fetch)


OWN: dict[str, Any] = {"price": "p", "time": "t", "factor": PER_MWH}


def preset(name: str) -> Service:
    row = PRESETS[name]
    area, currency, url = row.default_area or "area", row.currencies[0], "https://utility.example/prices"

    def reader(fetch: Fetch, secret: str) -> FromAddress:
        return row.reader(area, currency, fetch, url, secret if row.needs_token else None)

    layout = reader(lambda request: pytest.fail("not fetched"), "").layout
    is_number = layout.time_format in {"unix", "unix_ms"}
    return Service(
        reader,
        listing(layout),
        factor=layout.factor,
        stamp=None if is_number else zulu,
        without_zone="utc" if layout.timezone else "refused",
    )


FEEDS: dict[str, Service] = {
    "entsoe": Service(lambda fetch, secret: Entsoe("DE-LU", secret, "EUR", fetch), entsoe, without_number="refused"),
    "octopus": Service(
        lambda fetch, secret: Octopus("E-1R-AGILE-24-10-01-C", fetch), octopus, 1800, 0.01, without_number="refused"
    ),
    **{name: preset(name) for name in PRESETS},
    "json": Service(own(), listing(Layout(**OWN)), without_zone="utc"),
    "csv": Service(own(is_csv=True), own_csv, without_zone="utc"),
    "prometheus": Service(
        lambda fetch, secret: FromPrometheus("https://p.example", "price", fetch, 900.0, 0.001), prometheus, stamp=None
    ),
    "uk": Service(lambda fetch, secret: Uk(fetch), uk, 1800, 1.0),
    "electricity_maps": Service(
        lambda fetch, secret: ElectricityMaps("DE", secret, fetch), electricity_maps, 3600, 1.0
    ),
    "watttime": Service(
        lambda fetch, secret: WattTime("CAISO_NORTH", secret, fetch, lambda: 0.0),
        watttime,
        300,
        GRAMS_PER_KWH,
        without_number="refused",
    ),
    "carbon list": Service(
        lambda fetch, secret: FromAddress("https://list.example/", Layout("p", "t", factor=GRAMS["lb/MWh"]), fetch),
        listing(Layout("p", "t")),
        factor=GRAMS_PER_KWH,
        without_zone="utc",
    ),
}


@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret").write_text("user:password")
    return str(tmp_path / "secret")


def answering(response: Answer) -> Fetch:
    """The same answer to every request, except the login and the forecast of WattTime."""

    def fetch(request: Request) -> Answer:
        if request.url.endswith("/login"):
            return Answer(200, b'{"token": "t"}')
        if "/forecast?" in request.url:
            return Answer(200, b'{"data": [], "meta": {"units": "lbs_co2_per_mwh"}}')
        return response

    return fetch


def day_of(service: Service, day: str) -> list[Row]:
    """Numbers of a local day: a quarter of them negative, some repeated."""
    start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    end = datetime.combine(start.date() + timedelta(days=1), start.time(), BERLIN)
    begin, length = start.timestamp(), end.timestamp() - start.timestamp()
    numbers = random.Random(day)
    rows, number = [], 0.0
    for n in range(round(length / service.step)):
        if n % 3 != 1:
            number = float(numbers.randint(-60, 200))
        rows.append(Row(begin + n * service.step, begin + (n + 1) * service.step, number))
    return rows


def read(service: Service, rows: Rows, secret: str, stamp: Stamp | None = None) -> Sequence[PriceInterval]:
    body = service.body(rows, stamp or service.stamp or zulu)
    start, end = rows[0].start, rows[-1].end
    found = service.reader(answering(Answer(200, body)), secret).read(start, end)
    return clipped(found, start, end)


def shape(intervals: Sequence[PriceInterval]) -> list[tuple[float, float, float]]:
    """Without their states, which differ between services."""
    plain = merged(
        PriceInterval(item.start_seconds, item.end_seconds, round(item.price_per_kwh, 9)) for item in intervals
    )
    return [(item.start_seconds, item.end_seconds, item.price_per_kwh) for item in plain]


def expected(service: Service, rows: Rows) -> list[tuple[float, float, float]]:
    """The intervals of the rows."""
    return shape(
        [PriceInterval(row.start, row.end, row.number * service.factor) for row in rows if row.number is not None]
    )


every_feed = pytest.mark.parametrize("name", FEEDS)


@every_feed
@pytest.mark.parametrize("quarters", DAYS)
def test_a_local_day_is_read_in_its_true_length_with_negative_numbers(name: str, quarters: str, secret: str) -> None:
    service = FEEDS[name]
    rows = day_of(service, DAYS[quarters])
    found = shape(read(service, rows, secret))
    assert found == expected(service, rows)
    assert sum(end - start for start, end, _ in found) / 900 == int(quarters)
    assert min(number for _, _, number in found) < 0


@every_feed
def test_missing_rows_are_time_without_a_number(name: str, secret: str) -> None:
    """Without two rows of the hour that occurs twice, and one at noon."""
    service = FEEDS[name]
    rows = day_of(service, DAYS["100"])
    at = round(3 * 3600 / service.step)
    rows = [row for n, row in enumerate(rows) if n not in {at, at + 1, 3 * at}]
    assert shape(read(service, rows, secret)) == expected(service, rows)


@every_feed
def test_a_row_without_a_number_is_missing_or_refused(name: str, secret: str) -> None:
    service = FEEDS[name]
    rows = [
        Row(row.start, row.end, None if n == 3 else row.number) for n, row in enumerate(day_of(service, DAYS["96"]))
    ]
    if service.without_number == "refused":
        with pytest.raises(SourceError) as raised:
            read(service, rows, secret)
        assert raised.value.reason is Reason.MALFORMED
    else:
        assert shape(read(service, rows, secret)) == expected(service, rows)


@every_feed
def test_times_with_an_offset_are_read_by_it(name: str, secret: str) -> None:
    service = FEEDS[name]
    rows = day_of(service, DAYS["100"])
    if service.stamp is None:
        assert service.body(rows, zulu) == service.body(rows, offset)
    assert shape(read(service, rows, secret, offset)) == expected(service, rows)


@every_feed
def test_times_without_a_zone_are_refused_unless_the_service_or_the_settings_define_it(name: str, secret: str) -> None:
    service = FEEDS[name]
    rows = day_of(service, DAYS["96"])
    if service.stamp is None:
        assert service.body(rows, zulu) == service.body(rows, bare)
    elif service.without_zone == "utc":
        assert shape(read(service, rows, secret, bare)) == expected(service, rows)
    else:
        with pytest.raises(SourceError, match="has no time zone") as raised:
            read(service, rows, secret, bare)
        assert raised.value.reason is Reason.MALFORMED


@every_feed
@pytest.mark.parametrize("share", [0.0, 0.4, 0.95])
def test_a_body_that_ends_early_is_refused(name: str, share: float, secret: str) -> None:
    service = FEEDS[name]
    rows = day_of(service, DAYS["96"])
    body = service.body(rows, service.stamp or zulu)
    reader = service.reader(answering(Answer(200, body[: int(len(body) * share)])), secret)
    with pytest.raises(SourceError) as raised:
        reader.read(rows[0].start, rows[-1].end)
    assert raised.value.reason in {Reason.MALFORMED, Reason.NOT_YET}


def test_a_csv_truncated_at_the_end_of_a_line_is_read_in_part(secret: str) -> None:
    """The text is valid; over HTTP its length shows that it is truncated."""
    service = FEEDS["csv"]
    rows = day_of(service, DAYS["96"])
    lines = service.body(rows, zulu).splitlines(keepends=True)
    reader = service.reader(answering(Answer(200, b"".join(lines[:41]))), secret)
    assert shape(reader.read(rows[0].start, rows[-1].end)) == expected(service, rows[:40])


ACKNOWLEDGEMENT = (Path(__file__).parents[2] / "captures" / "tariff" / "entsoe-acknowledgement.xml").read_bytes()

ANSWERS: dict[str, tuple[Answer, set[Reason]]] = {
    "204": (Answer(204, b""), {Reason.NOT_YET}),
    "HTTP 401": (Answer(401, b"no"), {Reason.UNAUTHORIZED}),
    "HTTP 404": (Answer(404, b"no"), {Reason.ABSENT}),
    "HTTP 429": (Answer(429, b"slow down"), {Reason.BROKEN}),
    "HTTP 500": (Answer(500, b"<h1>sorry</h1>"), {Reason.BROKEN}),
    "acknowledgement": (Answer(200, ACKNOWLEDGEMENT), {Reason.MALFORMED, Reason.NOT_YET}),
    "page": (Answer(200, b"<!DOCTYPE html><html><body>Please log in</body></html>"), {Reason.MALFORMED}),
    "10 MB of garbage": (Answer(200, bytes(range(256)) * 40_000), {Reason.MALFORMED}),
    "7 MB of garbage": (Answer(200, bytes(range(1, 256)) * 28_000), {Reason.MALFORMED}),
    "nothing": (Answer(200, b""), {Reason.MALFORMED}),
    "null": (Answer(200, b"null"), {Reason.MALFORMED, Reason.NOT_YET}),
    "number": (Answer(200, b"42"), {Reason.MALFORMED}),
    "empty list": (Answer(200, b"[]"), {Reason.MALFORMED, Reason.NOT_YET}),
    "empty object": (Answer(200, b"{}"), {Reason.MALFORMED, Reason.NOT_YET}),
    "nested": (Answer(200, b"[" * 200_000), {Reason.MALFORMED}),
}


@every_feed
@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_without_numbers_is_an_error_with_a_reason(name: str, answer: str, secret: str) -> None:
    response, reasons = ANSWERS[answer]
    reader = FEEDS[name].reader(answering(response), secret)
    with pytest.raises(SourceError) as raised:
        reader.read(1781481600.0, 1781568000.0)
    assert raised.value.reason in reasons
    assert len(raised.value.detail) < 500


@every_feed
def test_an_unreachable_service_is_reported_as_such(name: str, secret: str) -> None:
    def unreachable(request: Request) -> Answer:
        raise SourceError(Reason.UNREACHABLE, f"{request.address} cannot be reached")

    with pytest.raises(SourceError) as raised:
        FEEDS[name].reader(unreachable, secret).read(1781481600.0, 1781568000.0)
    assert raised.value.reason is Reason.UNREACHABLE


def test_an_interval_with_null_as_its_end_is_open(secret: str) -> None:
    """Octopus has such intervals, and other lists may."""
    start, end = 1781481600.0, 1781568000.0
    results = [{"value_exc_vat": 20.0, "valid_from": zulu(start - 9e6), "valid_to": None, "payment_method": None}]
    agile = FEEDS["octopus"].reader(answering(Answer(200, json.dumps({"results": results}).encode())), secret)
    assert shape(agile.read(start, end)) == [(start, end, 0.2)]
    rows = [{"t": zulu(start), "e": zulu(start + 3600), "p": 1}, {"t": zulu(start + 3600), "e": None, "p": 2}]
    table = FromAddress(
        "https://list.example/", Layout("p", "t", "e"), answering(Answer(200, json.dumps(rows).encode()))
    )
    assert shape(table.read(start, end)) == [(start, start + 3600, 1.0), (start + 3600, end, 2.0)]
