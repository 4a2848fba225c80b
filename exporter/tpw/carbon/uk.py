"""The carbon intensity service of Great Britain's system operator: half-hours, no key.

National figures have a forecast and, once over, an ``actual``; regional ones are forecasts only. Emissions of running
plants (average, direct), g CO2/kWh. Stamps have minute precision and a Z. At most 14 days per request.
Source: National Energy System Operator, Carbon Intensity API.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tpw.carbon import Basis, CarbonSettings
from tpw.carbon.feed import FromFeed, intensity_feed
from tpw.carbon.fields import fallback_setting
from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief, json_of
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.settings.scalars import text
from tpw.settings.shapes import setting
from tpw.tariff.context import FeedContext
from tpw.tariff.layout import number_of
from tpw.tariff.local_time import utc_seconds
from tpw.tariff.spans import merged

BASE = "https://api.carbonintensity.org.uk"
BASIS = Basis.AVERAGE_DIRECT
MAX_SECONDS = 13 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UkIntensity(CarbonSettings):
    """The Carbon Intensity service of Great Britain (basis average_direct); no key."""

    postcode: str | None = setting(
        text("an outward postcode such as RG10", pattern="[A-Z]{1,2}[0-9][0-9A-Z]?"),
        "Outward postcode, for the figures of its region.",
        default=None,
        default_words="the nation",
    )
    fallback_grams_per_kwh: float | None = fallback_setting()

    def source(self, timezone: str | None, context: FeedContext) -> FromFeed:
        """See CarbonSettings."""
        del timezone
        return intensity_feed(Uk(context.fetch, self.postcode or ""), BASIS, self.fallback_grams_per_kwh, context)


@dataclass(frozen=True, slots=True)
class Uk:
    """Reads the nation, or the region of an outward postcode (``RG10``)."""

    fetch: Fetch
    postcode: str = ""
    name: str = "uk"

    @property
    def identity(self) -> str:
        """The region."""
        return self.postcode or "national"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See tpw.tariff.feed.Reader."""
        span = f"{_stamp(max(start_seconds, end_seconds - MAX_SECONDS))}/{_stamp(end_seconds)}"
        where = f"/regional/intensity/{span}/postcode/{quote(self.postcode)}" if self.postcode else f"/intensity/{span}"
        request = Request(f"{BASE}{where}", {"Accept": "application/json"})
        return parse(body_of(request, self.fetch(request)))


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def parse(body: bytes) -> tuple[PriceInterval, ...]:
    """The half-hours of an answer, national or regional. Raises SourceError."""
    document = json_of(body, "the answer with the carbon intensity")
    try:
        rows = document["data"]
        if isinstance(rows, list) and rows and "data" in rows[0]:
            rows = rows[0]
        if isinstance(rows, dict):
            rows = rows["data"]
        found = sorted(_half_hours(rows), key=lambda interval: interval.start_seconds)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(Reason.MALFORMED, f"the carbon intensity cannot be read: {brief(error)}") from error
    if not found:
        raise SourceError(Reason.NOT_YET, "no carbon intensity for this time yet")
    return merged(found)


def _half_hours(rows: Any) -> Iterator[PriceInterval]:
    starts: set[float] = set()
    for row in rows:
        start, end = utc_seconds(row["from"]), utc_seconds(row["to"])
        actual, forecast = row["intensity"].get("actual"), row["intensity"].get("forecast")
        value = forecast if actual is None else actual
        if value is None or start in starts:
            continue
        starts.add(start)
        yield PriceInterval(start, end, number_of(value), PriceState.FORECAST if actual is None else PriceState.FINAL)
