"""Electricity Maps: the mix of a zone by hour, with a token.

``history`` returns the last 24 hours and ``latest`` the current hour; both are in every plan. An hour's number is published
after the hour has begun, so the newest number is extended by one hour, marked preliminary. Estimated hours are
preliminary too. Source: Electricity Maps API v3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tpw.carbon import Basis, CarbonSettings
from tpw.carbon.feed import FromFeed, intensity_feed
from tpw.carbon.fields import fallback_setting
from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief, json_of
from tpw.http.secrets import read_token
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.settings.scalars import choice, text
from tpw.settings.shapes import FilePath, setting
from tpw.tariff.context import FeedContext
from tpw.tariff.layout import number_of
from tpw.tariff.local_time import utc_seconds
from tpw.tariff.spans import merged, overlaid

BASE = "https://api.electricitymaps.com"
BASES = {"lifecycle": Basis.AVERAGE_LIFECYCLE, "direct": Basis.AVERAGE_DIRECT}
"""The service's emission factor type -> what it means here."""

_STEPS = {"5_minutes": 300.0, "15_minutes": 900.0, "hourly": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectricityMapsIntensity(CarbonSettings):
    """Electricity Maps: the mix of a zone by hour."""

    zone: str = setting(text("a zone such as DE or US-CAL-CISO", pattern="[A-Z]{2}[A-Z0-9-]*"), "Zone of the service.")
    token_file: str = setting(FilePath(), "File with the token.")
    factors: str = setting(
        choice(*BASES),
        "Emission factors, which are the basis: average_lifecycle or average_direct.",
        default="lifecycle",
    )
    fallback_grams_per_kwh: float | None = fallback_setting()

    def source(self, timezone: str | None, context: FeedContext) -> FromFeed:
        """See CarbonSettings."""
        del timezone
        reader = ElectricityMaps(self.zone, self.token_file, context.fetch, self.factors)
        return intensity_feed(reader, BASES[self.factors], self.fallback_grams_per_kwh, context)


@dataclass(frozen=True, slots=True)
class ElectricityMaps:
    """Reads one zone."""

    zone: str
    token_file: str
    fetch: Fetch
    factors: str = "lifecycle"
    name: str = "electricity_maps"

    @property
    def identity(self) -> str:
        """Zone and kind of factors."""
        return f"{self.zone} {self.factors}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See tpw.tariff.feed.Reader. Always the last day: more is not in every plan."""
        del start_seconds, end_seconds
        history = parse(self._request("history"))
        latest = parse(self._request("latest"))
        newest = latest[-1]
        extended = PriceInterval(
            newest.end_seconds, newest.end_seconds + 3600.0, newest.price_per_kwh, PriceState.PRELIMINARY
        )
        return overlaid(overlaid(latest, history), (extended,))

    def _request(self, what: str) -> bytes:
        token = read_token(self.token_file, "a token of Electricity Maps")
        query = f"zone={quote(self.zone)}&emissionFactorType={self.factors}"
        request = Request(f"{BASE}/v3/carbon-intensity/{what}?{query}", {"auth-token": token})
        return body_of(request, self.fetch(request))


def parse(body: bytes) -> tuple[PriceInterval, ...]:
    """The hours of ``latest`` (one) or ``history`` (a list). Raises SourceError."""
    document = json_of(body, "the answer with the carbon intensity")
    try:
        rows = document.get("history", [document])
        step = _STEPS[document.get("temporalGranularity", "hourly")]
        found = sorted(_intervals(rows, step), key=lambda interval: interval.start_seconds)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(Reason.MALFORMED, f"the carbon intensity cannot be read: {brief(error)}") from error
    if not found:
        raise SourceError(Reason.NOT_YET, "no carbon intensity for this zone yet")
    return merged(found)


def _intervals(rows: Any, step: float) -> Iterator[PriceInterval]:
    starts: set[float] = set()
    for row in rows:
        start = utc_seconds(row["datetime"])
        if row.get("carbonIntensity") is None or start in starts:
            continue
        starts.add(start)
        state = PriceState.PRELIMINARY if row.get("isEstimated") else PriceState.FINAL
        yield PriceInterval(start, start + step, number_of(row["carbonIntensity"]), state)
