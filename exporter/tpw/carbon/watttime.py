"""WattTime: emissions of the plants that follow demand (marginal), every five minutes, with an account.

``login`` exchanges user and password for a token, valid for half an hour; ``historical`` returns the past, ``forecast`` the
future. Numbers are pounds of CO2 per MWh. Without a subscription only the region CAISO_NORTH is available. Source: WattTime
API v3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from tpw.carbon import Basis, CarbonSettings, Clock
from tpw.carbon.feed import FromFeed, intensity_feed
from tpw.carbon.fields import fallback_setting
from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief, json_of
from tpw.http.secrets import basic, read_credentials
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.settings.scalars import text
from tpw.settings.shapes import FilePath, setting
from tpw.tariff.context import FeedContext
from tpw.tariff.layout import number_of
from tpw.tariff.local_time import utc_seconds
from tpw.tariff.spans import merged, overlaid

BASE = "https://api.watttime.org"
BASIS = Basis.MARGINAL_DIRECT
GRAMS_PER_KWH = 0.45359237
"""Grams per kWh in a pound per MWh: 453.59237 g over 1000 kWh."""
STEP_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WattTimeIntensity(CarbonSettings):
    """WattTime: the plants that follow demand (basis marginal_direct), every five minutes."""

    region: str = setting(text("a region such as CAISO_NORTH", pattern="[A-Z0-9_]+"), "Region of the service.")
    account_file: str = setting(FilePath(), "File with `user:password`.")
    fallback_grams_per_kwh: float | None = fallback_setting()

    def source(self, timezone: str | None, context: FeedContext) -> FromFeed:
        """See CarbonSettings."""
        del timezone
        reader = WattTime(self.region, self.account_file, context.fetch, context.clock)
        return intensity_feed(reader, BASIS, self.fallback_grams_per_kwh, context)


@dataclass(frozen=True, slots=True)
class WattTime:
    """Reads one region. The account is a file with ``user:password``."""

    region: str
    account_file: str
    fetch: Fetch
    clock: Clock
    name: str = "watttime"

    @property
    def identity(self) -> str:
        """The region."""
        return self.region

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See tpw.tariff.feed.Reader."""
        del end_seconds  # the service sets the length of its forecast
        token = self._login()
        span = f"start={_stamp(start_seconds)}&end={_stamp(self.clock())}"
        query = f"region={quote(self.region)}&signal_type=co2_moer"
        past = parse(self._request(f"historical?{query}&{span}", token), PriceState.FINAL)
        ahead = parse(self._request(f"forecast?{query}", token), PriceState.FORECAST)
        both = overlaid(past, ahead)
        if not both:
            raise SourceError(Reason.NOT_YET, f"no marginal emissions for {self.region} yet")
        return both

    def _login(self) -> str:
        request = Request(f"{BASE}/login", basic(*read_credentials(self.account_file)))
        answer = json_of(body_of(request, self.fetch(request)), "the answer to the login")
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise SourceError(Reason.MALFORMED, f"{request.address} returned no token")
        return token

    def _request(self, what: str, token: str) -> bytes:
        request = Request(f"{BASE}/v3/{what}", {"Authorization": f"Bearer {token}"})
        return body_of(request, self.fetch(request))


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(body: bytes, state: PriceState) -> tuple[PriceInterval, ...]:
    """The points of an answer in grams per kWh, each for five minutes or to the next. Raises SourceError."""
    document = json_of(body, "the answer with the emissions")
    try:
        units = document["meta"]["units"]
        if units != "lbs_co2_per_mwh":
            raise ValueError(f"numbers are in {units}, expected lbs_co2_per_mwh")
        points = sorted((utc_seconds(row["point_time"]), number_of(row["value"])) for row in document["data"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(Reason.MALFORMED, f"the emissions cannot be read: {brief(error)}") from error
    found: list[PriceInterval] = []
    for index, (start, value) in enumerate(points):
        end = min(start + STEP_SECONDS, points[index + 1][0]) if index + 1 < len(points) else start + STEP_SECONDS
        if end > start:
            found.append(PriceInterval(start, end, value * GRAMS_PER_KWH, state))
    return merged(found)
