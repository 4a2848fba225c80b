"""Identities, readings and units that every room shares.

Imports nothing of ours and does no I/O. Everything here is frozen: a reading is made once by a source, carried through
the ledger and shown by the exposition, and nobody changes it on the way.

Units are in the names: ``_watts``, ``_joules``, ``_seconds``, ``_bytes``, ``_celsius``, ``_ratio`` (0 to 1).
``at_seconds`` is always a *monotonic* instant (``time.monotonic``), ``wall_seconds`` always Unix time. ``None`` means
"not known", never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

UNKNOWN_MODEL = "unknown"
"""Model label of tokens and joules whose server names no model."""


class State(StrEnum):
    """What a GPU was doing over an interval."""

    ACTIVE = "active"
    """A server that owns it was working: requests running, or tokens moved."""
    PARKED = "parked"
    """Owned, a model is loaded, no work."""
    IDLE = "idle"
    """Nobody owns it."""


class TokenKind(StrEnum):
    """The three disjoint kinds of tokens, like the lines of an API price list."""

    OUTPUT = "output"
    INPUT = "input"
    CACHED_INPUT = "cached_input"


class Boundary(StrEnum):
    """What a quantity of energy includes."""

    GPU = "gpu"
    """The board."""
    FACILITY = "facility"
    """The board and its share of the host, times PUE."""


class Scope(StrEnum):
    """Which costs a cost per token includes."""

    ENERGY = "energy"
    FULL = "full"


class PowerScope(StrEnum):
    """What a GPU's own meter includes (superchips report the whole module)."""

    GPU = "gpu"
    MODULE = "module"
    MEMORY = "memory"


class EnergyMethod(StrEnum):
    """How a GPU's joules are obtained, best first."""

    COUNTER = "counter"
    """Difference of a hardware energy counter."""
    AVERAGE_POWER = "average_power"
    """Integral of a sensor that reports the mean of the last second."""
    INSTANT_POWER = "instant_power"
    """Trapezoid over a sensor that reports an instant: aliases with periodic work."""
    EXTERNAL = "external"
    """Somebody else's meter (a PDU, a BMC, a Prometheus query)."""
    CONFIGURED = "configured"
    """A fixed number of watts from the configuration."""
    NONE = "none"
    """The board reports neither power nor energy."""


class Cadence(StrEnum):
    """When an engine's output counter moves."""

    STEP = "step"
    """At every engine step: the rate is live."""
    CHUNK = "chunk"
    """Whenever a chunk reaches the frontend: live."""
    FINISH = "finish"
    """Only when a request ends: short windows read zero, then a spike."""
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why a read ended without a reading. Failure is data, never a zero."""

    UNSUPPORTED = "unsupported"
    """The thing cannot tell, and never will."""
    ABSENT = "absent"
    """Not here: no driver, no library, HTTP 404."""
    PERMISSION = "permission"
    UNAUTHORIZED = "unauthorized"
    """HTTP 401 or 403."""
    LOST = "lost"
    """The GPU has fallen off the bus."""
    BROKEN = "broken"
    """The device or its driver answers with an error."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    """Connection refused, name not found, reset."""
    LOADING = "loading"
    """HTTP 503: the model is being loaded."""
    DISABLED = "disabled"
    """HTTP 501, or a page without the engine's series: metrics are switched off."""
    MALFORMED = "malformed"
    """An answer that is not what it should be."""
    NOT_YET = "not_yet"
    """A price feed that has not published."""
    INTERNAL = "internal"
    """A bug of ours, caught at the poller."""


