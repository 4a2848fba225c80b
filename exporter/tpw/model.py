"""Identities, readings and units that all packages share.

Imports no other package of the project and does no I/O. Everything here is immutable: a source creates a reading, the
ledger processes it, the exposition shows it.

Units are in the names: ``_watts``, ``_joules``, ``_seconds``, ``_bytes``, ``_celsius``, ``_ratio`` (0 to 1).
``at_seconds`` is always a *monotonic* instant (``time.monotonic``), ``wall_seconds`` always Unix time. ``None`` means
unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

UNKNOWN_MODEL = "unknown"
"""Model label of tokens and joules of servers that name no model."""

LABEL_LENGTH = 128
"""Longest label value taken from others. Tuning: paths of models in a cache have about a hundred characters."""


def label_text(text: str) -> str:
    """A label value from another process, safe to store and to expose: without control characters and half surrogates, and
    of at most :data:`LABEL_LENGTH` characters. What is cut ends in a digest of the whole, so that it stays one value."""
    if len(text) <= LABEL_LENGTH and text.isprintable():
        return text
    from hashlib import sha256

    clean = "".join(letter if letter.isprintable() else "?" for letter in text[:LABEL_LENGTH])
    if len(text) <= LABEL_LENGTH:
        return clean
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: LABEL_LENGTH - 9]}~{digest}"


class State(StrEnum):
    """What a GPU was doing over an interval."""

    ACTIVE = "active"
    """A server that owns it was working: requests were running, or token counters rose."""
    PARKED = "parked"
    """Owned, a model is loaded, no work."""
    STARTING = "starting"
    """A server's process holds it, and the server is not ready yet: it loads weights."""
    OTHER = "other"
    """Used by a process that is no server that is read here: training, a notebook. Never waste."""
    IDLE = "idle"
    """Nobody uses it: no process holds it, or the holders neither compute nor draw more than its no-load power."""
    PLANNED_OFF = "planned_off"
    """Parked or idle in a planned pause (setting ``planned_off``). Never waste."""


WASTED = frozenset({State.PARKED, State.IDLE})
"""States in which a GPU does nothing for anyone."""


STARTING_SECONDS = 3600.0
"""A process that is not ready this long after its start is not starting any more. Chosen above the loading time of the
largest models from a network file system."""


class WorkloadKind(StrEnum):
    """How the workload of a process is identified, best first."""

    KUBERNETES = "kubernetes"
    """A pod."""
    SLURM = "slurm"
    """A job."""
    CONTAINER = "container"
    """A container of Docker, Podman or another runtime."""
    SYSTEMD = "systemd"
    """A unit."""
    COMMAND = "command"
    """User and command of the process."""
    SERVER = "server"
    """A server that is known by its name only, because its page cannot be read."""
    UNKNOWN = "unknown"
    """The processes on the GPU are not known here: the driver does not list them, or they have exited."""
    OTHER = "other"
    """Workloads beyond the number that is kept apart."""


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """To whom a process belongs. A value of a metric label: bounded in number, without process ids."""

    kind: WorkloadKind
    name: str


@dataclass(frozen=True, slots=True)
class ServerWorkload:
    """To whom a server belongs, for joins: labels of an info metric, "" where unknown."""

    workload: str = ""
    kind: str = ""
    """``deployment``, ``statefulset``, ``pod`` and others of Kubernetes, or a :class:`WorkloadKind` other than that."""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    deployment: str = ""
    """Servers that make one service together."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels of its pod that are exposed, by the name that they have in metrics."""


UNKNOWN_WORKLOAD = Workload(WorkloadKind.UNKNOWN, "unknown")
OTHER_WORKLOAD = Workload(WorkloadKind.OTHER, "other")


class TokenKind(StrEnum):
    """The three disjoint kinds of tokens, like the lines of an API price list."""

    OUTPUT = "output"
    INPUT = "input"
    CACHED_INPUT = "cached_input"


class Boundary(StrEnum):
    """What a quantity of energy includes."""

    GPU = "gpu"
    """GPU power as measured on the device."""
    FACILITY = "facility"
    """The GPU and its share of the host, times PUE."""


