"""The books: everything that was ever booked, and what is needed to book the next interval.

One table carries all energy, time and money: a *posting* per (GPU, server, model, state). Every family of metrics is a
sum over it: by GPU and state, by server and model, or over everything. So nothing can be booked twice, the parts of a
whole always sum to it, and a new view of the numbers needs no new bookkeeping.

Every entry goes into the *row* of its quarter-hour and into its posting, so the rows of all time sum to the postings. Rows
stay in memory while something can still be added to them, and on disk after that.

All values are frozen; ``advance`` (see :mod:`tpw.ledger.advance`) makes new ones and shares what did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.phases import Phases
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
    Phase,
    ProcessIdentity,
    Role,
    ServerWorkload,
    SplitMethod,
    State,
    Tier,
    TokenKind,
    Workload,
)
from tpw.tariff.demand import Demand

if TYPE_CHECKING:
    from tpw.ledger.service import Service
    from tpw.ledger.tenants import TenantBooks


class PostingKey(NamedTuple):
    """What a posting is booked for. ``server`` and ``model`` are "" where no server uses the GPU."""

    gpu: str
    server: str
    model: str
    state: State
    workload: Workload | None = None
    """Who used it in the state ``other``; None in all other states."""


ROW_SECONDS = 900.0
"""Length of an interval of the books: a quarter of an hour, as meters and markets have it, counted in UTC."""

LONGEST_SECONDS = 62 * 86400.0
"""A longer time between two ticks is a wrong clock or a machine in storage: it is not booked. Tuning: two months of
downtime, the longest billing period, are still booked."""

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

    def workloads(self) -> dict[str, float]:
        """Shares of what uses the GPU now without being a server, by name."""
        return {key.workload.name: weight for key, weight in self.shares if key.workload is not None}


@dataclass(frozen=True, slots=True)
class Pending:
    """Time of a GPU for which no joules have been read yet: [start, end) in wall seconds, and its shares.

    Joules that arrive are spread evenly over the pending time, so energy that a hardware counter gathered over an outage
    lands in the states, and at the prices, of the time in which it was used.
    """

    start_seconds: float
    end_seconds: float
    shares: Shares


def pending_seconds(pending: Iterable[Pending]) -> float:
    """How long they are together."""
    return sum(piece.end_seconds - piece.start_seconds for piece in pending)


@dataclass(frozen=True, slots=True)
class Check:
    """A hardware counter compared with the integral of average power, in windows of a minute."""

    seconds: float = 0.0
    """Of the current window."""
    counter_joules: float = 0.0
    power_joules: float = 0.0
    raw_joules: float | None = None
    """The counter at the last reading, accepted or not."""
    disagreements: int = 0
    """Consecutive windows in which the two disagreed."""
    agreements: int = 0
    """Consecutive windows in which the two agreed."""
    distrusted: bool = False
    """The counter is wrong or frozen: power is integrated instead."""
    has_agreed: bool = False
    """The two have agreed in a window before."""
    power_stuck: bool = False
    """The power sensor returns the same value, whatever the counter does: it is neither shown nor compared."""
    watts: float | None = None
    """Power at the last reading."""
    same_seconds: float = 0.0
    """For so long every reading of power has been that."""


class PowerLimit(NamedTuple):
    """A power limit that a GPU enforces from a moment on."""

    since_seconds: float
    """Unix time of the first reading that had it."""
    watts: float


@dataclass(frozen=True, slots=True)
class GpuAccount:
    """One GPU in the books."""

    gpu: Gpu
    up: bool = False
    sample: GpuSample | None = None
    """The last reading, for the gauges. None while the GPU is not up."""
    baseline_joules: float | None = None
    """Raw hardware counter up to which joules are booked."""
    baseline_watts: float | None = None
    """Power at the baseline, where power is integrated."""
    baseline_at_seconds: float | None = None
    """Monotonic instant of the baseline. None after a restart: then the wall clock bounds the gap."""
    baseline_wall_seconds: float | None = None
    last_gap_seconds: float = 0.0
    """Time between the baseline and the one before it."""
    earlier_gap_seconds: float = 0.0
    """The same for the baseline before."""
    mark_joules: float | None = None
    """Value of the raw counter before it stepped back, until it has moved on below that."""
    still_since_seconds: float | None = None
    """Monotonic instant of the hardware counter's last move, while it does not move; else None."""
    refresh_seconds: float = 0.0
    """The counter's refresh interval is not longer than this, as far as is known; 0: its usual interval is assumed."""
    still_joules: float = 0.0
    """Integral of power since then: booked if the counter proves frozen."""
    check: Check = field(default_factory=Check)
    pending: tuple[Pending, ...] = ()
    unmetered_seconds: float = 0.0
    anomalies: Mapping[str, int] = field(default_factory=dict)
    throttle_seconds: Mapping[str, float] = field(default_factory=dict)
    throttle_raw: Mapping[str, float] = field(default_factory=dict)
    unreported_since_seconds: float | None = None
    """Unix time since which no meter reports it (a driver that is not loaded yet); None while one does. That time is booked
    when a meter reports it again."""
    calibration: Calibration | None = None
    """Applied to what is booked now. The baselines are raw readings."""
    division: Division | None = None
    """Its shares at the last tick. None before the first."""
    no_load_watts: float | None = None
    """What it draws while nothing on it computes. None until it is learned."""
    power_limit: PowerLimit | None = None
    """The last that was read. None while none was."""
    instance_joules: Mapping[tuple[str, str, SplitMethod], float] = field(default_factory=dict)
    """Estimates of its instances' energy, by (UUID of the instance, profile, method): parts of what is booked for it."""

    @property
    def usual_gap_seconds(self) -> float:
        """Time between two readings: the shorter of the last two, since one long gap is an outage and not a slow meter."""
        return min(self.last_gap_seconds, self.earlier_gap_seconds)

    @property
    def method(self) -> EnergyMethod:
        """How its joules are obtained now: from power if its counter is distrusted."""
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
    """Between the last two samples: a second for some meters, half a minute for others."""


