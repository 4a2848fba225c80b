"""Lists of prices by interval, from a file or an address, and what the well-known ones look like.

One generic reader (:mod:`tpw.tariff.layout`) reads them all; a preset is a row of data. Addresses and shapes are those
the services document; all of the presets below but Tibber and the Swiss utilities are for wholesale prices, to which
network charges and levies are added as layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request
from tpw.http.secrets import bearer, read_headers
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff.layout import Layout, read_table
from tpw.tariff.schedule import Publication

_DAY_AHEAD = Publication("Europe/Berlin", time(13, 0))
"""The European day-ahead auction is published at about 13:00 Central European time."""

_TIBBER_QUERY = (
    "{viewer{homes{id currentSubscription{priceInfo(resolution:QUARTER_HOURLY)"
    "{today{total startsAt currency} tomorrow{total startsAt currency}}}}}}"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A well-known list of prices.

    ``url`` and the paths in ``layout`` may hold ``{area}`` and ``{currency}``, the url also ``{start}`` and ``{end}``,
    which are written in ``stamp`` and the preset's zone.
    """

    url: str
    layout: Layout
    currencies: tuple[str, ...]
    areas: str = ""
    """What an area is here, for people; "" where there are none."""
    stamp: str = "%Y-%m-%dT%H:%M:%SZ"
    """How ``{start}`` and ``{end}`` are written; ``unix_ms`` for milliseconds."""
    stamp_zone: str = "UTC"
    publication: Publication | None = _DAY_AHEAD
    needs_token: bool = False
    body: str = ""
    includes_vat: bool = False

    def reader(
        self,
        area: str,
        currency: str,
        fetch: Fetch,
        url: str | None = None,
        token_file: str | None = None,
        headers_file: str | None = None,
    ) -> FromAddress:
        """The reader for an area. ``url`` is for presets without an address of their own."""

        def filled(pattern: str) -> str:
            return pattern.replace("{area}", area).replace("{currency}", currency)

        layout = replace(
            self.layout, price=filled(self.layout.price), rows=tuple(filled(path) for path in self.layout.rows)
        )
        return FromAddress(
            url or filled(self.url),
            layout,
            fetch,
            self.stamp,
            self.stamp_zone,
            token_file,
            headers_file,
            self.body,
        )


PRESETS: Mapping[str, Preset] = {
    # Fraunhofer ISE, no key; always EUR/MWh, whatever the zone's currency. Start and end are local days, both included.
    "energy_charts": Preset(
        "https://api.energy-charts.info/price?bzn={area}&start={start}&end={end}",
        Layout(price="price", time="unix_seconds", is_columnar=True, time_format="unix", per_mwh=True),
        ("EUR",),
        areas="a bidding zone such as DE-LU",
        stamp="%Y-%m-%d",
        stamp_zone="Europe/Berlin",
    ),
    # Energinet, no key. Start and end are Danish local time; TimeUTC has no Z.
    "energidataservice": Preset(
        "https://api.energidataservice.dk/dataset/DayAheadPrices?start={start}&end={end}"
        "&filter=%7B%22PriceArea%22:[%22{area}%22]%7D&limit=0",
        Layout(price="DayAheadPrice{currency}", time="TimeUTC", rows=("records",), per_mwh=True),
        ("DKK", "EUR"),
        areas="DK1 or DK2",
        stamp="%Y-%m-%dT%H:%M",
        stamp_zone="Europe/Copenhagen",
    ),
    "awattar_de": Preset(
        "https://api.awattar.de/v1/marketdata?start={start}&end={end}",
        Layout(
            price="marketprice",
            time="start_timestamp",
            end="end_timestamp",
            rows=("data",),
            time_format="unix_ms",
            per_mwh=True,
        ),
        ("EUR",),
        stamp="unix_ms",
    ),
    "awattar_at": Preset(
        "https://api.awattar.at/v1/marketdata?start={start}&end={end}",
        Layout(
            price="marketprice",
            time="start_timestamp",
            end="end_timestamp",
            rows=("data",),
            time_format="unix_ms",
            per_mwh=True,
        ),
        ("EUR",),
        stamp="unix_ms",
    ),
    # Elering, no key: the Baltic states and Finland.
    "elering": Preset(
        "https://dashboard.elering.ee/api/nps/price?start={start}&end={end}",
        Layout(price="price", time="timestamp", rows=("data.{area}",), time_format="unix", per_mwh=True),
        ("EUR",),
        areas="ee, fi, lv or lt",
    ),
    # The common interface of Swiss utilities (EKZ, Groupe E, CKW ...): the utility's address is given as url.
    "swiss": Preset(
        "",
        Layout(
            price="integrated[unit=CHF_kWh].value",
            time="start_timestamp",
            end="end_timestamp",
            rows=("prices",),
            timezone="",
        ),
        ("CHF",),
        publication=Publication("Europe/Zurich", time(18, 0)),
    ),
    # Tibber: with a token; taxes and VAT included.
    "tibber": Preset(
        "https://api.tibber.com/v1-beta/gql",
        Layout(
            price="total",
            time="startsAt",
            rows=(
                "data.viewer.homes[{area}].currentSubscription.priceInfo.today",
                "data.viewer.homes[{area}].currentSubscription.priceInfo.tomorrow",
            ),
            resolution_seconds=900.0,
            timezone="",
        ),
        ("EUR", "NOK", "SEK"),
        areas="the number of the home, 0 for the first",
        needs_token=True,
        body='{"query": "' + _TIBBER_QUERY + '"}',
        includes_vat=True,
    ),
}


@dataclass(frozen=True, slots=True)
class FromAddress:
    """Reads a list over HTTP. ``url`` may hold ``{start}`` and ``{end}``."""

    url: str
    layout: Layout
    fetch: Fetch
    stamp: str = "%Y-%m-%dT%H:%M:%SZ"
    stamp_zone: str = "UTC"
    token_file: str | None = None
    """A bearer token."""
    headers_file: str | None = None
    """``Name: value`` lines."""
    body: str = ""
    name: str = "intervals"

    @property
    def identity(self) -> str:
        """The address as it is configured, and where the price is in it."""
        return f"{self.url} {self.layout.price} {','.join(self.layout.rows)}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        url = self.url.replace("{start}", self._stamp(start_seconds)).replace("{end}", self._stamp(end_seconds))
        headers = read_headers(self.headers_file)
        if self.token_file is not None:
            headers.update(bearer(self.token_file))
        body = None
        if self.body:
            body = self.body.encode()
            headers["Content-Type"] = "application/json"
        request = Request(url, headers, body)
        return read_table(body_of(request, self.fetch(request)), self.layout, until_seconds=end_seconds)

    def _stamp(self, seconds: float) -> str:
        if self.stamp == "unix_ms":
            return str(int(seconds * 1000))
        return quote(datetime.fromtimestamp(seconds, UTC).astimezone(ZoneInfo(self.stamp_zone)).strftime(self.stamp))


@dataclass(frozen=True, slots=True)
class FromFile:
    """Reads a list from a file that somebody else keeps up to date."""

    path: str
    layout: Layout
    name: str = "intervals"

    @property
    def identity(self) -> str:
        """The path, and where the price is in it."""
        return f"{self.path} {self.layout.price} {','.join(self.layout.rows)}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        del start_seconds  # a file says all it knows
        try:
            body = Path(self.path).read_bytes()
        except OSError as error:
            reason = Reason.PERMISSION if isinstance(error, PermissionError) else Reason.ABSENT
            raise SourceError(reason, f"{self.path} cannot be read: {error.strerror or error}") from error
        return read_table(body, self.layout, until_seconds=end_seconds)
