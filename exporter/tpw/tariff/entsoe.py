"""Day-ahead prices of the European transparency platform of ENTSO-E: document type A44.

The format (IEC 62325-451-3, and the platform's guide): a ``TimeSeries`` has ``Period``s; a period is a UTC time interval,
a resolution and points counted from 1. With curve type A03 an omitted point repeats the one before it; with A01 it is
missing. Series of several auctions of a bidding zone must not be mixed. ``contract_MarketAgreement.type`` is A01 for the
day-ahead market and A07 for the intraday auctions, which some zones (Spain) publish in the same document, also where only
A01 is requested. A sequence numbers the day-ahead auctions (Germany and Austria: 1 is the coupled European auction, 2 is
EXAA). A local day has 23, 24 or 25 hours, so the number of points follows from the period. No data is an
``Acknowledgement_MarketDocument``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief
from tpw.http.secrets import read_token
from tpw.model import PriceInterval, Reason, SourceError
from tpw.settings.scalars import whole_number
from tpw.settings.shapes import FilePath, Scalar, setting
from tpw.settings.words import did_you_mean
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Feed, price_feed
from tpw.tariff.fields import fallback_setting, max_price_setting
from tpw.tariff.local_time import utc_seconds
from tpw.tariff.schedule import Publication, Schedule
from tpw.tariff.settings import Tariff
from tpw.tariff.spans import merged, overlaid, united

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

BASE = "https://web-api.tp.entsoe.eu/api"
PUBLICATION = Publication("Europe/Berlin", time(13, 0))
DAY_AHEAD = "A01"
"""``contract_MarketAgreement.type`` of the day-ahead market. Documents of some zones leave it out."""
MAX_POINTS = 400_000
"""Several years of five-minute prices: more is a damaged period."""

ZONES = {
    "AT": "10YAT-APG------L",
    "BE": "10YBE----------2",
    "BG": "10YCA-BULGARIA-R",
    "CH": "10YCH-SWISSGRIDZ",
    "CZ": "10YCZ-CEPS-----N",
    "DE-LU": "10Y1001A1001A82H",
    "DK1": "10YDK-1--------W",
    "DK2": "10YDK-2--------M",
    "EE": "10Y1001A1001A39I",
    "ES": "10YES-REE------0",
    "FI": "10YFI-1--------U",
    "FR": "10YFR-RTE------C",
    "GR": "10YGR-HTSO-----Y",
    "HR": "10YHR-HEP------M",
    "HU": "10YHU-MAVIR----U",
    "IE-SEM": "10Y1001A1001A59C",
    "IT-NORTH": "10Y1001A1001A73I",
    "LT": "10YLT-1001A0008Q",
    "LV": "10YLV-1001A00074",
    "NL": "10YNL----------L",
    "NO1": "10YNO-1--------2",
    "NO2": "10YNO-2--------T",
    "NO3": "10YNO-3--------J",
    "NO4": "10YNO-4--------9",
    "NO5": "10Y1001A1001A48H",
    "PL": "10YPL-AREA-----S",
    "PT": "10YPT-REN------W",
    "RO": "10YRO-TEL------P",
    "SE1": "10Y1001A1001A44P",
    "SE2": "10Y1001A1001A45N",
    "SE3": "10Y1001A1001A46L",
    "SE4": "10Y1001A1001A47J",
    "SI": "10YSI-ELES-----O",
    "SK": "10YSK-SEPS-----K",
}
"""Bidding zones by their usual names; any other is given by its code."""

_EIC = re.compile(r"[0-9]{2}[A-Z][0-9A-Z-]{12}[0-9A-Z-]")
_RESOLUTION = re.compile(r"PT(\d+)([MH])|P1D")
_EIC_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"


def area_code(area: str) -> str:
    """The energy identification code of an area given by name or code. Raises ValueError."""
    code = ZONES.get(area, area)
    if not _EIC.fullmatch(code) or eic_check_letter(code[:15]) != code[15]:
        raise ValueError(
            f"`{area}` is not a bidding zone: give a name such as DE-LU or FR, or a code such as {ZONES['FR']}"
        )
    return code


def eic_check_letter(first_fifteen: str) -> str:
    """The sixteenth letter of an energy identification code (ENTSO-E, EIC reference manual)."""
    total = sum(_EIC_LETTERS.index(letter) * (16 - index) for index, letter in enumerate(first_fifteen))
    return _EIC_LETTERS[36 - (total - 1) % 37]


def _bidding_zone() -> Scalar:
    def parse(value: str) -> str:
        try:
            area_code(value)
        except ValueError as error:
            raise ValueError(f"{error}{did_you_mean(value, ZONES)}") from None
        return value

    return Scalar("a bidding zone such as DE-LU", parse, {"type": "string", "minLength": 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class EntsoeLayer(Layer):
    """Day-ahead prices of a European bidding zone, from the ENTSO-E transparency platform."""

    area: str = setting(_bidding_zone(), "Bidding zone, by name (DE-LU, FR, NO2) or code (10YFR-RTE------C).")
    token_file: str = setting(FilePath(), "File with the security token of the platform.")
    sequence: int = setting(
        whole_number("the number of an auction", minimum=1, maximum=9),
        "Number of the auction, where the zone has several: 1 is the coupled European auction.",
        default=1,
    )
    fallback_price_per_kwh: float | None = fallback_setting()
    max_price_per_kwh: float | None = max_price_setting()

    def source(self, tariff: Tariff, context: FeedContext) -> Feed:
        """See Layer."""
        reader = Entsoe(self.area, self.token_file, tariff.currency or "", context.fetch, self.sequence)
        schedule = Schedule(PUBLICATION, jitter=context.jitter)
        cache = context.cache_file(reader.name, reader.identity)
        return price_feed(reader, tariff.currency, context, schedule, cache, self)


@dataclass(frozen=True, slots=True)
class Entsoe:
    """Reads one auction (``sequence``) of a bidding zone."""

    area: str
    token_file: str
    currency: str
    fetch: Fetch
    sequence: int = 1
    name: str = "entsoe"

    @property
    def identity(self) -> str:
        """Zone and auction."""
        return f"{area_code(self.area)} sequence {self.sequence}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        area = area_code(self.area)
        period = f"periodStart={_stamp(start_seconds)}&periodEnd={_stamp(end_seconds)}"
        token = read_token(self.token_file, "a security token of the transparency platform")
        url = f"{BASE}?documentType=A44&contract_MarketAgreement.type={DAY_AHEAD}&in_Domain={area}&out_Domain={area}"
        url += f"&{period}&securityToken={token}"
        request = Request(url)
        response = self.fetch(request)
        if response.status == 400 and b"Acknowledgement_MarketDocument" in response.body:
            return parse(response.body, self.currency, self.sequence)
        return parse(body_of(request, response), self.currency, self.sequence)


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M")


# -------------------------------------------------------------------------------------------------------------- reading


def parse(body: bytes, currency: str, sequence: int = 1) -> tuple[PriceInterval, ...]:
    """Prices per kWh of a document: those of one auction, finer resolutions over coarser. Raises SourceError."""
    root = _document(body)
    kind = _name(root)
    if kind == "Acknowledgement_MarketDocument":
        raise _acknowledged(root)
    if kind != "Publication_MarketDocument":
        raise SourceError(Reason.MALFORMED, f"the answer is a {kind}, not a Publication_MarketDocument")
    try:
        found = [series for series in _children(root, "TimeSeries") if _is_of(series, sequence)]
        for series in found:
            _check_unit(series, currency)
        periods = [
            _period(period, _text(series, "curveType")) for series in found for period in _children(series, "Period")
        ]
    except (ValueError, OverflowError) as error:
        raise SourceError(Reason.MALFORMED, f"the price document cannot be read: {brief(error)}") from error
    if not periods:
        raise SourceError(
            Reason.NOT_YET, f"the price document has no series of auction {sequence}", "check `sequence`, or wait"
        )
    result: tuple[PriceInterval, ...] = ()
    for _, of_one_resolution in groupby(sorted(periods, key=lambda period: -period[0]), key=lambda period: period[0]):
        try:
            result = overlaid(united(prices for _, prices in of_one_resolution), result)
        except ValueError as error:
            hint = "the document mixes auctions: set `sequence` to the one of your contract"
            raise SourceError(Reason.MALFORMED, str(error), hint) from error
    return result


def _document(body: bytes) -> Element:
    from xml.etree import ElementTree as ET

    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise SourceError(Reason.MALFORMED, "the answer declares XML entities, which a price document does not")
    try:
        return ET.fromstring(body)  # noqa: S314 - no entities (above), bounded in size by the fetch
    except (ET.ParseError, LookupError, ValueError) as error:  # the latter two: of an unknown encoding
        raise SourceError(Reason.MALFORMED, f"the answer is not XML: {error}") from error


def _acknowledged(root: Element) -> SourceError:
    """The platform's answer in place of data. Code 999 is "no matching data found", and also most errors."""
    reason = next(_children(root, "Reason"), None)
    message = "" if reason is None else (_text(reason, "text", "") or _text(reason, "code", ""))
    excerpt = " ".join(message.split())[:160]
    if "no matching data" in message.lower() or not message:
        return SourceError(Reason.NOT_YET, f"the transparency platform has no prices for this time: {excerpt}")
    return SourceError(Reason.MALFORMED, f"the transparency platform refused the request: {excerpt}")