@dataclass(frozen=True, slots=True)
class HostShare:
    """How the host's energy beyond the GPUs is obtained. Starts empty with the process, as its meters do."""

    method: HostMethod = HostMethod.NONE
    booked_joules: float = 0.0
    """GPUs and host since the node's last reading: its next one includes them."""
    owed_joules: float = 0.0
    """Booked above what the node used."""
    since_seconds: float | None = None
    """Unix time since which the node's use is known: earlier use of GPUs is not part of it."""
    release_watts: float = 0.0
    """Rate at which carried joules are released; 0: all at once."""


@dataclass(frozen=True, slots=True)
class WindowSample:
    """Cumulative totals of a server at one tick, for the live ratios. Keys: (model, kind), (model, boundary) ..."""

    at_seconds: float
    tokens: Mapping[tuple[str, TokenKind], float]
    amounts: Mapping[str, Amounts]
    """By model, all states."""
    single_node: bool = True
    """False if the server has GPUs on other nodes: tokens are complete here, joules and money are not."""
    behind_seconds: float = 0.0
    """The joules in ``amounts`` are those up to so long ago: the mean over the server's GPUs, weighted by their power. 0
    where every GPU was read at this tick."""
    energy_tokens: Mapping[tuple[str, TokenKind], float] | None = None
    """Tokens at that earlier moment; None: ``tokens``."""
    lost_joules: float = 0.0
    """Estimate of the joules of unmetered time of the server's GPUs, cumulative like ``amounts``."""
    awaited_joules: float = 0.0
    """Estimate of what GPUs that are down or overdue have used within the window: it may never be known."""

    @property
    def energy_at_seconds(self) -> float:
        """The moment up to which the joules are known."""
        return self.at_seconds - self.behind_seconds


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """One inference server in the books."""

    name: str
    up: bool = False
    active: bool = False
    """Whether it was working at its last reading."""
    since_wall_seconds: float | None = None
    """Since when it is observed: counters of a process that started later are counted from 0."""
    read_wall_seconds: float | None = None
    """When it was last read by this process. None before that."""
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
    """Last raw value by series key: rises are taken from it."""
    counted: Mapping[tuple[str, Role], float] = field(default_factory=dict)
    """Rises by (model, role), summed since the books began."""
    tokens: Mapping[tuple[str, TokenKind], float] = field(default_factory=dict)
    """The disjoint kinds derived from them. Never falls."""
    work: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Work units by (model, unit)."""
    requests: Mapping[str, float] = field(default_factory=dict)
    """Finished requests by model, where the engine counts them."""
    uncounted: Mapping[str, float] = field(default_factory=dict)
    """Finished requests with unknown tokens, by path."""
    tiers: Mapping[tuple[str, Tier], float] = field(default_factory=dict)
    """Cached input by (model, tier), as far as the engine reports tiers."""
    phase: Phase | None = None
    belongs: ServerWorkload = field(default_factory=ServerWorkload)
    """To whom it belonged when that was last known, without pod and container: they change."""
    loads: tuple[Load, ...] = ()
    models: tuple[str, ...] = ()
    """Models it serves, as last known: they share parked energy."""
    reference_cost: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By (model, reference)."""
    anomalies: Mapping[str, int] = field(default_factory=dict)
    """Values of its page that were not booked, by reason."""
    doubted: Mapping[str, float] = field(default_factory=dict)
    """Last implausible value by series key: further rises are taken from it until the series is plausible again. Starts
    empty with the process."""
    read_at_seconds: float | None = None
    """Monotonic instant of its last reading. None before this process has read it."""
    unread_since_seconds: float | None = None
    """Unix time of the last reading while its page cannot be read; None while it can, and before the first reading."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """Unix time at which it was last there, under "", and each of its models was last on its page; not to the second."""
    window: tuple[WindowSample, ...] = ()
    window_seconds: float = 0.0
    """The window wanted for this server's cadence."""
    phases: Phases | None = None
    """Its energy of prefill and decode; None before it was observed."""
    service: Service | None = None
    """Requests within its targets of latency; None where none were ever set."""


