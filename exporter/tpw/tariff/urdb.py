"""Rates of the OpenEI Utility Rate Database (United States): a JSON item from the API, its web page or a file.

Real items differ: keys in several spellings of case, items bare or inside ``items``, missing demand blocks. The database
has no time zone and no holidays; both are configured, and a holiday counts as a weekend. All money is in USD.

Source: OpenEI, "Utility Rates" API, versions 7 and 8. ``adj`` and the month's fuel adjustment are added to ``rate``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from tpw.http.fetch import body_of
from tpw.http.messages import Fetch, Request, brief, json_of
from tpw.http.secrets import read_token
from tpw.model import PriceInterval, PriceState, Reason, SourceError
from tpw.settings.scalars import choice, number, text
from tpw.settings.shapes import FilePath, ListOf, Report, setting
from tpw.tariff import Layer
from tpw.tariff.context import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.feed import Feed, price_feed
from tpw.tariff.fields import includes_vat_setting
from tpw.tariff.holidays import IsHoliday, is_holiday
from tpw.tariff.local_time import DAY_SECONDS, calendar_day, stretches
from tpw.tariff.schedule import DAILY_LIMIT, Schedule
from tpw.tariff.settings import Tariff
from tpw.tariff.spans import merged
from tpw.tariff.tiers import Tier, steps_of, tier_at
from tpw.tariff.urdb_fields import fates, is_nonzero, minimum_bill_per_month, not_included, unsupported_terms

API = "https://api.openei.org/utility_rates"
HOUR_SECONDS = 3600
_SATURDAY = 5

Matrix = tuple[tuple[int, ...], ...]
"""12 months of 24 local clock hours: the period in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UrdbLayer(Layer):
    """A rate of the OpenEI Utility Rate Database (United States, USD), from a file or by its label."""

    file: str | None = setting(FilePath(), "File with the rate as JSON.", default=None)
    label: str | None = setting(
        text("the label of a rate", pattern="[0-9a-f]{24}", advice="24 hexadecimal digits"),
        "Label of the rate: fetched from OpenEI with `api_key_file`, or chosen from a `file` with several.",
        default=None,
    )
    api_key_file: str | None = setting(FilePath(), "File with the key for OpenEI.", default=None)
    monthly_kwh: float | None = setting(
        number("a number of kWh", minimum=0.0),
        "Consumption of the whole meter in a month, which selects the tier of a further kWh.",
        default=None,
        default_words="tiers by the kWh of the billing month that the exporter sees",
    )
    charges: frozenset[str] = setting(
        ListOf(choice("demand", "fixed"), "a list of charges", or_one=True, gather=frozenset),
        "Other charges of the rate to include: `demand` (peaks by hours, seasons and blocks), `fixed`. One with"
        " unsupported terms is not included, and named with its size.",
        default=frozenset(),
        default_words="the price per kWh alone",
    )
    power_factor: float | None = setting(
        number("a power factor such as 0.95", above=0.0, maximum=1.0),
        "Power factor, for a rate with a demand charge per kVA.",
        default=None,
        default_words="such a charge is not included",
    )
    includes_vat: bool = includes_vat_setting()

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """See Layer."""
        tariff.check_timezone(report)
        tariff.check_currency(path, "rates of this database are", ("USD",), report)
        for charge in ("demand", "fixed"):
            if charge in (self.charges or ()) and getattr(tariff, charge):
                report(f"tariff.{charge}", f"is charged twice, here and by `{path}.charges`: remove one of them")
        if self.file is None and self.label is None:
            report(path, "has no rate: give `file`, or `label` and `api_key_file`")
        elif self.file is None and self.api_key_file is None:
            report(f"{path}.label", "needs `api_key_file` to fetch the rate; or save the rate and give `file`")
        elif self.file is not None and self.api_key_file is not None:
            report(f"{path}.api_key_file", "has no effect with `file`, which is not fetched: remove it")

    def fields_of_rate(self) -> dict[str, list[str]]:
        """See Layer."""
        if self.file is None:
            return {}
        try:
            item = item_of(from_file(self.file)(), self.label or "")
        except SourceError:
            return {}
        return fates(item, self.charges)

    def notes(self, tariff: Tariff) -> Sequence[str]:
        """Charges of the rate in a file that no figure includes."""
        if self.file is None:
            return ()
        charges = self._contract(tariff, is_holiday(self.holidays, self.holidays_region))
        with contextlib.suppress(SourceError):  # then there is no price, which is a problem, not a note
            rate = parse(from_file(self.file)(), self.label or "")
            return (*(charges(rate).excluded if charges is not None else ()), *rate.excluded)
        return ()

    def source(self, tariff: Tariff, context: FeedContext) -> Feed:
        """See Layer."""
        label, is_file, timezone = self.label or "", self.file is not None, tariff.timezone or "UTC"
        calendar = f"{tariff.timezone} {sorted(self.holidays)} {self.holidays_region}"
        identity = f"{self.file or 'openei'} {label} {self.monthly_kwh} {calendar}"
        holidays = is_holiday(self.holidays, self.holidays_region)
        reader = UrdbReader(
            from_file(self.file) if self.file is not None else from_api(label, self.api_key_file or "", context.fetch),
            identity,
            timezone,
            label,
            monthly_kwh=self.monthly_kwh,
            is_holiday=holidays,
            charges=self._contract(tariff, holidays),
            rate_cache=None if is_file else context.cache_file("urdb-rate", identity),
        )
        schedule = Schedule(
            refresh_seconds=60.0 if is_file else 86400.0,
            pending_seconds=60.0 if is_file else 600.0,
            jitter=context.jitter,
            daily_limit=None if is_file else DAILY_LIMIT,
        )
        cache = None if is_file else context.cache_file(reader.name, identity)
        return price_feed(reader, tariff.currency, context, schedule, cache)

    def _contract(self, tariff: Tariff, holidays: IsHoliday | None) -> Callable[[Rate], Contract] | None:
        if not self.charges:
            return None
        from tpw.tariff.urdb_charges import contract_of

        timezone = tariff.timezone or "UTC"
        return partial(
            contract_of,
            wanted=self.charges,
            months=tariff.months(),
            timezone=timezone,
            is_holiday=holidays,
            power_factor=self.power_factor,
        )


