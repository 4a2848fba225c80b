"""The arguments of one step of the ledger: the readings of a tick, and the rules in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tpw.ledger.planned import Plan
from tpw.ledger.site import Site
from tpw.ledger.trust import Limits
from tpw.model import (
    AcceleratorReading,
    Calibration,
    FixedEmissions,
    HostSample,
    Instant,
    Occupants,
    Ownership,
    Part,
    PriceInterval,
    Rate,
    Reference,
    ServerFault,
    ServerReading,
    ServerWorkload,
    StandingCharge,
)
from tpw.tariff.demand import DemandRules
from tpw.tariff.months import BillingMonths


class Curve(Protocol):
    """Prices over time."""

    def pieces(self, start_seconds: float, end_seconds: float) -> Iterable[tuple[float, float, PriceInterval | None]]:
        """[start, end) cut at the price boundaries: (start, end, price or None where it is not known)."""


class Grams(Protocol):
    """A carbon intensity over some interval."""

    @property
    def grams_per_kwh(self) -> float:
        """CO2 equivalent."""


class Intensities(Protocol):
    """Carbon intensities over time."""

    def pieces(self, start_seconds: float, end_seconds: float) -> Iterable[tuple[float, float, Grams | None]]:
        """[start, end) cut where the intensity changes: (start, end, intensity or None where it is not known)."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Everything that was read at one moment.

    ``servers`` has only the readings that are finished; the account of a server that is still answering does not change.
    ``owners`` names every server, configured or discovered.
    """

    at: Instant
    accelerators: AcceleratorReading
    hosts: tuple[HostSample, ...] = ()
    servers: tuple[ServerReading | ServerFault, ...] = ()
    owners: Mapping[str, Ownership] = field(default_factory=dict)
    occupants: Mapping[str, Occupants] = field(default_factory=dict)
    """Processes that belong to no server, by UUID of the GPU. Without an entry nothing is known about a GPU's processes."""
    belongs: Mapping[str, ServerWorkload] = field(default_factory=dict)
    """To whom servers belong, by name, as far as their processes are known; without pod and container."""
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """Instances of the GPUs that are partitioned, by UUID of the GPU."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules by which a tick is booked. Changes only with the configuration and the price feed."""

    interval_seconds: float = 1.0
    window_seconds: float = 60.0
    finish_window_seconds: float = 300.0
    """The window for engines that count at the end of a request."""
    pue: float = 1.0
    host_share: bool = True
    """Whether the host's energy beyond the GPUs enters the facility boundary."""
    currency: str = ""
    curve: Curve | None = None
    """None: no tariff is configured, so nothing is priced and nothing is counted as unpriced."""
    demand: tuple[DemandRules, ...] = ()
    """Charges on peaks; each has another name."""
    standing_charges: tuple[StandingCharge, ...] = ()
    months: BillingMonths = field(default_factory=BillingMonths)
    """The contract's billing months."""
    site: Site | None = None
    """None: the node is the whole site of the contract."""
    intensities: Intensities | None = None
    """None: no carbon intensity is configured, so no grams are counted."""
    carbon_basis: str = ""
    """What the intensities count."""
    emissions: FixedEmissions = field(default_factory=FixedEmissions)
    """Beside those of the intensities."""
    rates: tuple[Rate, ...] = ()
    references: tuple[Reference, ...] = ()
    limits: Limits = field(default_factory=Limits)
    """What is accepted from a server's page."""
    held_seconds: float = 3600.0
    """How long a server may be away before its energy is booked without it. Tuning: longer than a rollout or a restart that
    loads the largest weights; the counters of its GPUs stand still for so long."""
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    """By UUID of a GPU. Applied to what is booked from now on."""
    plan: Plan | None = None
    """Planned pauses. None: none are configured."""

    @property
    def components(self) -> tuple[str, ...]:
        """Components of cost that are booked by these rules, besides the energy."""
        timed = (*(rate.component for rate in self.rates), *(charge.component for charge in self.standing_charges))
        return (*timed, "demand") if self.demand else timed
