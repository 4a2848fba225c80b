"""Unit rates of Octopus Energy (Great Britain): half-hours of Agile, days of Tracker, years of fixed tariffs.

The public API needs no key. Rates come newest first, in pages; ``valid_from`` is included, ``valid_to`` excluded, both
UTC; a rate without ``valid_to`` is in force until further notice. Prices are pence per kWh, read without VAT. The
standing charge is per day and not part of the price per kWh. Source: Octopus Energy REST API v1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief, json_of
from tpw.model import PriceInterval, Reason, SourceError
from tpw.settings.scalars import choice
from tpw.settings.shapes import Report, Scalar, setting
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.feed import Feed, price_feed
from tpw.tariff.fields import fallback_setting, max_price_setting
from tpw.tariff.layout import number_of
from tpw.tariff.local_time import utc_seconds
from tpw.tariff.schedule import Publication, Schedule
from tpw.tariff.settings import Tariff
from tpw.tariff.spans import clipped, merged

BASE = "https://api.octopus.energy"
PUBLICATION = Publication("Europe/London", time(16, 0), until=time(23, 0))
"""Agile publishes the next day at about 16:00. Its days are those of the European auction: they end at 23:00."""
MAX_PAGES = 20

_CODE = re.compile(r"E-(?P<registers>[12])R-(?P<product>[A-Z0-9-]+)-(?P<region>[A-HJ-NP])")


def product_of(tariff_code: str) -> str:
    """The product of a tariff code: ``AGILE-24-10-01`` of ``E-1R-AGILE-24-10-01-C``. Raises ValueError."""
    match = _CODE.fullmatch(tariff_code)
    if match is None:
        raise ValueError(
            f"`{tariff_code}` is not a tariff code: write one such as E-1R-AGILE-24-10-01-C, which ends in the region"
        )
    if match["registers"] == "2":
        raise ValueError(
            f"`{tariff_code}` has a day and a night rate, and their hours depend on the meter: use kind: time_of_use"
        )
    return match["product"]


def _tariff_code() -> Scalar:
    def parse(value: str) -> str:
        product_of(value)
        return value

    words = "a tariff code such as E-1R-AGILE-24-10-01-C"
    return Scalar(words, parse, {"type": "string", "pattern": "^E-1R-[A-Z0-9-]+-[A-P]$"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OctopusLayer(Layer):
    """A tariff of Octopus Energy (Great Britain, GBP), without VAT."""

    tariff_code: str = setting(_tariff_code(), "Tariff code, such as E-1R-AGILE-24-10-01-C.")
    payment_method: str = setting(
        choice("DIRECT_DEBIT", "NON_DIRECT_DEBIT"),
        "Payment method, for a tariff with prices by payment method.",
        default="DIRECT_DEBIT",
    )
    fallback_price_per_kwh: float | None = fallback_setting()
    max_price_per_kwh: float | None = max_price_setting()

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        tariff.check_currency(path, "Octopus Energy charges", ("GBP",), report)

    def source(self, tariff: Tariff, context: FeedContext) -> Feed:
        """See Layer."""
        reader = Octopus(self.tariff_code, context.fetch, self.payment_method)
        schedule = Schedule(PUBLICATION, jitter=context.jitter)
        cache = context.cache_file(reader.name, reader.identity)
        return price_feed(reader, tariff.currency, context, schedule, cache, self)


@dataclass(frozen=True, slots=True)
class Octopus:
    """Reads one tariff, with the prices of one payment method."""

    tariff_code: str
    fetch: Fetch
    payment_method: str = "DIRECT_DEBIT"
    name: str = "octopus"

    @property
    def identity(self) -> str:
        """The tariff."""
        return f"{self.tariff_code} {self.payment_method}"

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        url = (
            f"{BASE}/v1/products/{product_of(self.tariff_code)}/electricity-tariffs/{self.tariff_code}"
            f"/standard-unit-rates/?page_size=1500&period_from={_stamp(start_seconds)}&period_to={_stamp(end_seconds)}"
        )
        found: list[Any] = []
        for _ in range(MAX_PAGES):
            request = Request(url)
            page = _page(body_of(request, self.fetch(request)))
            found.extend(page["results"])
            if page.get("next") is None:
                return intervals_of(found, self.payment_method, start_seconds, end_seconds)
            url = str(page["next"])
            if urlsplit(url).netloc != urlsplit(BASE).netloc:
                raise SourceError(Reason.MALFORMED, f"the next page of {request.address} is on another host")
        raise SourceError(Reason.MALFORMED, f"more than {MAX_PAGES} pages of rates for {self.tariff_code}")


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _page(body: bytes) -> dict[str, Any]:
    page = json_of(body, "the answer with the unit rates")
    if not isinstance(page, dict) or not isinstance(page.get("results"), list):
        raise SourceError(Reason.MALFORMED, "the answer has no list of unit rates")
    return page


def intervals_of(
    results: Iterable[Any], payment_method: str, start_seconds: float, end_seconds: float
) -> tuple[PriceInterval, ...]:
    """The rates of one payment method within [start, end), in pounds per kWh. Raises SourceError."""
    found: list[PriceInterval] = []
    try:
        for row in results:
            if row.get("payment_method") not in {None, payment_method}:
                continue
            start = utc_seconds(row["valid_from"])
            end = end_seconds if row.get("valid_to") is None else utc_seconds(row["valid_to"])
            price = number_of(row["value_exc_vat"]) / 100
            if end > start:
                found.append(PriceInterval(start, end, price))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(Reason.MALFORMED, f"a unit rate cannot be read: {brief(error)}") from error
    if not found:
        raise SourceError(Reason.NOT_YET, "no unit rates are published for this time yet")
    found.sort(key=lambda rate: rate.start_seconds)
    for before, after in pairwise(found):
        if before.end_seconds > after.start_seconds:
            raise SourceError(
                Reason.MALFORMED,
                f"two unit rates are in force at {_stamp(after.start_seconds)}",
                "the tariff may have prices by payment method: set payment_method",
            )
    return merged(clipped(found, start_seconds, end_seconds))
