"""The section ``tariff``: what electricity costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any

from tpw.model import SourceError, StandingCharge
from tpw.settings.scalars import choice, number, text, whole_number
from tpw.settings.shapes import BAD, ByKind, ListOf, Report, Section, setting
from tpw.settings.values import currency, time_zone
from tpw.tariff import LAYERS, REST, Layer, PriceSource
from tpw.tariff.demand import Apparent, DemandRules
from tpw.tariff.demand_charges import DemandCharge
from tpw.tariff.holidays import is_holiday
from tpw.tariff.months import BillingMonths
from tpw.tariff.times import Times

if TYPE_CHECKING:
    from tpw.tariff.context import FeedContext
    from tpw.tariff.layers import Layer as PricedLayer
    from tpw.tariff.layers import Layers

LAYER = ByKind(LAYERS, "a mapping of settings with a kind", default="flat", definition="price_layer")
_LAYERS = ListOf(LAYER, "a layer, or a list of layers, which are added", or_one=True)
SLOTS = ("energy", "grid", "levies")
CHARGES = ("demand", "capacity", "fixed")


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
class Tax:
    """A tax in per cent of some charges. Several taxes do not tax each other; VAT is on all of them."""

    rate: float = setting(
        number("a fraction such as 0.05", minimum=0.0, maximum=1.0, advice="write 5 % as 0.05"), "As a fraction."
    )
    name: str = setting(text("a name"), "Name on a bill.", default="tax")
    charges: frozenset[str] = setting(
        ListOf(choice(*SLOTS, *CHARGES), "a list of charges", or_one=True, gather=frozenset),
        f"What is taxed: any of {', '.join((*SLOTS, *CHARGES))}.",
        default=frozenset((*SLOTS, *CHARGES)),
        default_words="all of them",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """What electricity costs. The all-in price is the sum of the layers `energy`, `grid` and `levies`, and taxes."""

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
    taxes: tuple[Tax, ...] = setting(
        ListOf(Section(Tax), "a tax, or a list of taxes", or_one=True), "Taxes in per cent, before VAT.", default=()
    )
    energy: tuple[Layer, ...] = setting(
        _LAYERS, "Price of the energy.", default=(), default_words="none: no price, no cost"
    )
    grid: tuple[Layer, ...] = setting(_LAYERS, "Network charges per kWh, added to it.", default=())
    levies: tuple[Layer, ...] = setting(_LAYERS, "Taxes and levies per kWh, added to it.", default=())
    demand: tuple[DemandCharge, ...] = setting(
        ListOf(Section(DemandCharge), "a charge, or a list of charges", or_one=True),
        "Charges on the highest demand of a month, a season or a year.",
        default=(),
    )
    capacity: CapacityCharge | None = setting(Section(CapacityCharge), "Charge for contracted power.", default=None)
    fixed: FixedCharge | None = setting(Section(FixedCharge), "Standing charges.", default=None)
    billing_day: int = setting(
        whole_number("a day of the month", minimum=1, maximum=28), "Day on which a billing month begins.", default=1
    )

    # ---------------------------------------------------------------------------------------------------------- checks

    def check(self, report: Report) -> None:
        """Report settings that contradict or need each other. A setting that could not be read is BAD."""
        for path, layer in self.layers():
            layer.check(path, self, report)
            layer.check_terms(path, self, report)
        for path, charge in _whole("tariff.demand", self.demand):
            charge.check(path, self, report)
        names = [charge.label(number) for number, charge in enumerate(self.demand or (), 1) if charge is not BAD]
        if len({*names}) < len(names):
            report("tariff.demand", "two charges have the same `name`")
        self._check_shares(report)
        if not self.energy and self.energy is not BAD:
            for charge in CHARGES:
                if getattr(self, charge):
                    report(
                        "tariff", f"has {charge} but no `energy`: the bill would lack its largest part; add `energy`"
                    )
            if self.grid or self.levies:
                report("tariff", "has grid or levies but no `energy`: the price would be wrong; add `energy`")

    def _check_shares(self, report: Report) -> None:
        layers = [layer for _, layer in _whole("tariff.energy", self.energy)]
        shares = [layer.share for layer in layers if layer.share != 1.0]
        if layers and all(layer.share == REST for layer in layers):
            report("tariff.energy", "`rest` is what other layers leave: add one with a `share`")
        fixed = [share for share in shares if isinstance(share, float)]
        is_whole = len(fixed) == len(shares) and not any(layer.is_restricted for layer in layers)
        if shares and is_whole and abs(sum(fixed) - 1.0) > 1e-6:
            report("tariff.energy", f"the shares add up to {sum(fixed):g}: give the other layer `share: rest`")

    def check_timezone(self, report: Report) -> None:
        """Report a missing time zone, for prices by the hour."""
        if self.timezone is None:
            report("tariff", "prices by the hour need `timezone`: the zone of those hours, such as Europe/Berlin")

    def check_currency(self, path: str, prices: str, currencies: tuple[str, ...], report: Report) -> None:
        """Report another currency than those of a feed."""
        if self.currency and self.currency not in currencies:
            known = " or ".join(currencies)
            report(path, f"{prices} in {known}, but tariff.currency is {self.currency}: an exporter has one currency")

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """Every layer, with its path in the configuration."""
        for slot in SLOTS:
            yield from _whole(f"tariff.{slot}", getattr(self, slot))

    def factor(self, charge: str, *, contains_vat: bool = False) -> float:
        """1 + taxes on a charge."""
        taxes = 1.0 + sum(tax.rate for tax in self.taxes if charge in tax.charges)
        return taxes if contains_vat else taxes * (1.0 + self.vat)

    # ------------------------------------------------------------------------------------------------------- factories

    def prices(self, context: FeedContext) -> Layers | None:
        """The all-in price of electricity; None where no tariff is configured. Reads and fetches nothing: the first call
        of ``intervals`` does, and may take as long as the service takes to answer."""
        from tpw.tariff import layers

        if not self.energy:
            return None
        metered = [
            layers.MeteredCharge(
                charge.power_factor.source(self.timezone, context), charge.kw_per_unit, self._metered(charge, number)
            )
            for number, charge in enumerate(self.demand, 1)
            if charge.power_factor is not None and not isinstance(charge.power_factor, float)
        ]
        priced = [self._layer(path, layer, context) for path, layer in self.layers()]
        return layers.Layers(priced, self.months(), metered)

    def _metered(
        self, charge: DemandCharge, number: int
    ) -> Callable[[Apparent, float | None], tuple[DemandRules, ...]]:
        def rules(apparent: Apparent, factor: float | None) -> tuple[DemandRules, ...]:
            return charge.rules(self, number, self.factor("demand") if factor is None else factor, apparent)

        return rules

    def _layer(self, path: str, layer: Layer, context: FeedContext) -> PricedLayer:
        from tpw.tariff import layers
        from tpw.tariff.time_of_use import TimeOfUse, Zone

        share: float | PriceSource | None = None
        if isinstance(layer.share, float):
            share = layer.share
        elif not isinstance(layer.share, str):
            share = layer.share.source(self.timezone, context)
        times = None
        if layer.is_restricted:
            zone = Zone(1.0, **{item.name: getattr(layer, item.name) for item in fields(Times)})
            holidays = is_holiday(layer.holidays, layer.holidays_region)
            times = TimeOfUse(0.0, (zone,), self.timezone or "UTC", holidays)
        with_vat = layer.contains_vat
        slot = path.removeprefix("tariff.").partition("[")[0]
        return layers.Layer(
            layer.source(self, context),
            self.factor(slot, contains_vat=with_vat),
            slot,
            path,
            layers.Terms(
                layer.factor,
                -inf if layer.floor is None else layer.floor,
                inf if layer.cap is None else layer.cap,
                share,
                times,
            ),
            self.factor("demand", contains_vat=with_vat),
            self.factor("fixed", contains_vat=with_vat),
        )

    def months(self) -> BillingMonths:
        """The contract's billing months."""
        return BillingMonths(self.timezone or "UTC", self.billing_day)

    def demand_rules(self) -> tuple[DemandRules, ...]:
        """The demand charges of the file. A rate may have charges of its own, and those with a metered power factor come
        with the prices."""
        factor = self.factor("demand")
        charges = [
            (number, charge)
            for number, charge in enumerate(self.demand, 1)
            if charge.power_factor is None or isinstance(charge.power_factor, float)
        ]
        return tuple(rules for number, charge in charges for rules in charge.rules(self, number, factor))

    def standing_charges(self) -> tuple[StandingCharge, ...]:
        """Charges that do not depend on consumption."""
        result: list[StandingCharge] = []
        if self.capacity is not None:
            per_month = self.capacity.kw * self.capacity.price_per_kw_month * self.factor("capacity")
            result.append(StandingCharge("capacity", per_month))
        if self.fixed is not None:
            factor = self.factor("fixed")
            result.append(StandingCharge("fixed", self.fixed.per_month * factor, self.fixed.per_day * factor))
        return tuple(result)

    def without_price(self, context: FeedContext) -> Iterator[str]:
        """Why there is no price now, as far as it follows from the configuration and files. Nothing is fetched."""
        now, failed = context.clock(), False
        for path, layer in self.layers():
            if not layer.needs_network:
                try:
                    self._layer(path, layer, context).source.intervals(now, now + 60.0)
                except SourceError as error:
                    failed = True
                    yield f"{path}: {error.detail}" + (f" ({error.hint})" if error.hint else "")
        if self.is_local and self.energy and not failed:
            source = self.prices(context)
            try:
                if source is not None and not source.intervals(now, now + 60.0):
                    yield "tariff.energy: no layer applies now, or one of the layers has no price now"
            except SourceError as error:
                yield f"tariff: {error.detail}" + (f" ({error.hint})" if error.hint else "")

    @property
    def is_local(self) -> bool:
        """Whether every price is in the configuration and in files."""
        needed = (layer.needs_network for _, layer in self.layers())
        numbers = (*(layer.share for _, layer in self.layers()), *(charge.power_factor for charge in self.demand))
        tables = (number for number in numbers if number is not None and not isinstance(number, float | str))
        return not any(needed) and all(table.file is not None for table in tables)

    def fields_of_rates(self) -> dict[str, list[str]]:
        """Of the rates in files: the fields that are read, and those that are not."""
        found: dict[str, list[str]] = {}
        for path, layer in self.layers():
            for title, names in layer.fields_of_rate().items():
                found[f"{path}, {title}"] = names
        return found

    def notes(self) -> tuple[str, ...]:
        """What an operator should know of a valid tariff: assumptions, and charges of a rate that no figure includes. Reads
        the rates that are in files, and nothing else."""
        notes: list[str] = []
        by_month = (
            self.demand or self.capacity or self.fixed or any(getattr(item, "blocks", ()) for _, item in self.layers())
        )
        if by_month and self.timezone is None:
            notes.append("tariff: billing months begin at midnight UTC, because `timezone` is not set")
        for path, layer in self.layers():
            notes += [f"{path}: {note}" for note in layer.notes(self)]
        return tuple(notes)


def _whole(path: str, items: Any) -> Iterator[tuple[str, Any]]:
    """The entries of a list that could be read, each with its path; a list of one may stand without brackets."""
    for index, item in enumerate(items or ()):
        if item is not BAD:
            yield (path if len(items) == 1 else f"{path}[{index}]"), item
