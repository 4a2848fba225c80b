"""The section ``tariff``: what electricity costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpw.model import SourceError, StandingCharge
from tpw.settings.scalars import number, whole_number
from tpw.settings.shapes import ByKind, Report, Section, setting
from tpw.settings.values import currency, duration, time_zone
from tpw.tariff import LAYERS, Layer
from tpw.tariff.demand import DemandRules
from tpw.tariff.months import BillingMonths

if TYPE_CHECKING:
    from tpw.tariff.context import FeedContext
    from tpw.tariff.layers import Layers

LAYER = ByKind(LAYERS, "a mapping of settings with a kind", default="flat", definition="price_layer")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandCharge:
    """The price of the highest demand of a billing month. It accrues over the month; the exporter sees its own share."""

    price_per_kw_month: float = setting(
        number("an amount of money", minimum=0.0), "Price of one kW of the month's peak."
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedCharge:
    """Standing charges that do not depend on consumption. They accrue over time; the GPUs share them evenly."""

    per_month: float = setting(number("an amount of money", minimum=0.0), "Per billing month.", default=0.0)
    per_day: float = setting(number("an amount of money", minimum=0.0), "Per day of 24 hours.", default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityCharge:
    """A standing charge for contracted power, used or not. The GPUs share it evenly."""

    kw: float = setting(number("a power in kW", minimum=0.0, advice="kW, not W"), "Contracted power.")
    price_per_kw_month: float = setting(number("an amount of money", minimum=0.0), "Price of one kW for a month.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What electricity costs. The all-in price is the sum of the layers `energy`, `grid` and `levies`, and VAT."""

    currency: str | None = setting(
        currency(),
        "Currency of every amount of money in this file and in the metrics (ISO 4217). Required with any amount.",
        default=None,
    )
    timezone: str | None = setting(
        time_zone(),
        "Time zone of the tariff's hours and calendar.",
        default=None,
        default_words="UTC, where none is needed",
    )
    vat: float = setting(
        number("a fraction such as 0.19", minimum=0.0, maximum=1.0, advice="write 19 % as 0.19"),
        "Value added tax on the layers, as a fraction. Leave it out where it is recovered.",
        default=0.0,
    )
    energy: Layer | None = setting(LAYER, "Price of the energy.", default=None, default_words="none: no price, no cost")
    grid: Layer | None = setting(LAYER, "Network charges per kWh, added to it.", default=None)
    levies: Layer | None = setting(LAYER, "Taxes and levies per kWh, added to it.", default=None)
    demand: DemandCharge | None = setting(
        Section(DemandCharge), "Charge on the highest demand of a month.", default=None
    )
    capacity: CapacityCharge | None = setting(Section(CapacityCharge), "Charge for contracted power.", default=None)
    fixed: FixedCharge | None = setting(Section(FixedCharge), "Standing charges.", default=None)
    billing_day: int = setting(
        whole_number("a day of the month", minimum=1, maximum=28), "Day on which a billing month begins.", default=1
    )

    # ---------------------------------------------------------------------------------------------------------- checks

    def check(self, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""
        for name, layer in self._layers():
            if layer:
                layer.check(f"tariff.{name}", self, report)
        if self.energy is None:
            for charge in ("demand", "capacity", "fixed"):
                if getattr(self, charge) is not None:
                    report(
                        "tariff", f"has {charge} but no `energy`: the bill would lack its largest part; add `energy`"
                    )
            if self.grid is not None or self.levies is not None:
                report("tariff", "has grid or levies but no `energy`: the price would be wrong; add `energy`")

    def check_timezone(self, report: Report) -> None:
        """Report a missing time zone, for prices by the hour."""
        if self.timezone is None:
            report("tariff", "prices by the hour need `timezone`: the zone of those hours, such as Europe/Berlin")

    def check_currency(self, path: str, prices: str, currencies: tuple[str, ...], report: Report) -> None:
        """Report another currency than those of a feed."""
        if self.currency and self.currency not in currencies:
            known = " or ".join(currencies)
            report(path, f"{prices} in {known}, but tariff.currency is {self.currency}: an exporter has one currency")

    def _layers(self) -> Iterator[tuple[str, Layer]]:
        for name in ("energy", "grid", "levies"):
            if (layer := getattr(self, name)) is not None:
                yield name, layer

    # ------------------------------------------------------------------------------------------------------- factories

    def prices(self, context: FeedContext) -> Layers | None:
        """The all-in price of electricity; None where no tariff is configured. Reads and fetches nothing: the first call
        of ``intervals`` does, and may take as long as the service takes to answer."""
        from tpw.tariff import layers

        if self.energy is None:
            return None
        return layers.Layers(
            [
                layers.Layer(layer.source(self, context), 1.0 if layer.contains_vat else 1.0 + self.vat)
                for _, layer in self._layers()
            ],
            self.months(),
        )

    def months(self) -> BillingMonths:
        """The contract's billing months."""
        return BillingMonths(self.timezone or "UTC", self.billing_day)

    def demand_rules(self) -> tuple[DemandRules, ...]:
        """The demand charge of the file; a rate may have charges of its own."""
        charge = self.demand
        if charge is None:
            return ()
        rules = DemandRules(
            price_per_kw_month=charge.price_per_kw_month * (1.0 + self.vat),
            window_seconds=charge.window,
            ratchet=charge.ratchet,
            ratchet_months=charge.ratchet_months,
            months=self.months(),
        )
        return (rules,)

    def standing_charges(self) -> tuple[StandingCharge, ...]:
        """Charges that do not depend on consumption."""
        factor = 1.0 + self.vat
        result: list[StandingCharge] = []
        if self.capacity is not None:
            per_month = self.capacity.kw * self.capacity.price_per_kw_month * factor
            result.append(StandingCharge("capacity", per_month))
        if self.fixed is not None:
            result.append(StandingCharge("fixed", self.fixed.per_month * factor, self.fixed.per_day * factor))
        return tuple(result)

    def without_price(self, context: FeedContext) -> Iterator[str]:
        """Layers that have no price now, with the reason: of those that are in the configuration and in files. Nothing is
        fetched."""
        now = context.clock()
        for name, layer in self._layers():
            if not layer.needs_network:
                try:
                    layer.source(self, context).intervals(now, now + 60.0)
                except SourceError as error:
                    yield f"tariff.{name}: {error.detail}" + (f" ({error.hint})" if error.hint else "")

    def notes(self) -> tuple[str, ...]:
        """What an operator should know of a valid tariff: assumptions, and charges of a rate that no figure includes. Reads
        the rates that are in files, and nothing else."""
        notes: list[str] = []
        by_month = (
            self.demand or self.capacity or self.fixed or any(getattr(item, "blocks", ()) for _, item in self._layers())
        )
        if by_month and self.timezone is None:
            notes.append("tariff: billing months begin at midnight UTC, because `timezone` is not set")
        for name, layer in self._layers():
            notes += [f"tariff.{name}: {note}" for note in layer.notes(self)]
        return tuple(notes)
