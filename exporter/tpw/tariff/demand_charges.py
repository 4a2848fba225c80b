"""The section ``tariff.demand``: charges on peaks, as a contract writes them, into the rules by which they are booked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from math import inf
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tpw.settings.scalars import choice, number, text, whole_number
from tpw.settings.shapes import BAD, ByKind, ListOf, OrMapping, Report, Section, setting
from tpw.settings.values import MONTHS, duration, local_time
from tpw.tariff.demand import Apparent, DemandRules
from tpw.tariff.holidays import IsHoliday, is_holiday
from tpw.tariff.months import BillingMonths
from tpw.tariff.times import SUNDAY, Calendar, Times

if TYPE_CHECKING:
    from tpw.tariff.settings import Tariff
    from tpw.tariff.shares import PowerFactorTable

_MONEY = number("an amount of money", minimum=0.0)
_KW = number("a power in kW", minimum=0.0, advice="kW, not W")


@dataclass(frozen=True, slots=True, kw_only=True)
class Coincident:
    """Events of a coincident peak. The mean of their demands is billed."""

    events: tuple[datetime, ...] = setting(
        ListOf(local_time(), "a list of times such as 2026-07-20T16:45"), "Windows, by their local start."
    )
    count: int | None = setting(
        whole_number("a number of events", minimum=1, maximum=100),
        "Number of events of the season or year: those that are not known yet count as 0.",
        default=None,
        default_words="those that are listed",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandCharge(Calendar):
    """The price of the highest demand of a month, a season or a year. It accrues over that time; the exporter sees its own
    share."""

    price_per_kw_month: float | None = setting(
        _MONEY, "Price of one kW of the peak for a month.", default=None, default_words="price_per_kw_year / 12"
    )
    price_per_kw_year: float | None = setting(_MONEY, "Price of one kW of the peak for a year.", default=None)
    name: str | None = setting(
        text("a name"),
        "Name, under which the books keep its peak.",
        default=None,
        default_words="`demand`, then `demand 2` and so on",
    )
    basis: str = setting(
        choice("month", "season", "year", "rolling"),
        "Time of which the peak is billed: the billing month, the season of `months`, the year from `year_begins`, or the"
        " month and the `ratchet_months` before it (`rolling`, a ratchet of 1).",
        default="month",
    )
    year_begins: int = setting(
        whole_number("a month", minimum=1, maximum=12), "First month of the year of `basis: year`.", default=1
    )
    window: float = setting(
        duration(60.0, 3600.0), "Averaging time of the meter: 15m, or 30m in some countries.", default=900.0
    )
    ratchet: float = setting(
        number("a fraction such as 0.80", minimum=0.0, maximum=1.0, advice="write 80 % as 0.80"),
        "Fraction of the highest peak of earlier months that is billed at least.",
        default=0.0,
    )
    ratchet_months: int = setting(
        whole_number("a number of months", minimum=1, maximum=24), "Number of earlier months for `ratchet`.", default=11
    )
    ratchet_peaks: frozenset[int] = setting(
        MONTHS, "Months with peaks that count for `ratchet`.", default=frozenset(), default_words="all months"
    )
    committed_kw: float | None = setting(
        _KW, "Contracted demand: billed at least, unless `minimum_kw` is less.", default=None
    )
    excess_price_per_kw_month: float | None = setting(
        _MONEY, "Price of each kW above `committed_kw` for a month.", default=None, default_words="price_per_kw_month"
    )
    minimum_kw: float | None = setting(
        _KW, "Demand that is billed at least.", default=None, default_words="committed_kw"
    )
    unit: str = setting(
        choice("kW", "kVA"),
        "Unit of the demand: prices and quantities of the charge are per kW or per kVA.",
        default="kW",
    )
    power_factor: float | PowerFactorTable | None = setting(
        OrMapping(
            number("a power factor such as 0.95", above=0.0, maximum=1.0),
            ByKind(
                {"table": "tpw.tariff.shares:PowerFactorTable"}, "a table", default="table", definition="power_factor"
            ),
            "a power factor such as 0.95, or a mapping with a table of metered ones",
        ),
        "Power factor, for `unit: kVA`: a number, or metered values from a file, an address or a Prometheus.",
        default=None,
    )
    coincident: Coincident | None = setting(
        Section(Coincident), "Peak of the grid (4CP, triads): the demand at its events is billed.", default=None
    )

    def check(self, path: str, tariff: Tariff, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""
        self.check_times(path, report)
        if self.is_restricted or self.coincident or self.basis in ("season", "year"):
            tariff.check_timezone(report)
        if self.dates_value is not None:
            report(f"{path}.dates_value", "is for prices: list the dates of a demand charge")
        prices = [self.price_per_kw_month, self.price_per_kw_year]
        if prices.count(None) != 1:
            report(path, "give one of `price_per_kw_month` and `price_per_kw_year`")
        if self.basis == "season" and not self.months:
            report(f"{path}.basis", "season needs `months`: those of the season")
        if self.basis and self.basis != "month" and self.ratchet:
            report(f"{path}.ratchet", f"has no effect with basis {self.basis}: remove it")
        if self.excess_price_per_kw_month is not None and self.committed_kw is None:
            report(f"{path}.excess_price_per_kw_month", "needs `committed_kw`")
        if self.minimum_kw and self.committed_kw and self.minimum_kw > self.committed_kw:
            report(f"{path}.minimum_kw", "is above committed_kw, which is billed at least anyway")
        if self.unit == "kVA" and self.power_factor is None:
            report(path, "unit kVA needs `power_factor`")
        if self.power_factor and not isinstance(self.power_factor, float):
            self.power_factor.check(f"{path}.power_factor", tariff, report)
        if self.unit == "kW" and self.power_factor is not None:
            report(f"{path}.power_factor", "has no effect without `unit: kVA`")
        for event in (self.coincident.events or ()) if self.coincident else ():
            if event is not BAD and self.window and (event.hour * 3600 + event.minute * 60) % self.window:
                report(f"{path}.coincident.events", f"{event.isoformat()} is not the start of a window")
        if self.coincident and self.coincident.count and len(self.coincident.events or ()) > self.coincident.count:
            report(f"{path}.coincident.count", f"is less than the {len(self.coincident.events)} events that are listed")

    def label(self, number: int) -> str:
        """Its name, where it is the ``number``-th charge."""
        return self.name or ("demand" if number == 1 else f"demand {number}")

    @property
    def price(self) -> float:
        """Of a kW and month."""
        return (self.price_per_kw_year or 0.0) / 12.0 if self.price_per_kw_month is None else self.price_per_kw_month

    @property
    def kw_per_unit(self) -> float:
        """Kilowatt of a kW, or of a kVA at the given power factor, or at that while none is metered."""
        factor = self.power_factor if self.unit == "kVA" else None
        return 1.0 if factor is None else factor if isinstance(factor, float) else factor.fallback

    def rules(
        self, tariff: Tariff, number: int, factor: float, apparent: Apparent | None = None
    ) -> tuple[DemandRules, ...]:
        """One rule, or two with a price of excess, in kW. ``number`` counts the charges from 1; ``factor`` is that of
        taxes."""
        per_unit = self.kw_per_unit
        committed = None if self.committed_kw is None else self.committed_kw * per_unit
        minimum = committed if self.minimum_kw is None else self.minimum_kw * per_unit
        name = self.label(number)
        excess = self.excess_price_per_kw_month
        zone = ZoneInfo(tariff.timezone or "UTC")
        base = DemandRules(
            price_per_kw_month=self.price * factor / per_unit,
            name=name,
            up_to_kw=inf if committed is None or excess is None else committed,
            minimum_kw=minimum or 0.0,
            hours=self._hours(zone, is_holiday(self.holidays, self.holidays_region)),
            apparent=apparent,
            window_seconds=self.window,
            ratchet=1.0 if self.basis == "rolling" else self.ratchet,
            ratchet_months=self.ratchet_months,
            ratchet_peaks=self.ratchet_peaks,
            billed_months=frozenset() if self.basis == "year" else self.months,
            events=0 if self.coincident is None else self.coincident.count or len(self.coincident.events),
            months=self._periods(tariff),
        )
        if committed is None or excess is None:
            return (base,)
        above = excess * factor / per_unit
        return (base, replace(base, name=f"{name} above", price_per_kw_month=above, above_kw=committed, up_to_kw=inf))

    def _hours(self, zone: ZoneInfo, holiday: IsHoliday | None) -> ContractTimes | None:
        if not self.is_restricted and self.coincident is None:
            return None
        events = None
        if self.coincident is not None:
            events = frozenset(event.replace(tzinfo=zone).timestamp() for event in self.coincident.events)
        return ContractTimes(self, events, self.basis in ("month", "rolling"), zone, holiday)

    def _periods(self, tariff: Tariff) -> BillingMonths:
        starts = frozenset(range(1, 13))
        if self.basis == "year":
            starts = frozenset({self.year_begins})
        elif self.basis == "season":
            starts = frozenset(
                month for month in range(1, 13) if (month in self.months) != ((month - 2) % 12 + 1 in self.months)
            )
        return BillingMonths(tariff.timezone or "UTC", tariff.billing_day, starts or frozenset({self.year_begins}))


@dataclass(frozen=True, slots=True)
class ContractTimes:
    """The windows that count. A billing month has the season of the calendar month in which it begins, as for the rates of
    the Utility Rate Database; a season or a year goes by the day of the window."""

    times: Times
    events: frozenset[float] | None
    is_monthly: bool
    zone: ZoneInfo
    is_holiday: IsHoliday | None = None

    def contains(self, month_start_seconds: float, at_seconds: float) -> bool:
        """See Hours."""
        if self.events is not None:
            return at_seconds in self.events
        moment = datetime.fromtimestamp(at_seconds, UTC).astimezone(self.zone)
        minute = moment.hour * 60 + moment.minute
        day = date.fromordinal(moment.toordinal() - (1 if minute < self.times.day_starts else 0))
        weekday = SUNDAY if self.is_holiday is not None and self.is_holiday(day) else day.weekday()
        month = day.month
        if self.is_monthly:
            month = datetime.fromtimestamp(month_start_seconds, UTC).astimezone(self.zone).month
        return self.times.applies_at(minute) and bool(self.times.applies_on(day, weekday, month))
