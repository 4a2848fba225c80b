"""The books: everything that was ever booked, and what is needed to book the next interval.

One table carries all energy, time and money: a *posting* per (GPU, server, model, state). Every family of metrics is a
sum over it: by GPU and state, by server and model, or over everything. So nothing can be booked twice, the parts of a
whole always sum to it, and a new way to look at the numbers costs no new bookkeeping.

What is booked is booked for a quarter of an hour: an entry goes into the *row* of its interval and into its posting, so the
rows of all time sum to the postings. Rows stay here while something can still be added to them, and on disk after that.

All values are frozen; ``advance`` (see :mod:`tpw.ledger.advance`) makes new ones and shares what did not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tpw.ledger.amounts import Amounts, Served
from tpw.model import (
    Attribution,
    Cadence,
    Calibration,
    EnergyMethod,
    Gpu,
    GpuSample,
    HostMethod,
    Instant,
    Load,
    Part,
    ProcessIdentity,
    Role,
    SplitMethod,
    State,
    TokenKind,
)
from tpw.tariff.demand import Demand


class PostingKey(NamedTuple):
    """Whose interval it was. ``server`` and ``model`` are "" while the GPU is idle."""

    gpu: str
    server: str
    model: str
    state: State


ROW_SECONDS = 900.0
"""Length of an interval of the books: a quarter of an hour, as meters and markets have it, counted in UTC."""

LONGEST_SECONDS = 62 * 86400.0
"""More between two looks is a clock that was wrong, or a machine that was put away: it is not booked as time."""

Postings = Mapping[PostingKey, Amounts]
"""What was booked for each key since the books began."""

Rows = Mapping[float, Postings]
"""Start of the interval -> what was booked for it, by key."""

ServedRows = Mapping[float, Mapping[tuple[str, str], Served]]
"""Start of the interval -> what was served in it, by (server, model)."""


Shares = tuple[tuple[PostingKey, float], ...]
"""Who shares an interval of one GPU, and the weight of each; the weights sum to 1."""


@dataclass(frozen=True, slots=True)
class Division:
    """How one GPU is shared now."""

    shares: Shares
    method: SplitMethod | None
    """None while nobody owns it."""
    parts: tuple[Part, ...] = ()
    """Its instances, while it is partitioned."""

    def ratio(self, server: str) -> float:
        """Share of the GPU that a server takes now."""
        return sum(weight for key, weight in self.shares if key.server == server)


@dataclass(frozen=True, slots=True)
class Pending:
    """Time of a GPU whose joules have not been read yet: [start, end) in wall seconds, and who shares it.

    Joules that arrive are spread evenly over the pending time, so energy that a hardware counter gathered over an outage
    lands in the states, and at the prices, of the time in which it was used.
    """

    start_seconds: float
    end_seconds: float
    shares: Shares


@dataclass(frozen=True, slots=True)
class Check:
    """A hardware counter held against the integral of average power, in windows of a minute."""

    seconds: float = 0.0
    """Of the window that is forming."""
    counter_joules: float = 0.0
    power_joules: float = 0.0
    raw_joules: float | None = None
    """The counter at the last look, believed or not."""
    strange: int = 0
    """Windows in a row in which the two disagreed."""
    sound: int = 0
    """Windows in a row in which the two agreed."""
    distrusted: bool = False
    """The counter is wrong or frozen: power is integrated in its place."""


@dataclass(frozen=True, slots=True)
class GpuAccount:
    """One GPU in the books."""

    gpu: Gpu
    up: bool = False
    sample: GpuSample | None = None
    """The last good look, for the gauges. None while the GPU is not up."""
    baseline_joules: float | None = None
    """Raw hardware counter up to which joules are booked."""
    baseline_watts: float | None = None
    """Power at the baseline, where power is integrated."""
    baseline_at_seconds: float | None = None
    """Monotonic instant of the baseline. None after a restart: then the wall clock bounds the gap."""
    baseline_wall_seconds: float | None = None
    last_gap_seconds: float = 0.0
    """Time between the baseline and the one before it."""
    mark_joules: float | None = None
    """Where the raw counter stood before it stepped back, until it has moved on below that."""
    still_since_seconds: float | None = None
    """Monotonic instant since which the hardware counter has not moved; None while it moves."""
    still_joules: float = 0.0
    """Integral of power since then: what is booked should the counter turn out to be frozen."""
    check: Check = field(default_factory=Check)
    pending: tuple[Pending, ...] = ()
    unmetered_seconds: float = 0.0
    anomalies: Mapping[str, int] = field(default_factory=dict)
    throttle_seconds: Mapping[str, float] = field(default_factory=dict)
    throttle_raw: Mapping[str, float] = field(default_factory=dict)
    unreported_since_seconds: float | None = None
    """Unix time since which no meter tells it (a driver that is not there yet). None while one does. The time between is
    booked when it is back."""
    calibration: Calibration | None = None
    """In force for what is booked now. The baselines stay as the meter shows them."""
    division: Division | None = None
    """Who shared it at its last look. None before the first."""
    instance_joules: Mapping[tuple[str, str, SplitMethod], float] = field(default_factory=dict)
    """Estimates of its instances' energy, by (UUID of the instance, profile, method): parts of what is booked for it."""

    @property
    def method(self) -> EnergyMethod:
        """How its joules are obtained now: power in place of a counter that is not believed."""
        if self.check.distrusted and self.gpu.energy_method is EnergyMethod.COUNTER:
            return EnergyMethod.AVERAGE_POWER if self.gpu.power_averaged else EnergyMethod.INSTANT_POWER
        return self.gpu.energy_method