@dataclass(frozen=True, slots=True)
class Charges:
    """Periods, each with its tiers, and the period of each hour. Energy per kWh, demand per kW and month."""

    periods: tuple[tuple[Tier, ...], ...]
    weekday: Matrix
    weekend: Matrix

    def period(self, day: date, hour: int, *, is_weekend: bool) -> int:
        """The period in force in a local clock hour."""
        return (self.weekend if is_weekend else self.weekday)[day.month - 1][hour]


@dataclass(frozen=True, slots=True)
class FlatDemand:
    """A charge on the month's peak, whenever it was: periods, and which one each month has."""

    periods: tuple[tuple[Tier, ...], ...]
    months: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate, in USD."""

    label: str
    start_seconds: float | None
    end_seconds: float | None
    """None: in force until superseded."""
    energy: Charges
    fuel_adjustments: tuple[float, ...]
    """Per kWh, by month; all zero where the rate has none."""
    flat_demand: FlatDemand | None
    flat_demand_unit: str
    demand: Charges | None
    demand_unit: str
    """Mostly ``kW``; ``kVA``, ``hp`` and daily units exist."""
    demand_window_minutes: float
    """15 by default."""
    unsupported_demand: str
    """Why its demand charges cannot be included (a ratchet, no schedule), in words; "" where they can."""
    fixed_charge: float
    fixed_charge_unit: str
    minimum_bill: float
    """For a month; no hour or server has a share of it."""
    excluded: tuple[str, ...]
    """Charges that no figure includes, in sentences."""


class Urdb:
    """The energy price of a rate. For demand and fixed charges see :mod:`tpw.tariff.urdb_charges`.

    ``monthly_kwh``, the consumption of the whole meter in a month, selects the tier of a further kWh. Without it the
    prices of a rate with tiers have steps, by the kWh of the billing month over all periods. Prices before the first and
    after the last day of a rate are marked as a fallback.
    """

    name = "urdb"

    def __init__(
        self,
        rate: Rate,
        timezone: str,
        *,
        monthly_kwh: float | None = None,
        is_holiday: IsHoliday | None = None,
    ) -> None:
        self.rate = rate
        self._timezone = ZoneInfo(timezone)
        self._monthly_kwh = monthly_kwh
        self._is_holiday = is_holiday
        bounds = [bound for tiers in rate.energy.periods for bound, _ in steps_of(tiers)]
        self._counting = ((min(bounds), 0.0),) if bounds else ()
        """A step of 0, for hours without tiers in a rate that has some: their kWh count for the tiers of the others."""

    def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See PriceSource. Exact for any range."""
        pieces: list[PriceInterval] = []
        for start, end, offset in stretches(self._timezone, start_seconds, end_seconds):
            local, local_end = start + offset, end + offset
            while local < local_end:
                following = min((local // HOUR_SECONDS + 1) * HOUR_SECONDS, local_end)
                day, hour = calendar_day(local), int(local % DAY_SECONDS // HOUR_SECONDS)
                pieces.extend(self._dated(local - offset, following - offset, day, hour))
                local = following
        return merged(pieces)

    def price_at(self, day: date, hour: int) -> float:
        """Price per kWh in a local clock hour: rate, adjustment and fuel adjustment."""
        tier = tier_at(self._tiers(day, hour), self._monthly_kwh or 0.0)
        return tier.price + self.rate.fuel_adjustments[day.month - 1]

    def _tiers(self, day: date, hour: int) -> tuple[Tier, ...]:
        is_weekend = day.weekday() >= _SATURDAY or (self._is_holiday is not None and self._is_holiday(day))
        return self.rate.energy.periods[self.rate.energy.period(day, hour, is_weekend=is_weekend)]

    def _dated(self, start: float, end: float, day: date, hour: int) -> list[PriceInterval]:
        """The piece, cut at the first and the last day of the rate."""
        price = self.price_at(day, hour)
        steps = (steps_of(self._tiers(day, hour)) or self._counting) if self._monthly_kwh is None else ()
        cuts = [
            start,
            *(cut for cut in (self.rate.start_seconds, self.rate.end_seconds) if cut and start < cut < end),
            end,
        ]
        return [
            PriceInterval(from_seconds, to_seconds, price, self._state(from_seconds), steps)
            for from_seconds, to_seconds in pairwise(cuts)
        ]

    def _state(self, at_seconds: float) -> PriceState:
        before = self.rate.start_seconds is not None and at_seconds < self.rate.start_seconds
        after = self.rate.end_seconds is not None and at_seconds >= self.rate.end_seconds
        return PriceState.FALLBACK if before or after else PriceState.FINAL


class UrdbReader:
    """Reads a rate for a feed, which reads it again for replaced files and revised rates.

    Args:
        load: returns the JSON; raises SourceError.
        identity: see Reader.
        timezone, monthly_kwh, is_holiday: see Urdb.
        label: of the rate, where the JSON holds several.
        charges: returns the included charges of a rate, and names those that it cannot include.
        rate_cache: file that keeps the rate over a restart, for its charges. The feed keeps the prices.
    """

    name = "urdb"

    def __init__(
        self,
        load: Callable[[], bytes],
        identity: str,
        timezone: str,
        label: str = "",
        *,
        monthly_kwh: float | None = None,
        is_holiday: IsHoliday | None = None,
        charges: Callable[[Rate], Contract] | None = None,
        rate_cache: Path | None = None,
    ) -> None:
        self.identity = identity
        self.contract = Contract()
        """The charges of the last read."""
        self._load, self._label = load, label
        self._timezone, self._monthly_kwh, self._is_holiday = timezone, monthly_kwh, is_holiday
        self._charges, self._rate_cache = charges, rate_cache
        if charges is not None and rate_cache is not None:
            with contextlib.suppress(OSError, SourceError):  # missing or no longer supported: the next read replaces it
                self.contract = self._contract(parse(rate_cache.read_bytes(), label))

    def read(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
        """See Reader."""
        body = self._load()
        rate = parse(body, self._label)
        self.contract = self._contract(rate)
        if self._charges is not None:
            self._keep(body)
        source = Urdb(rate, self._timezone, monthly_kwh=self._monthly_kwh, is_holiday=self._is_holiday)
        return source.intervals(start_seconds, end_seconds)

    def _contract(self, rate: Rate) -> Contract:
        charged = Contract() if self._charges is None else self._charges(rate)
        excluded = (*charged.excluded, *rate.excluded)
        return replace(charged, excluded=excluded, minimum_per_month=rate.minimum_bill)

    def _keep(self, body: bytes) -> None:
        if self._rate_cache is None:
            return
        temporary = self._rate_cache.with_suffix(".new")
        with contextlib.suppress(OSError):  # without it, charges are missing after a restart while the service is down
            self._rate_cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(body)
            temporary.replace(self._rate_cache)


def from_file(path: str) -> Callable[[], bytes]:
    """Reads a rate from a file."""

    def load() -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            reason = Reason.PERMISSION if isinstance(error, PermissionError) else Reason.ABSENT
            raise SourceError(reason, f"the rate cannot be read from {path}: {error.strerror or error}") from error

    return load


def from_api(label: str, key_file: str, fetch: Fetch) -> Callable[[], bytes]:
    """Fetches a rate from OpenEI by its label, with the key in a file."""

    def load() -> bytes:
        key = read_token(key_file, "an OpenEI key")
        request = Request(f"{API}?version=8&format=json&detail=full&getpage={quote(label)}&api_key={quote(key)}")
        return body_of(request, fetch(request))

    return load


# -------------------------------------------------------------------------------------------------------------- reading


def item_of(text: str | bytes, label: str) -> dict[str, Any]:
    """The fields of the rate in a JSON text, by their names in lower case. Raises SourceError."""
    return {str(key).lower(): value for key, value in _item(json_of(text, "the rate"), label).items()}


def parse(text: str | bytes, label: str = "") -> Rate:
    """The rate in a JSON text: an item, ``items`` with one, or (with ``label``) with several. Raises SourceError."""
    item = item_of(text, label)
    try:
        return _rate(item)
    except _NoRateError as error:
        raise SourceError(Reason.UNSUPPORTED, f"this rate has no price for some hours: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _malformed(brief(error)) from error


class _NoRateError(ValueError):
    """A period that is in force has a tier without a rate."""


def _malformed(what: str) -> SourceError:
    return SourceError(
        Reason.MALFORMED,
        f"this is not a rate of the Utility Rate Database: {what}",
        "save an item of api.openei.org/utility_rates (version=8, format=json, detail=full), or the JSON of its page",
    )


def _item(document: Any, label: str) -> dict[str, Any]:
    items = document
    if isinstance(document, dict) and "items" in document:
        items = document["items"]
    candidates = [item for item in (items if isinstance(items, list) else [items]) if isinstance(item, dict)]
    if label:
        candidates = [item for item in candidates if item.get("label") == label]
    if not candidates:
        raise SourceError(
            Reason.ABSENT, f"no rate{f' with label {label}' if label else ''} in the answer", "check `label`"
        )
    if len(candidates) > 1:
        raise _malformed(f"it has {len(candidates)} rates; select one by its `label`")
    return candidates[0]


def _rate(item: Mapping[str, Any]) -> Rate:
    structure = item.get("energyratestructure")
    if not structure:
        raise _malformed("it has no energyratestructure, and so no price per kWh")
    _check_units(structure)
    energy = _charges(structure, item, "energy")
    flat_demand, demand, unreadable = _demand(item)
    monthly = item.get("fixedmonthlycharge")
    return Rate(
        label=str(item.get("label", "")),
        start_seconds=_date(item.get("startdate")),
        end_seconds=_date(item.get("enddate")),
        energy=energy,
        fuel_adjustments=_monthly(item.get("fueladjustmentsmonthly")),
        flat_demand=flat_demand,
        flat_demand_unit=str(item.get("flatdemandunit") or item.get("flatdemandunits") or "kW"),
        demand=demand,
        demand_unit=str(item.get("demandrateunit") or item.get("demandrateunits") or "kW"),
        demand_window_minutes=float(item.get("demandwindow") or 15.0),
        unsupported_demand=unsupported_terms(item) or unreadable,
        fixed_charge=float(item.get("fixedchargefirstmeter") or monthly or 0.0),
        fixed_charge_unit=str(item.get("fixedchargeunits") or ("$/month" if monthly else "")),
        excluded=tuple(not_included(item)),
        minimum_bill=minimum_bill_per_month(item),
    )


def _demand(item: Mapping[str, Any]) -> tuple[FlatDemand | None, Charges | None, str]:
    """The demand charges, or why they cannot be read: the price of the energy does not depend on them."""
    flat: Any = item.get("flatdemandstructure")
    by_hours: Any = item.get("demandratestructure")
    try:
        return (
            _flat_demand(flat, item) if is_nonzero(flat) else None,
            _charges(by_hours, item, "demand") if is_nonzero(by_hours) else None,
            "",
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return None, None, f"a demand charge that cannot be read ({brief(error)})"


def _flat_demand(structure: Sequence[Any], item: Mapping[str, Any]) -> FlatDemand:
    months = _indices(item["flatdemandmonths"], 12, len(structure))
    return FlatDemand(_periods(structure, {*months}), months)


def _charges(structure: Sequence[Any], item: Mapping[str, Any], what: str) -> Charges:
    weekday = _matrix(item[f"{what}weekdayschedule"], len(structure))
    weekend = item.get(f"{what}weekendschedule")
    matrices = weekday, _matrix(weekend, len(structure)) if weekend else weekday
    used = {period for matrix in matrices for row in matrix for period in row}
    return Charges(_periods(structure, used), *matrices)


def _periods(structure: Sequence[Any], used: AbstractSet[int]) -> tuple[tuple[Tier, ...], ...]:
    """The tiers of each period. One that is in force at no time may be empty."""
    return tuple(_tiers(index, tiers) if index in used else (Tier(0.0),) for index, tiers in enumerate(structure))


def _tiers(period: int, tiers: Sequence[Mapping[str, Any]]) -> tuple[Tier, ...]:
    result: list[Tier] = []
    for index, tier in enumerate(tiers):
        if _optional(tier.get("rate")) is None:
            raise _NoRateError(f"period {period} has no rate in tier {index}")
        is_last = index == len(tiers) - 1
        bound = None if is_last else _optional(tier.get("max"))
        if not is_last and (bound is None or (result and bound <= (result[-1].upper_bound or 0.0))):
            raise ValueError(f"tier {index} has no upper bound above the one before")
        result.append(Tier(float(tier["rate"]) + float(tier.get("adj") or 0.0), bound))
    if not result:
        raise ValueError("a period has no tier")
    return tuple(result)


def _matrix(rows: Sequence[Sequence[Any]], periods: int) -> Matrix:
    if len(rows) != 12:
        raise ValueError(f"a schedule has {len(rows)} months")
    return tuple(_indices(row, 24, periods) for row in rows)


def _indices(values: Sequence[Any], length: int, periods: int) -> tuple[int, ...]:
    try:
        indices = tuple(int(value) for value in values)
    except OverflowError:
        raise ValueError("a schedule has an infinite entry") from None
    if len(indices) != length or not all(0 <= index < periods for index in indices):
        raise ValueError(f"a schedule should have {length} entries, each one of {periods} periods")
    return indices


def _monthly(values: Any) -> tuple[float, ...]:
    if not values:
        return (0.0,) * 12
    result = tuple(float(value or 0.0) for value in values)
    if len(result) != 12:
        raise ValueError(f"{len(result)} months")
    return result


def _date(value: Any) -> float | None:
    """Unix seconds of a day, a number or a text in ISO 8601. None where it is not known."""
    if isinstance(value, Mapping):
        value = value.get("$date")
    if not isinstance(value, str) or not value:
        return _optional(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None if value.strip().upper() in {"NA", "N/A"} else float(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _optional(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _check_units(structure: Sequence[Any]) -> None:
    """Refuse tiers that are not counted in kWh per month (per day, per kW of demand)."""
    for tiers in structure:
        units = {str(tier.get("unit") or "kWh") for tier in tiers}
        if len(tiers) > 1 and units != {"kWh"}:
            raise SourceError(
                Reason.UNSUPPORTED,
                f"this rate counts its tiers in {', '.join(sorted(units))}; only kWh per month are supported",
            )