def _name(element: Element) -> str:
    """The local name: the namespace has a version, which changes."""
    return element.tag.rpartition("}")[2]


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if _name(child) == name)


def _text(element: Element, name: str, default: str | None = None) -> str:
    child = next(_children(element, name), None)
    if child is None or child.text is None:
        if default is None:
            raise ValueError(f"{_name(element)} without {name}")
        return default
    return child.text.strip()


def _is_of(series: Element, sequence: int) -> bool:
    """Whether a series is of the day-ahead auction of that number; a document may have neither markets nor numbers."""
    number = _text(series, "classificationSequence_AttributeInstanceComponent.position", "")
    market = _text(series, "contract_MarketAgreement.type", DAY_AHEAD)
    return market == DAY_AHEAD and (not number or int(number) == sequence)


def _check_unit(series: Element, currency: str) -> None:
    unit, found = _text(series, "price_Measure_Unit.name", "MWH"), _text(series, "currency_Unit.name", "EUR")
    if unit != "MWH":
        raise ValueError(f"prices are per {unit}, expected MWH")
    if found != currency:
        raise ValueError(f"prices are in {found}, but tariff.currency is {currency}")


def _period(period: Element, curve: str) -> tuple[float, tuple[PriceInterval, ...]]:
    """(resolution, prices) of a period."""
    interval = next(_children(period, "timeInterval"), None)
    if interval is None:
        raise ValueError("Period without timeInterval")
    start, end = (utc_seconds(_text(interval, name)) for name in ("start", "end"))
    step = _resolution_seconds(_text(period, "resolution"))
    count = round((end - start) / step)
    if count < 1 or count > MAX_POINTS or start + count * step != end:
        raise ValueError(f"a period of {end - start:g} s cannot be cut into pieces of {step:g} s")
    points = dict(_points(_children(period, "Point"), count))
    prices: list[PriceInterval] = []
    price: float | None = None
    for position in range(1, count + 1):
        price = points.get(position, price if curve == "A03" else None)
        if price is not None:
            at = start + (position - 1) * step
            prices.append(PriceInterval(at, at + step, price / 1000))
    return step, merged(prices)


def _points(points: Iterable[Element], count: int) -> Iterator[tuple[int, float]]:
    found: set[int] = set()
    for point in points:
        position = int(_text(point, "position"))
        if not 1 <= position <= count:
            raise ValueError(f"point {position} is beyond the {count} points of its period")
        if position in found:
            raise ValueError(f"point {position} occurs twice")
        found.add(position)
        price = float(_text(point, "price.amount"))
        if not isfinite(price):
            raise ValueError(f"point {position} is {price}")
        yield position, price


def _resolution_seconds(text: str) -> float:
    match = _RESOLUTION.fullmatch(text)
    if match is None:
        raise ValueError(f"resolution {text}")
    if match.group(1) is None:
        return 86400.0
    return int(match.group(1)) * (60.0 if match.group(2) == "M" else 3600.0)