CAPITAL = ("hardware", "gpu_hour")
"""Components of cost that pay for the GPUs: bought or rented."""
ALL_IN = ("gpu_hour", "hosting")
"""Components that contain the electricity where it has no price of its own."""


class Scope(StrEnum):
    """Which costs a cost per token includes."""

    ENERGY = "energy"
    OPERATING = "operating"
    """Everything that is booked but capital: electricity, hosting, standing charges, running costs."""
    FULL = "full"
    """Everything that is booked. Only where the GPUs and their electricity are part of it."""


class PowerScope(StrEnum):
    """What a GPU's own meter includes: superchips may report the whole module."""

    GPU = "gpu"
    MODULE = "module"
    MEMORY = "memory"


class EnergyMethod(StrEnum):
    """How a GPU's energy is obtained, best first."""

    COUNTER = "counter"
    """Difference of two readings of a hardware energy counter."""
    AVERAGE_POWER = "average_power"
    """Integral of a sensor that reports a mean, usually of the last second."""
    INSTANT_POWER = "instant_power"
    """Trapezoid over a sensor that reports instants: aliases with periodic loads."""
    EXTERNAL = "external"
    """Another meter: a PDU, a BMC, a Prometheus query."""
    CONFIGURED = "configured"
    """A fixed number of watts from the configuration."""
    NONE = "none"
    """The GPU reports neither power nor energy."""


class Cadence(StrEnum):
    """When an engine's output counter rises."""

    STEP = "step"
    """At every engine step: rates are live."""
    CHUNK = "chunk"
    """Whenever a chunk reaches the frontend: rates are live."""
    FINISH = "finish"
    """Only when a request ends: a rate over a short window is zero, then a spike."""
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why a read gave no reading. A failure is never reported as zero."""

    UNSUPPORTED = "unsupported"
    """The device or server does not offer the value."""
    ABSENT = "absent"
    """No driver, no library, HTTP 404."""
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
    """HTTP 503: the model is loading."""
    DISABLED = "disabled"
    """HTTP 501, or a page without the engine's series: metrics are off. Also: released on request."""
    MALFORMED = "malformed"
    """The answer cannot be parsed, or is implausible."""
    NOT_YET = "not_yet"
    """A price feed that has not published."""
    INTERNAL = "internal"
    """A bug in the exporter, caught by the poller."""