class SourceError(Exception):
    """A source could not read. Raised by sources, caught once, by the poller.

    Args:
        reason: which of the closed set of reasons.
        detail: for the person who reads the log: what happened, in one line.
        hint: how to allow it, or "" where nothing can be done.
        fatal: True when only a new process can mend it (a driver library replaced on disk): the daemon exits with 1 and
            its supervisor starts it afresh.
    """

    def __init__(self, reason: Reason, detail: str, hint: str = "", *, fatal: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint
        self.fatal = fatal


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks: monotonic for durations, wall for prices and books."""

    monotonic_seconds: float
    wall_seconds: float


# --------------------------------------------------------------------------------------------------------------- power


@dataclass(frozen=True, slots=True)
class Die:
    """A further die of a board that shows as a GPU of its own, and whose energy the board's meter tells."""

    uuid: str
    index: int
    pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical board that reports power, as its meter found it. Changes only when the board is probed again."""

    uuid: str
    index: int
    name: str = ""
    vendor: str = "nvidia"
    architecture: str = ""
    driver_version: str = ""
    pci_bus_id: str = ""
    power_scope: PowerScope = PowerScope.GPU
    energy_method: EnergyMethod = EnergyMethod.COUNTER
    method_note: str = ""
    """Why no better method is used; "" when the method is the best there is."""
    remarks: tuple[str, ...] = ()
    """What else there is to know about its figures, in sentences."""
    max_power_watts: float | None = None
    """The most this board can draw (the highest limit it can be given): bounds what an energy delta may be."""
    mig_uuids: tuple[str, ...] = ()
    """UUIDs of the instances it is cut into. Power is of the whole board."""
    dies: tuple[Die, ...] = ()
    """Further dies of the same board: servers may name them, and have the board then."""
    power_averaged: bool = False
    """Whether ``GpuSample.power_watts`` is a mean over the last second: only then can its integral check a counter."""

    def all_dies(self) -> tuple[Die, ...]:
        """By what it may be called: itself, and its further dies."""
        return (Die(self.uuid, self.index, self.pci_bus_id), *self.dies)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What somebody found with a better meter: true watts = ``gain`` * shown watts + ``offset_watts``.

    The error of boards' sensors is of this form, stable on one board and different between boards (arXiv 2312.02741).
    """

    gain: float = 1.0
    offset_watts: float = 0.0

    def watts(self, shown: float) -> float:
        """Of power."""
        return max(0.0, self.gain * shown + self.offset_watts)

    def joules(self, shown: float, seconds: float) -> float:
        """Of energy used over so many seconds. Never below 0, so nothing that sums it up can fall."""
        return max(0.0, self.gain * shown + self.offset_watts * seconds)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One look at one GPU. A field that could not be read in this look is None."""

    uuid: str
    at_seconds: float
    """Monotonic instant of the energy or power reading."""
    energy_joules: float | None = None
    """The raw hardware counter: any epoch, may reset."""
    power_watts: float | None = None
    """What the sensor says now; what is integrated where there is no counter."""
    power_mean_seconds: float = 0.0
    """``power_watts`` is the mean of so many seconds before ``at_seconds``; 0: an instant, or not known."""
    power_limit_watts: float | None = None
    power_floor_watts: float | None = None
    """Below which power smoothing holds the board up on purpose; None where there is none."""
    utilization_ratio: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    throttle_seconds: tuple[tuple[str, float], ...] | None = None
    """(reason, cumulative seconds) since some epoch of the driver's; may reset."""


@dataclass(frozen=True, slots=True)
class GpuFault:
    """One GPU that did not answer in this look; the others did."""

    uuid: str
    at_seconds: float
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class AcceleratorReading:
    """Everything one accelerator meter saw in one look."""

    gpus: tuple[Gpu, ...]
    """All GPUs the meter has ever found since it was opened, lost ones too."""
    samples: tuple[GpuSample, ...]
    faults: tuple[GpuFault, ...] = ()


@dataclass(frozen=True, slots=True)
class HostSample:
    """One host component (cpu, dram, node) at one moment."""

    component: str
    at_seconds: float
    energy_joules: float | None = None
    """Monotone within the life of the meter object (wraps are already undone); any epoch."""
    power_watts: float | None = None
    """For meters that only know watts: integrated by trapezoid."""
    max_power_watts: float | None = None


@dataclass(frozen=True, slots=True)
class HostReading:
    """Everything one host meter saw in one look."""

    samples: tuple[HostSample, ...]


# -------------------------------------------------------------------------------------------------------------- tokens


class Role(StrEnum):
    """What a server's series counts, before the kinds are made disjoint."""

    OUTPUT = "output"
    INPUT = "input"
    """Prompt tokens computed, cached ones excluded."""
    PROMPT = "prompt"
    """Prompt tokens, cached ones included: INPUT = PROMPT - CACHED_INPUT."""
    CACHED_INPUT = "cached_input"
    REQUESTS = "requests"
    """Finished requests."""


@dataclass(frozen=True, slots=True)
class TokenSeries:
    """One counter series of a server's page, as it stands now."""

    role: Role
    model: str
    key: str
    """Identifies the series across reads: its name and labels as on the page."""
    value: float


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in a server at one moment, by model. None where the engine does not say."""

    model: str
    running: float | None
    waiting: float | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Output tokens of requests that are being worked on, which no counter of the server holds yet.

    Read after the counters: a request that ends in between is then in neither, never in both, so that counter and these
    together are at most what was generated.
    """

    model: str
    output_tokens: float


@dataclass(frozen=True, slots=True)
class WorkSeries:
    """A counter of work where tokens are not the measure (audio seconds, images, requests)."""

    unit: str
    model: str
    key: str
    value: float


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """The process behind a server's counters: another value is another process."""

    started_wall_seconds: float
    pid: int | None = None
    """From the operating system: a restarted server may continue from files. None if the page itself reports its start:
    the counters began at 0 then."""


@dataclass(frozen=True, slots=True)
class OsProcess:
    """The process that listens at a server's address, from the operating system."""

    pid: int
    started_wall_seconds: float
    keeps_counters: bool = False
    """Whether its counters may continue from files of an earlier process."""


@dataclass(frozen=True, slots=True)
class ServerReading:
    """One look at one inference server."""

    server: str
    at_seconds: float
    engine: str
    cadence: Cadence
    version: str
    identity: ProcessIdentity | None
    """None if it is unknown."""
    series: tuple[TokenSeries, ...]
    loads: tuple[Load, ...] = ()
    work: tuple[WorkSeries, ...] = ()
    started_wall_seconds: float | None = None
    """When the process behind the counters began, and they at 0 with it; None where that is not known."""
    in_flight: tuple[InFlight, ...] = ()
    note: str = ""
    """What this server could tell and does not, and how to let it; "" where nothing is missing."""
    address: str = ""
    """Where it was read: another one is another server, where no identity says more."""


@dataclass(frozen=True, slots=True)
class ServerFault:
    """A server that did not give a reading."""

    server: str
    at_seconds: float
    reason: Reason
    detail: str


# ----------------------------------------------------------------------------------------------------------- ownership


class Attribution(StrEnum):
    """How it is known which GPUs are a server's."""

    CONFIGURED = "configured"
    PROCESSES = "processes"
    """Listening socket -> process tree -> the driver's process list."""
    KUBERNETES = "kubernetes"
    """The kubelet's device assignment."""
    ENVIRONMENT = "environment"
    """CUDA_VISIBLE_DEVICES of the process."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which GPUs a server owns now.

    ``held`` is whether some process still holds the GPUs: a server that answers no more owns its GPUs only while it is
    held (contract, section "Field terms").
    """

    server: str
    gpus: frozenset[str]
    method: Attribution
    held: bool = True
    model: str = ""
    """Configured model, for servers whose engine names none and for ranks whose counters are elsewhere."""
    has_counters: bool = True
    """False for ranks without an address: their activity is their GPUs' utilisation."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """By GPU: what its processes used of the multiprocessors of late, a weight against other servers' there. Not named:
    not known."""
    instances: frozenset[str] = frozenset()
    """UUIDs of the instances (MIG) it sits on. A GPU of ``gpus`` with none of its instances here is owned as a whole."""
    spans_nodes: bool = False
    """True where it has GPUs on other nodes as well: what is booked here is not all that its tokens took."""


# ------------------------------------------------------------------------------------------------------------- sharing


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a partitioned GPU (MIG), as the driver told of it last."""

    uuid: str
    profile: str = ""
    """Such as 1g.10gb."""
    slices: int = 1
    """Compute slices it has."""
    pids: frozenset[int] = frozenset()
    busy_ratio: float | None = None
    """Share of its own multiprocessors that were busy since the last look. None where that is not measured."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who is on one GPU, and how they share it. Read on a slow tier: it costs the driver milliseconds."""

    pids: frozenset[int] | None = None
    """Process ids with a context on it. None where the driver does not say."""
    usage: Mapping[int, float] | None = None
    """What each process used of the multiprocessors since the last look, percent; one that used nothing is left out. A
    sampled weight, not a measurement. None where the driver does not say."""
    instances: tuple[Instance, ...] = ()
    """Empty where the GPU is not partitioned."""
    slices: int = 0
    """Compute slices a partitioned GPU has in all."""
    busy_comparable: bool = True
    """Whether ``busy_ratio`` of its instances surely weighs by their slices. False while it might as well be a share of the
    whole GPU's multiprocessors, and the instances differ in size."""
    baseline_power_ratio: float | None = None
    """Share of its power of late that a partitioned GPU draws whatever its instances do: the least power seen over the
    mean since the last look."""


class HostMethod(StrEnum):
    """By which rule the host enters the facility boundary. See :mod:`tpw.ledger.host`."""

    NODE = "node_minus_gpus"
    """The node's meter less the boards."""
    COMPONENTS = "components"
    """CPU and memory as read."""
    IN_GPUS = "in_gpus"
    """The boards' own meters count the CPU: nothing is added."""
    NONE = "none"
    """Not at all."""


class SplitMethod(StrEnum):
    """How a GPU's time and energy were split among servers, or among its instances."""

    SOLE = "sole"
    """Not at all: one server owns it, or one of its servers was working."""
    SM = "sm"
    """By what each server's processes used of the multiprocessors (time-slicing, MPS)."""
    EVEN = "even"
    """Evenly: the driver does not tell who used how much."""
    GPM = "gpm"
    """By instance (MIG): standing power by compute slices, the rest by slices that were busy."""
    SLICES = "slices"
    """By instance (MIG): by compute slices."""


@dataclass(frozen=True, slots=True)
class Part:
    """An instance's part of its GPU. The weights of a GPU's parts sum to 1 or less."""

    instance: str
    profile: str
    weight: float
    method: SplitMethod
    busy: bool | None = None
    """Whether it was busy of late; None where that is not measured."""


# --------------------------------------------------------------------------------------------------------------- money


class PriceState(StrEnum):
    """How far a price can be relied on."""

    FINAL = "final"
    PRELIMINARY = "preliminary"
    FORECAST = "forecast"
    FALLBACK = "fallback"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class PriceInterval:
    """The all-in price per kWh over the half-open interval [start, end), Unix seconds. May be negative."""

    start_seconds: float
    end_seconds: float
    price_per_kwh: float
    """Of the first kWh of the billing month, where there are steps."""
    state: PriceState = PriceState.FINAL
    steps: tuple[tuple[float, float], ...] = ()
    """(kWh, difference), ascending: beyond so many kWh of the billing month each kWh costs so much more, or less."""
    month_start_seconds: float | None = None
    """Which billing month's kWh count. Given where there are steps; the interval lies within that month."""

    def price_after(self, month_kwh: float) -> float:
        """Price of the next kWh when so many of the month are used."""
        return self.price_per_kwh + sum(difference for beyond, difference in self.steps if month_kwh >= beyond)


@dataclass(frozen=True, slots=True)
class Rate:
    """A cost that runs with time, per GPU (hardware, hosting, operations)."""

    component: str
    per_gpu_second: float


@dataclass(frozen=True, slots=True)
class StandingCharge:
    """What a contract costs however much is used: fixed charges, committed power. For the whole exporter."""

    component: str
    per_month: float = 0.0
    """Per billing month."""
    per_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What the same work would cost elsewhere: per token (API) or per GPU time (rented). Currency is the exporter's."""

    name: str
    price_per_gpu_second: float | None = None
    price_per_token: Mapping[TokenKind, float] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The life of one source as the poller sees it. Counts are since the books began, not since the process."""

    name: str
    up: bool
    read_duration_seconds: float | None = None
    last_success_wall_seconds: float | None = None
    reads: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    """(reason, count)."""
    detail: str = ""
    hint: str = ""