@dataclass(frozen=True, slots=True)
class HostAccount:
    """One host component in the books."""

    joules: float = 0.0
    power_watts: float | None = None
    baseline_joules: float | None = None
    baseline_watts: float | None = None
    baseline_at_seconds: float | None = None
    gap_seconds: float = 0.0
    """Between the last two samples: some meters are read every second, some every half minute."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """How the host's energy beyond the boards is found. Begins anew with the process, as its meters do."""

    method: HostMethod = HostMethod.NONE
    booked_joules: float = 0.0
    """Of boards and host since the node's last reading: what its next one holds already."""
    owed_joules: float = 0.0
    """Booked above what the node used."""
    since_seconds: float | None = None
    """Unix time from which on the node tells what it used: what boards used before is none of that."""
    release_watts: float = 0.0
    """How fast carried joules are given out; 0: all at once."""


@dataclass(frozen=True, slots=True)
class WindowSample:
    """Cumulative totals of a server at one tick, for the live ratios. Keys: (model, kind), (model, boundary) ..."""

    at_seconds: float
    tokens: Mapping[tuple[str, TokenKind], float]
    amounts: Mapping[str, Amounts]
    """By model, all states."""
    metered: bool
    """False while a GPU of the server had no trustworthy reading since the sample before."""
    complete: bool = True
    """False while joules of a time before this sample may still come: a rise from here would hold them."""
    single_node: bool = True
    """False where the server has GPUs on other nodes: tokens here are all, joules and money are not."""
    awaiting_energy: bool = False
    """Not settled, and no wonder: a GPU is told more seldom than it is looked at, and its next news is not late."""


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """One inference server in the books."""

    name: str
    up: bool = False
    active: bool = False
    """Whether it was working at its last look."""
    since_wall_seconds: float | None = None
    """When it was first watched: counters of a process that began later are counted from 0."""
    read_wall_seconds: float | None = None
    """When it was last read. None: not by this process."""
    engine: str = ""
    cadence: Cadence = Cadence.UNKNOWN
    version: str = ""
    attribution: Attribution = Attribution.NONE
    gpus: frozenset[str] = frozenset()
    """UUIDs it owns now."""
    identity: ProcessIdentity | None = None
    address: str = ""
    """Where it was last read."""
    series: Mapping[str, float] = field(default_factory=dict)
    """Last raw value by series key: what the counters' rises are taken from."""
    counted: Mapping[tuple[str, Role], float] = field(default_factory=dict)
    """Rises by (model, role), summed since the books began."""
    tokens: Mapping[tuple[str, TokenKind], float] = field(default_factory=dict)
    """The disjoint kinds made of them. Never falls."""
    work: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Work units by (model, unit)."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Finished requests by model, where the engine counts them."""
    loads: tuple[Load, ...] = ()
    models: tuple[str, ...] = ()
    """Models it serves, as last known: parked energy is theirs."""
    reference_cost: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (model, reference)."""
    window: tuple[WindowSample, ...] = ()
    window_seconds: float = 0.0
    """The window wanted for this server's cadence."""


@dataclass(frozen=True, slots=True)
class SourceAccount:
    """Counts of one source that survive the process."""

    reads: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Books:
    """Everything. ``at`` is the tick up to which time is booked."""

    at: Instant | None = None
    resumed: bool = False
    """True when they were just read from disk: then ``at.monotonic_seconds`` means nothing."""
    currency: str = ""
    gpus: Mapping[str, GpuAccount] = field(default_factory=dict)
    postings: Postings = field(default_factory=dict)
    hosts: Mapping[str, HostAccount] = field(default_factory=dict)
    host_carry_joules: float = 0.0
    """Host energy that no GPU energy has shared yet."""
    rows: Rows = field(default_factory=dict)
    served: ServedRows = field(default_factory=dict)
    month_kwh: Mapping[float, float] = field(default_factory=dict)
    """Facility kWh that were priced, by start of the billing month: what the steps of a price count."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """Where the month's peaks stand, by name of the charge."""
    standing_charges_since_seconds: float | None = None
    """Unix time since which charges of the contract wait for a GPU to share them. None: nothing waits."""
    host_share: HostShare = field(default_factory=HostShare)
    servers: Mapping[str, ServerAccount] = field(default_factory=dict)
    sources: Mapping[str, SourceAccount] = field(default_factory=dict)
    polls: int = 0
    polls_skipped: int = 0