class SourceError(Exception):
    """A source could not read. Raised by sources, caught by the poller.

    Args:
        reason: one of the closed set of reasons.
        detail: what happened, in one line, for the log.
        hint: what the operator can do, or "".
        fatal: True when only a new process recovers (the driver's library was replaced on disk): the daemon exits with 1
            and its supervisor restarts it.
        retry_after_seconds: how long the service asked to wait.
    """

    def __init__(
        self, reason: Reason, detail: str, hint: str = "", *, fatal: bool = False, retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint
        self.fatal = fatal
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks: monotonic for durations, wall clock for prices and books."""

    monotonic_seconds: float
    wall_seconds: float


# --------------------------------------------------------------------------------------------------------------- power


@dataclass(frozen=True, slots=True)
class Die:
    """A further die that the driver lists as a GPU of its own, with its energy in the meter of the first die."""

    uuid: str
    index: int
    pci_bus_id: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU as its meter found it. Changes only when the GPU is probed again."""

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
    """Why no better method is used; "" for the best method."""
    remarks: tuple[str, ...] = ()
    """Further facts about its values, in sentences."""
    max_power_watts: float | None = None
    """The highest power limit that can be set: an upper bound for the plausibility of energy deltas."""
    mig_uuids: tuple[str, ...] = ()
    """UUIDs of its MIG instances. Power is that of the whole GPU."""
    dies: tuple[Die, ...] = ()
    """Further dies of the same GPU. A server that names one of them owns this GPU."""
    power_averaged: bool = False
    """Whether ``GpuSample.power_watts`` is a mean of the last second: only then can its integral check a counter."""

    def all_dies(self) -> tuple[Die, ...]:
        """This GPU and its further dies, each with the names a server may use for it."""
        return (Die(self.uuid, self.index, self.pci_bus_id), *self.dies)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Correction from a comparison with a better meter: true watts = ``gain`` * reported watts + ``offset_watts``.

    The error of GPU power sensors has this form, is stable for one GPU and differs between GPUs (arXiv 2312.02741).
    """

    gain: float = 1.0
    offset_watts: float = 0.0

    def watts(self, reported_watts: float) -> float:
        """Corrected power."""
        return max(0.0, self.gain * reported_watts + self.offset_watts)

    def joules(self, reported_joules: float, seconds: float) -> float:
        """Corrected energy of an interval. Never below 0, so that no sum of it falls."""
        return max(0.0, self.gain * reported_joules + self.offset_watts * seconds)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of one GPU. A field that could not be read is None."""

    uuid: str
    at_seconds: float
    """Monotonic instant of the energy or power reading."""
    energy_joules: float | None = None
    """Raw hardware counter, with any epoch; may reset."""
    power_watts: float | None = None
    """Sensor value; integrated where there is no counter."""
    power_mean_seconds: float = 0.0
    """Length of the window before ``at_seconds`` over which ``power_watts`` is a mean; 0: an instant, or unknown."""
    power_limit_watts: float | None = None
    power_floor_watts: float | None = None
    """Floor of power smoothing, which keeps the GPU's power from falling below it; None without one."""
    utilization_ratio: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_celsius: float | None = None
    throttle_seconds: tuple[tuple[str, float], ...] | None = None
    """(reason, cumulative seconds) since any epoch; may reset."""
    process_use: Mapping[int, float] | None = None
    """Mean multiprocessor use of each process since the sample before, 0 to 1; processes without use are missing. None
    where it is unknown, and where it was not read because one process holds the GPU."""


@dataclass(frozen=True, slots=True)
class GpuFault:
    """One GPU that gave no sample in this reading."""

    uuid: str
    at_seconds: float
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class AcceleratorReading:
    """One reading of an accelerator meter."""

    gpus: tuple[Gpu, ...]
    """All GPUs found since the meter was first opened, lost ones too."""
    samples: tuple[GpuSample, ...]
    faults: tuple[GpuFault, ...] = ()


@dataclass(frozen=True, slots=True)
class HostSample:
    """One host component (cpu, dram, node) at one moment."""

    component: str
    at_seconds: float
    energy_joules: float | None = None
    """Monotone while the meter object exists (wraps are undone); any epoch."""
    power_watts: float | None = None
    """For meters that report only power: integrated by trapezoid."""
    max_power_watts: float | None = None


@dataclass(frozen=True, slots=True)
class HostReading:
    """One reading of a host meter."""

    samples: tuple[HostSample, ...]


# -------------------------------------------------------------------------------------------------------------- tokens


class Role(StrEnum):
    """What a server's series counts, before the kinds of tokens are made disjoint."""

    OUTPUT = "output"
    INPUT = "input"
    """Prompt tokens computed, cached ones excluded."""
    PROMPT = "prompt"
    """Prompt tokens, cached ones included: INPUT = PROMPT - CACHED_INPUT."""
    CACHED_INPUT = "cached_input"
    ELSEWHERE = "elsewhere"
    """Tokens that the other instance of a prefill and decode pair counts: followed, and never booked here."""
    REQUESTS = "requests"
    """Finished requests."""


class Tier(StrEnum):
    """Where cached prompt tokens came from."""

    DEVICE = "device"
    """The memory of the GPU."""
    HOST = "host"
    DISK = "disk"
    REMOTE = "remote"
    """A store or a server on another machine."""


class Phase(StrEnum):
    """The two phases of generation. An instance of a prefill and decode pair does one of them."""

    PREFILL = "prefill"
    """Computing the prompt."""
    DECODE = "decode"
    """Generating the tokens."""
    BOTH = "both"
    """Configured for a decode instance that computes prompts itself too, whatever its command line has. Of no energy."""
    ROUTER = "router"
    """In front of other servers: it counts the tokens that they count. Of no energy."""


@dataclass(frozen=True, slots=True)
class KvTransfer:
    """How a server exchanges computed prompts with others, from its command line."""

    phase: Phase | None = None
    """None: both, or unknown."""
    from_store: bool = False
    """Whether what comes from outside comes from a store of its own, so that no other server counts it."""


@dataclass(frozen=True, slots=True)
class TokenSeries:
    """One counter series of a server's page."""

    role: Role
    model: str
    key: str
    """Identity of the series across reads: its name and labels as on the page."""
    value: float
    tier: Tier | None = None
    """Of cached prompt tokens, where the series has one."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in a server at one moment, by model. None where the engine does not report them."""

    model: str
    running: float | None
    waiting: float | None


@dataclass(frozen=True, slots=True)
class InFlight:
    """Output tokens of running requests, which are not in a counter of the server yet.

    Read after the counters: a request that ends in between is then in neither, never in both, so that both together are at
    most what was generated.
    """

    model: str
    output_tokens: float


@dataclass(frozen=True, slots=True)
class WorkSeries:
    """A counter of work that is not measured in tokens (audio seconds, images, requests)."""

    unit: str
    model: str
    key: str
    value: float


class Slo(StrEnum):
    """A latency of requests that can have a target."""

    TTFT = "ttft"
    """From the arrival of a request to its first output token."""
    TPOT = "tpot"
    """Mean time of a request's further output tokens."""
    E2E = "e2e"
    """From the arrival of a request to its end."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One histogram of latencies around a target. All values are cumulative."""

    within: float = 0.0
    """Requests up to the highest bound that is not above the target."""
    at_most: float = 0.0
    """Requests up to the lowest bound that is not below the target: none of the others met it."""
    requests: float = 0.0
    seconds: float = 0.0
    """Of all requests together."""

    def since(self, before: Latency) -> Latency:
        """What came between an earlier value and this one."""
        return Latency(
            self.within - before.within,
            self.at_most - before.at_most,
            self.requests - before.requests,
            self.seconds - before.seconds,
        )

    @property
    def is_valid(self) -> bool:
        """Whether requests can have risen by this."""
        return 0.0 <= self.within <= self.at_most <= self.requests and self.seconds >= 0.0


@dataclass(frozen=True, slots=True)
class LatencySeries:
    """One histogram series of a server's page, as far as a target needs it."""

    slo: Slo
    model: str
    key: str
    value: Latency


@dataclass(frozen=True, slots=True)
class ServiceReading:
    """The latencies of a server for which targets are set."""

    targets: tuple[tuple[Slo, float], ...]
    """Seconds of each."""
    series: tuple[LatencySeries, ...] = ()
    is_paired: bool = False
    """Whether every request that ends is in each of the engine's histograms, so that targets can be judged together."""


@dataclass(frozen=True, slots=True)
class UncountedSeries:
    """A counter of requests with unknown tokens, by the path of the request."""

    path: str
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
    transfer: KvTransfer = KvTransfer()


@dataclass(frozen=True, slots=True)
class ServerOutcome:
    """What one read of one inference server gave."""

    server: str
    at_seconds: float


@dataclass(frozen=True, slots=True)
class ServerReading(ServerOutcome):
    """One reading of one inference server."""

    engine: str
    cadence: Cadence
    version: str
    identity: ProcessIdentity | None
    """None if it is unknown."""
    series: tuple[TokenSeries, ...]
    loads: tuple[Load, ...] = ()
    work: tuple[WorkSeries, ...] = ()
    uncounted: tuple[UncountedSeries, ...] = ()
    started_wall_seconds: float | None = None
    """When the process behind the counters started, with its counters at 0; None where unknown."""
    in_flight: tuple[InFlight, ...] = ()
    note: str = ""
    """What this server does not report although it could, and how to enable it; "" where nothing is missing."""
    address: str = ""
    """Where it was read. Without an identity, another address means another server."""
    phase: Phase | None = None
    refused: int = 0
    """Samples of counters with a value that no counter has."""
    service: ServiceReading | None = None
    """None where no targets of latency are set."""


@dataclass(frozen=True, slots=True)
class ServerFault(ServerOutcome):
    """A server that gave no reading."""

    reason: Reason
    detail: str


# ----------------------------------------------------------------------------------------------------------- ownership


class Attribution(StrEnum):
    """How the GPUs of a server are determined."""

    CONFIGURED = "configured"
    PROCESSES = "processes"
    """Listening socket -> process tree -> process list of the driver."""
    KUBERNETES = "kubernetes"
    """The kubelet's device assignment."""
    ENVIRONMENT = "environment"
    """CUDA_VISIBLE_DEVICES of the process."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which GPUs a server owns now.

    ``held``: whether a process still holds the GPUs. A server that no longer answers owns its GPUs only while they are held
    (contract, section "Field terms").
    """

    server: str
    gpus: frozenset[str]
    method: Attribution
    held: bool = True
    model: str = ""
    """Configured model, for engines that name none and for ranks with their counters on another server."""
    has_counters: bool = True
    """False for ranks without an address: they are active while their GPUs are utilised."""
    pids: frozenset[int] = frozenset()
    """Its processes; empty where they are unknown."""
    instances: frozenset[str] = frozenset()
    """UUIDs of the MIG instances it uses. A GPU of ``gpus`` without an instance in this set is owned as a whole."""
    spans_nodes: bool = False
    """True where it has GPUs on other nodes too: only part of the energy of its tokens is booked here."""
    holders_known: bool = True
    """Whether the driver lists the processes on its GPUs. If not, ``held`` is False and means nothing."""
    started_wall_seconds: float | None = None
    """When the oldest of its processes started; None where it is unknown."""


@dataclass(frozen=True, slots=True)
class Occupants:
    """The processes on one GPU that belong to no server, as last listed by the driver."""

    workloads: Mapping[int, Workload] = field(default_factory=dict)
    """By process id."""
    is_known: bool = True
    """False if the driver does not list the processes on this GPU, or lists ids of another pid namespace: an empty mapping
    does not mean that nobody holds it then."""
    memory_bytes: Mapping[int, float] = field(default_factory=dict)
    """Memory that each process on the GPU holds, servers' processes included. Empty where it is unknown."""
    instances: Mapping[int, str] = field(default_factory=dict)
    """UUID of the MIG instance that each process is on."""


# ------------------------------------------------------------------------------------------------------------- sharing


@dataclass(frozen=True, slots=True)
class Instance:
    """One MIG instance of a GPU, as last read."""

    uuid: str
    profile: str = ""
    """For example 1g.10gb."""
    slices: int = 1
    """Compute slices."""
    pids: frozenset[int] = frozenset()
    busy_ratio: float | None = None
    """Share of its own multiprocessors that were busy since the last read. None where it is not measured."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The processes on one GPU and how they share it. Read less often than power: it takes the driver milliseconds."""

    pids: frozenset[int] | None = None
    """Process ids with a context on it. None where unknown."""
    memory_bytes: Mapping[int, float] | None = None
    """Memory that each process holds. None where unknown."""
    instances: tuple[Instance, ...] = ()
    """Empty where the GPU is not partitioned."""
    slices: int = 0
    """Compute slices of the whole partitioned GPU."""
    busy_comparable: bool = True
    """Whether ``busy_ratio`` is known to be relative to an instance's own slices. False while it may be relative to the
    whole GPU and the instances differ in size."""
    baseline_power_ratio: float | None = None
    """Share of its power that a partitioned GPU draws independently of the work of its instances: the least power ever read
    divided by the mean since the last read."""


class HostMethod(StrEnum):
    """How the host enters the facility boundary. See :mod:`tpw.ledger.host`."""

    NODE = "node_minus_gpus"
    """Power of the whole node minus its GPUs."""
    COMPONENTS = "components"
    """CPU and memory as measured."""
    IN_GPUS = "in_gpus"
    """The GPUs' own meters include the CPU: nothing is added."""
    NONE = "none"
    """The host is not included."""


class SplitMethod(StrEnum):
    """How a GPU's time and energy are split among servers, or among its instances."""

    SOLE = "sole"
    """No split: no other process on it computed."""
    SM = "sm"
    """By multiprocessor use of each process over the same time (time-slicing, MPS)."""
    TOKENS = "tokens"
    """By tokens, prefill and decode weighted: the driver does not report the use by process."""
    REQUESTS = "requests"
    """By running requests: some of the servers count tokens only when a request ends."""
    MEMORY = "memory"
    """By the memory that processes hold: what they compute is unknown."""
    EVEN = "even"
    """Evenly: nothing is known about what they compute."""
    GPM = "gpm"
    """By MIG instance: baseline power by compute slices, the rest by busy slices."""
    SLICES = "slices"
    """By MIG instance: by compute slices."""


@dataclass(frozen=True, slots=True)
class Part:
    """Weight of an instance within its GPU. The weights of one GPU sum to 1 or less."""

    instance: str
    profile: str
    weight: float
    method: SplitMethod
    busy: bool | None = None
    """Whether it was recently busy; None where it is not measured."""


# --------------------------------------------------------------------------------------------------------------- money


class PriceState(StrEnum):
    """How reliable a price is."""

    FINAL = "final"
    PRELIMINARY = "preliminary"
    FORECAST = "forecast"
    FALLBACK = "fallback"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class PriceInterval:
    """All-in price per kWh over the half-open interval [start, end), Unix seconds. May be negative."""

    start_seconds: float
    end_seconds: float
    price_per_kwh: float
    """With steps: the price of the first kWh of the billing month."""
    state: PriceState = PriceState.FINAL
    steps: tuple[tuple[float, float], ...] = ()
    """(kWh, difference), ascending: beyond that many kWh of the billing month, the difference is added to the price."""
    month_start_seconds: float | None = None
    """Start of the billing month of the steps, which contains the interval. Set where there are steps."""

    def stepped(self, kwh: float, month_kwh: float) -> Iterator[tuple[float, float]]:
        """(kWh, price) of each step that further kWh fall in, after ``month_kwh`` of the billing month."""
        used, left = month_kwh, kwh
        for beyond, _ in self.steps:
            if used < beyond and left > 0.0:
                part = min(left, beyond - used)
                yield part, self.price_after(used)
                used, left = (beyond, left - part) if part < left else (used + part, 0.0)
        if left > 0.0 or kwh == 0.0:
            yield left, self.price_after(used)

    def price_after(self, month_kwh: float) -> float:
        """Price of the next kWh after ``month_kwh`` were used in the billing month."""
        return self.price_per_kwh + sum(
            difference for threshold_kwh, difference in self.steps if month_kwh >= threshold_kwh
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """A cost per GPU and time (hardware, hosting, operations)."""

    component: str
    per_gpu_second: float


@dataclass(frozen=True, slots=True)
class FixedEmissions:
    """Grams of CO2 equivalent that do not depend on the moment, each as (basis, grams)."""

    per_kwh: tuple[tuple[str, float], ...] = ()
    per_gpu_hour: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StandingCharge:
    """A cost of the contract independent of use: fixed charges, contracted power. For the whole exporter."""

    component: str
    per_month: float = 0.0
    """Per billing month."""
    per_day: float = 0.0


@dataclass(frozen=True, slots=True)
class Reference:
    """Price of the same work elsewhere: per token (an API) or per GPU time (rented GPUs), in the exporter's currency."""

    name: str
    price_per_gpu_second: float | None = None
    price_per_token: Mapping[TokenKind, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of money for each day, week or month: of one server, of a namespace, of a tenant, or of everything."""

    name: str
    amount: float
    period: str
    server: str = ""
    namespace: str = ""
    tenant: str = ""


# ------------------------------------------------------------------------------------------------------------- sources


_REPLICA = ":replica-"


def replica_name(server: str, number: int) -> str:
    """The name under which the second and further replicas of a server on this node have an account of their own."""
    return f"{server}{_REPLICA}{number}"


def server_of_replica(name: str) -> str:
    """The server of a replica; any other name is that of the server."""
    server, _, number = name.rpartition(_REPLICA)
    return server if server and number.isdecimal() else name


def server_source(server: str) -> str:
    """The source name of a server's page. Names are composed here and never split."""
    return f"server:{server}"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Health of one source. Counts are since the books began, not since the process started."""

    name: str
    up: bool
    read_duration_seconds: float | None = None
    last_success_wall_seconds: float | None = None
    reads: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    """(reason, count)."""
    detail: str = ""
    hint: str = ""