@dataclass(frozen=True, slots=True)
class SourceAccount:
    """Counts of one source that survive the process."""

    reads: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Correction:
    """What an operator has corrected in reports: counters never fall, so they keep what was booked."""

    at_seconds: float
    """Unix time of the use that is corrected."""
    server: str
    model: str
    kind: TokenKind
    tokens: float
    """Added to the report; negative where too many were booked."""
    reason: str
    made_seconds: float
    """Unix time of the entry."""
    author: str


@dataclass(frozen=True, slots=True)
class Books:
    """Everything. ``at`` is the tick up to which time is booked."""

    at: Instant | None = None
    resumed: bool = False
    """True if they were just read from disk: ``at.monotonic_seconds`` is 0 then if the machine has started since."""
    currency: str = ""
    gpus: Mapping[str, GpuAccount] = field(default_factory=dict)
    postings: Postings = field(default_factory=dict)
    hosts: Mapping[str, HostAccount] = field(default_factory=dict)
    host_carry_joules: float = 0.0
    """Host energy that no GPU energy has shared yet."""
    rows: Rows = field(default_factory=dict)
    held: Rows = field(default_factory=dict)
    """Entries in neither postings nor rows, because a server cannot be read (:mod:`tpw.ledger.outage`)."""
    served: ServedRows = field(default_factory=dict)
    month_kwh: Mapping[float, float] = field(default_factory=dict)
    """Priced facility kWh by start of the billing month, for prices with steps."""
    demand: Mapping[str, Demand] = field(default_factory=dict)
    """State of the month's peaks, by name of the charge."""
    standing_charges_since_seconds: float | None = None
    """Unix time since which standing charges are deferred because no GPU shares them. None: none are."""
    quarters: Mapping[float, float] = field(default_factory=dict)
    """Facility joules of the last rows, for a node that shares the charges of its site by energy. Not stored."""
    host_share: HostShare = field(default_factory=HostShare)
    servers: Mapping[str, ServerAccount] = field(default_factory=dict)
    sources: Mapping[str, SourceAccount] = field(default_factory=dict)
    corrections: tuple[Correction, ...] = ()
    """Entries of an operator, oldest first. They change reports, never counters."""
    recovered: int = 0
    """How often a damaged file was recovered."""
    polls: int = 0
    polls_skipped: int = 0
    tenants: TenantBooks | None = None
    """None where none are configured."""

    @property
    def charged_until_seconds(self) -> float | None:
        """Unix time up to which charges of the contract are booked. None while nothing is."""
        if self.standing_charges_since_seconds is not None:
            return self.standing_charges_since_seconds
        return None if self.at is None else self.at.wall_seconds
