"""Lists of prices by interval: presets of well-known services, and any list at an address or in a file.

One generic reader (:mod:`tpw.tariff.layout`) reads them all; a preset is a row of data. Addresses and layouts are those
in the documentation of the services. All presets but Tibber and the Swiss utilities are wholesale prices, without network
charges and levies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import time

from tpw.http.messages import Fetch
from tpw.settings.scalars import choice, switch, text
from tpw.settings.shapes import BAD, Report, setting
from tpw.settings.times import MINUTES_PER_DAY
from tpw.settings.values import clock_time, duration
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Feed, Reader, price_feed
from tpw.tariff.fields import fallback_setting, includes_vat_setting, max_price_setting
from tpw.tariff.layout import Layout
from tpw.tariff.lists import FromAddress
from tpw.tariff.schedule import Publication
from tpw.tariff.settings import Tariff
from tpw.tariff.tables import Table

_DAY_AHEAD = Publication("Europe/Berlin", time(13, 0))
"""The European day-ahead auction publishes at about 13:00 Central European time."""

_AFTER_THE_FACT_SECONDS = 2400.0
"""Interval between requests to a market that publishes after the fact: below the daily limit of a feed."""
PER_MWH = 0.001
"""Factor of prices per MWh."""

_TIBBER_QUERY = (
    "{viewer{homes{id currentSubscription{priceInfo(resolution:QUARTER_HOURLY)"
    "{today{total startsAt currency} tomorrow{total startsAt currency}}}}}}"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """A well-known list of prices.

    ``url`` and the paths in ``layout`` may contain ``{area}`` and ``{currency}``; the url also ``{start}`` and ``{end}``,
    in the format ``stamp`` and the zone ``stamp_zone``.
    """

    description: str
    """Its prices, for the reference."""
    url: str
    """"" where the configuration gives it."""
    layout: Layout
    currencies: tuple[str, ...]
    areas: str = ""
    """The meaning of an area, for messages; "" where the preset has none."""
    default_area: str = ""
    """The area where none is given; "" where it is required."""
    stamp: str = "%Y-%m-%dT%H:%M:%SZ"
    """Format of ``{start}`` and ``{end}``; ``unix_ms`` for milliseconds."""
    stamp_zone: str = "UTC"
    publication: Publication | None = _DAY_AHEAD
    needs_token: bool = False
    body: str = ""
    includes_vat: bool = False

    def reader(
        self,
        area: str | None,
        currency: str,
        fetch: Fetch,
        url: str | None = None,
        token_file: str | None = None,
        headers_file: str | None = None,
    ) -> FromAddress:
        """The reader for an area. ``url`` is for presets without an address."""

        def filled(pattern: str) -> str:
            return pattern.replace("{area}", area or self.default_area).replace("{currency}", currency)

        layout = replace(
            self.layout,
            price=filled(self.layout.price),
            rows=tuple(filled(path) for path in self.layout.rows),
            units=tuple(filled(unit).lower() for unit in self.layout.units),
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
        "day-ahead, Fraunhofer ISE, no key",
        "https://api.energy-charts.info/price?bzn={area}&start={start}&end={end}",
        Layout(
            price="price",
            time="unix_seconds",
            is_columnar=True,
            time_format="unix",
            factor=PER_MWH,
            unit_field="unit",
            units=("{currency}/mwh",),
        ),
        ("EUR",),
        areas="a bidding zone such as DE-LU",
        stamp="%Y-%m-%d",
        stamp_zone="Europe/Berlin",
    ),
    # Energinet, no key. Start and end are Danish local time; TimeUTC has no Z.
    "energidataservice": Preset(
        "day-ahead, Energinet, no key",
        "https://api.energidataservice.dk/dataset/DayAheadPrices?start={start}&end={end}"
        "&filter=%7B%22PriceArea%22:[%22{area}%22]%7D&limit=0",
        Layout(price="DayAheadPrice{currency}", time="TimeUTC", rows=("records",), factor=PER_MWH),
        ("DKK", "EUR"),
        areas="DK1 or DK2",
        stamp="%Y-%m-%dT%H:%M",
        stamp_zone="Europe/Copenhagen",
    ),
    "awattar_de": Preset(
        "EPEX spot, Germany, no key",
        "https://api.awattar.de/v1/marketdata?start={start}&end={end}",
        Layout(
            price="marketprice",
            time="start_timestamp",
            end="end_timestamp",
            rows=("data",),
            time_format="unix_ms",
            factor=PER_MWH,
            unit_field="unit",
            units=("{currency}/mwh",),
        ),
        ("EUR",),
        stamp="unix_ms",
    ),
    "awattar_at": Preset(
        "EPEX spot, Austria, no key",
        "https://api.awattar.at/v1/marketdata?start={start}&end={end}",
        Layout(
            price="marketprice",
            time="start_timestamp",
            end="end_timestamp",
            rows=("data",),
            time_format="unix_ms",
            factor=PER_MWH,
            unit_field="unit",
            units=("{currency}/mwh",),
        ),
        ("EUR",),
        stamp="unix_ms",
    ),
    # Elering, no key: the Baltic states and Finland.
    "elering": Preset(
        "day-ahead, Elering, no key",
        "https://dashboard.elering.ee/api/nps/price?start={start}&end={end}",
        Layout(price="price", time="timestamp", rows=("data.{area}",), time_format="unix", factor=PER_MWH),
        ("EUR",),
        areas="ee, fi, lv or lt",
    ),
    # The common interface of Swiss utilities (EKZ, Groupe E, CKW ...): the utility's address is given as url.
    "swiss": Preset(
        "tariffs in the common format of Swiss utilities, at the `url` of the utility",
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
        "price of the contract with taxes; needs `token_file`",
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
            unit_field="currency",
            units=("{currency}",),
        ),
        ("EUR", "NOK", "SEK"),
        areas="the number of the home, 0 for the first",
        default_area="0",
        needs_token=True,
        body='{"query": "' + _TIBBER_QUERY + '"}',
        includes_vat=True,
    ),
}


_LAYOUT_KEYS = (
    "rows",
    "time",
    "hour",
    "period",
    "end",
    "price",
    "where",
    "resolution",
    "currency_field",
    "published_until",
)
_LAYOUT_DEFAULTS = {
    "header": True,
    "encoding": "utf-8",
    "format": "json",
    "time_format": "iso",
    "stamp": "start",
    "per": "kWh",
}
_LAYOUT_SWITCHES = ("columns", "minor_units", "ignore_offset", "query")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalsLayer(Table, Layer):
    """Prices by interval: a well-known list (`preset`), or any JSON, CSV or Prometheus series from a `url` or `file`."""

    preset: str | None = setting(choice(*PRESETS), "A well-known list of prices.", default=None)
    area: str | None = setting(text("an area"), "Area of the preset, such as a bidding zone.", default=None)
    price: str | None = setting(
        text("a field"), "Field or column of the price, or a path such as `parts[unit=CHF_kWh].value`.", default=None
    )
    per: str = setting(choice("kWh", "MWh"), "Unit of energy of the prices.", default="kWh")
    minor_units: bool = setting(switch(), "Prices are in hundredths of the currency: cents, pence.", default=False)
    currency_field: str | None = setting(
        text("a field"),
        "Field of the currency (`EUR`) or unit (`EUR/MWh`), of each row or of the document. Other prices than those of"
        " `tariff.currency` and `per` are refused.",
        default=None,
    )
    published_at: int | None = setting(
        clock_time(),
        "Local time of day at which tomorrow's prices are published; the list is then fetched until it has them.",
        default=None,
        default_words="by the preset; otherwise none",
    )
    published_until: int | None = setting(
        clock_time(),
        "Local time of day at which the published prices of a day end.",
        default=None,
        default_words="midnight",
    )
    includes_vat: bool = includes_vat_setting()
    hold: float | None = setting(
        duration(60.0, 86400.0),
        "For markets that publish prices after the fact: the last price stays in force for this time, as a preliminary one."
        " It is exposed; the energy is booked at its own price, when that is published.",
        default=None,
        default_words="none",
    )
    fallback_price_per_kwh: float | None = fallback_setting()
    max_price_per_kwh: float | None = max_price_setting()

    @property
    def contains_vat(self) -> bool:
        """See Layer."""
        return self.includes_vat or (self.preset is not None and PRESETS[self.preset].includes_vat)

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        given = [key for key in ("preset", "url", "file") if getattr(self, key) is not None]
        needs_url = bool(self.preset) and not PRESETS[self.preset or ""].url
        if given == ["preset"] or (needs_url and given == ["preset", "url"]):
            self._check_preset(path, tariff, report)
            return
        if len(given) != 1:
            report(path, f"give one of `preset`, `url` and `file`{f', not {len(given)}' if given else ''}")
            return
        self.check_list(path, "price", tariff.timezone, report)
        if self.area is not None:
            report(f"{path}.area", "is for a preset: write the area into the url")
        if self.published_at is not None and self.format == "prometheus":
            report(
                f"{path}.published_at", "has no effect with `format: prometheus`, which is read every minute: remove it"
            )
        elif self.published_until is not None and self.published_at is None:
            report(f"{path}.published_until", "needs `published_at`")
        elif self.published_at is not None and self.timezone is None and tariff.timezone is None:
            report(f"{path}.published_at", "needs `timezone`: the zone of that time")

    def _check_preset(self, path: str, tariff: Tariff, report: Report) -> None:
        if not self.preset:
            return
        name, preset = self.preset, PRESETS[self.preset]
        if preset.areas and self.area is None and not preset.default_area:
            report(path, f"preset {name} needs `area`: {preset.areas}")
        if not preset.areas and self.area is not None:
            report(f"{path}.area", f"has no effect with preset {name}: remove it")
        if not preset.url and self.url is None:
            report(path, f"preset {name} needs `url`: the address of the utility's tariffs")
        if preset.needs_token and self.token_file is None:
            report(path, f"preset {name} needs `token_file`")
        changed = [key for key in _LAYOUT_KEYS if getattr(self, key)]
        changed += [key for key, plain in _LAYOUT_DEFAULTS.items() if getattr(self, key) not in (plain, BAD)]
        changed += [key for key in _LAYOUT_SWITCHES if getattr(self, key)]
        if changed:
            report(f"{path}.{changed[0]}", f"preset {name} has its own layout: remove this setting, or the preset")
        tariff.check_currency(path, f"prices of {name} are", preset.currencies, report)

    def source(self, tariff: Tariff, context: FeedContext) -> Feed:
        """See Layer."""
        publication: Publication | None = None
        reader: Reader
        if self.preset is not None:
            preset = PRESETS[self.preset]
            publication, layout = preset.publication, preset.layout
            reader = preset.reader(
                self.area, tariff.currency or "", context.fetch, self.url, self.token_file, self.headers_file
            )
        else:
            unit = (PER_MWH if self.per == "MWh" else 1.0) * (0.01 if self.minor_units else 1.0)
            currency = (tariff.currency or "").lower()
            layout = replace(
                self.layout(self.price, unit, tariff.timezone),
                unit_field=self.currency_field or "",
                units=(currency, f"{currency}/{self.per.lower()}"),
            )
            reader = self.reader(layout, context)
        if self.published_at is not None:
            zone = self.timezone or tariff.timezone or "UTC"
            until = time(*divmod((self.published_until or 0) % MINUTES_PER_DAY, 60))
            publication = Publication(zone, time(*divmod(self.published_at, 60)), until)
        schedule, cache = self.schedule(publication, context), self.cache_file(context, reader, layout)
        if self.hold and self.every is None:
            schedule = replace(schedule, refresh_seconds=min(schedule.refresh_seconds, _AFTER_THE_FACT_SECONDS))
        return price_feed(reader, tariff.currency, context, schedule, cache, self, self.hold or 0.0)
