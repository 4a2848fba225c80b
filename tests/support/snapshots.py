"""Snapshots for tests of what shows them: rich, empty, and of any size, at any tick.

Numbers are made up but hang together: tokens, joules and money follow from rates, so two ticks of one snapshot differ as
a real second would make them differ.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import (
    Books,
    Division,
    GpuAccount,
    HostAccount,
    HostShare,
    PostingKey,
    ServerAccount,
    WindowSample,
)
from tpw.ledger.periods import Periods, Sums
from tpw.ledger.phases import Phases, PhaseWeights
from tpw.ledger.service import Joint, Outcomes, Service
from tpw.ledger.site import SiteNow
from tpw.ledger.tenants import Method, TenantBooks, TenantKey
from tpw.model import (
    Attribution,
    Budget,
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
    PriceInterval,
    PriceState,
    Reference,
    ServerWorkload,
    Slo,
    SourceStatus,
    SplitMethod,
    State,
    Tier,
    TokenKind,
    Workload,
    WorkloadKind,
)
from tpw.snapshot import Carbon, DemandNow, Prices, Snapshot, StoreStatus
from tpw.tariff.curve import PriceCurve

EPOCH = 1_767_225_600.0
"""Wall clock of tick 0: 2026-01-01T00:00:00Z."""

BOOT = 1_000.0
"""Monotonic clock of tick 0."""

PRICE = 0.25
PUE = 1.3
HARDWARE_PER_SECOND = 0.00025

_KINDS = ((TokenKind.OUTPUT, 400.0), (TokenKind.INPUT, 150.0), (TokenKind.CACHED_INPUT, 50.0))


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-0000-4000-8000-00000000000{index % 10}"


def gpu(index: int, name: str = "NVIDIA H100 80GB HBM3") -> Gpu:
    return Gpu(
        uuid=uuid(index),
        index=index,
        name=name,
        architecture="hopper",
        driver_version="570.86.15",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        max_power_watts=700.0,
    )


def sample_of(index: int, watts: float, utilization: float = 0.0) -> GpuSample:
    return GpuSample(
        uuid=uuid(index),
        at_seconds=BOOT,
        energy_joules=1e9,
        power_watts=watts,
        power_limit_watts=700.0,
        power_floor_watts=200.0 if index == 1 else None,
        utilization_ratio=utilization,
        memory_used_bytes=float(68 * 2**30 if utilization else 2**29),
        memory_total_bytes=float(80 * 2**30),
        temperature_celsius=40.0 + watts / 20.0,
        throttle_seconds=(("power_cap", 3.5),),
    )


def posting(seconds: float, watts: float, *, priced: bool = True) -> Amounts:
    joules = seconds * watts
    facility = joules * PUE
    cost = {"energy": facility / 3.6e6 * PRICE, "hardware": seconds * HARDWARE_PER_SECOND} if priced else {}
    return Amounts(seconds, joules, facility, 0.0 if priced else 12.5, cost)


def window(model: str, watts: float, now: float, *, busy: float = 1.0, priced: bool = True) -> tuple[WindowSample, ...]:
    """Sixty seconds of a model that makes the tokens of ``_KINDS`` per second, times ``busy``, at steady watts."""
    samples = []
    for step in range(61):
        second = now - BOOT - 60 + step
        joules = second * watts
        cost = {"energy": joules * PUE / 3.6e6 * PRICE, "hardware": second * HARDWARE_PER_SECOND}
        samples.append(
            WindowSample(
                at_seconds=now - 60 + step,
                tokens={(model, kind): second * rate * busy for kind, rate in _KINDS},
                amounts={model: Amounts(joules=joules, facility_joules=joules * PUE, cost=cost if priced else {})},
            )
        )
    return tuple(samples)


def sole(index: int, server: str, model: str, state: State = State.ACTIVE) -> Division:
    """A GPU that one server has to itself."""
    return Division(((PostingKey(uuid(index), server, model, state), 1.0),), SplitMethod.SOLE)


def empty_snapshot() -> Snapshot:
    """A daemon that just began on a machine without anything."""
    at = Instant(BOOT, EPOCH)
    return Snapshot(
        at=at,
        books=Books(at=at),
        notes=("no tariff is configured, so no cost is shown: add `tariff:` to the configuration",),
    )


def fleet_snapshot(gpus: int = 8, servers: int = 0, tick: int = 100, *, priced: bool = True) -> Snapshot:
    """``servers`` servers on one GPU each, the other GPUs idle; for measurements."""
    now, wall = BOOT + 3600.0 + tick, EPOCH + 3600.0 + tick
    seconds = 3600.0 + tick
    at = Instant(now, wall)
    accounts, postings, owners = {}, {}, {}
    for index in range(gpus):
        busy = index < servers
        watts = 417.25 + index if busy else 71.5 + index
        accounts[uuid(index)] = GpuAccount(
            gpu(index),
            up=True,
            sample=sample_of(index, watts + tick % 7, 0.93 if busy else 0.0),
            unmetered_seconds=0.25,
            throttle_seconds={"power_cap": 3.5, "thermal": 0.0},
            division=sole(index, f"server-{index}", f"acme/model-{index}-70b") if busy else None,
        )
        postings[PostingKey(uuid(index), "", "", State.IDLE)] = posting(
            120.0 if busy else seconds, watts, priced=priced
        )
        if busy:
            server, model = f"server-{index}", f"acme/model-{index}-70b"
            postings[PostingKey(uuid(index), server, model, State.ACTIVE)] = posting(seconds, watts, priced=priced)
            postings[PostingKey(uuid(index), server, model, State.PARKED)] = posting(60.0, 110.0, priced=priced)
            owners[server] = ServerAccount(
                server,
                up=True,
                active=True,
                engine="vllm",
                cadence=Cadence.STEP,
                version="0.11.0",
                attribution=Attribution.PROCESSES,
                gpus=frozenset({uuid(index)}),
                tokens={(model, kind): seconds * rate for kind, rate in _KINDS},
                requests={model: float(tick)},
                loads=(Load(model, 12.0 + tick % 3, 0.0),),
                models=(model,),
                window=window(model, watts, now, priced=priced),
                window_seconds=60.0,
            )
    return Snapshot(
        at=at,
        books=Books(
            at=at,
            currency="EUR" if priced else "",
            gpus=accounts,
            postings=postings,
            hosts={"cpu": HostAccount(seconds * 90.0, 90.0)},
            servers=owners,
            polls=tick,
        ),
        components=("hardware",),
        sources=(
            SourceStatus("nvml", up=True, read_duration_seconds=0.0012, last_success_wall_seconds=wall, reads=tick),
            *(
                SourceStatus(
                    f"server:{name}",
                    up=True,
                    read_duration_seconds=0.0023 + tick % 5 * 1e-4,
                    last_success_wall_seconds=wall,
                    reads=tick,
                )
                for name in owners
            ),
        ),
        prices=_prices(wall) if priced else Prices(),
        poll_lag_seconds=0.0004,
        store=StoreStatus(wall - 4.0, ""),
    )


def _prices(wall: float) -> Prices:
    hour = wall - wall % 3600.0
    now = PriceInterval(hour, hour + 3600.0, PRICE)
    following = PriceInterval(hour + 3600.0, hour + 7200.0, 0.10, PriceState.FORECAST)
    later = PriceInterval(hour + 7200.0, hour + 30 * 3600.0, 0.30)
    return Prices("EUR", now, following, PriceCurve.from_intervals((now, following, later)))


def periods_to_date() -> Periods:
    """A day and a month of two hours, after three days that the forecast follows."""

    def sums(start: float, end: float, hours: float) -> Sums:
        seconds = hours * 3600.0
        used = {
            ("chat", "active"): replace(posting(seconds, 1210.5), credit=0.01 * hours),
            ("(idle)", "idle"): posting(seconds, 140.5),
            ("(other)", "other"): posting(120.0, 290.0),
        }
        return Sums(start, end, used, {"chat": Served({kind: seconds * rate for kind, rate in _KINDS})})

    periods = {
        "day": sums(EPOCH, EPOCH + 86400.0, 2.0),
        "week": sums(EPOCH - 3 * 86400.0, EPOCH + 4 * 86400.0, 74.0),
        "month": sums(EPOCH, EPOCH + 31 * 86400.0, 2.0),
    }
    return Periods(periods, sums(EPOCH - 7 * 86400.0, inf, 74.0), EPOCH - 3 * 86400.0)


def rich_snapshot(tick: int = 0) -> Snapshot:
    """One of everything: busy, parked, shared, idle and lost GPUs; servers up, down, without counters, and taken out."""
    now, wall = BOOT + 7200.0 + tick, EPOCH + 7200.0 + tick
    seconds = 7200.0 + tick
    at = Instant(now, wall)
    chat, embed, code = "acme/chat-70b", "acme/embed", 'odd "name"\\with\nall\u00e9'
    accounts = {
        uuid(0): GpuAccount(
            gpu(0),
            up=True,
            sample=sample_of(0, 612.5, 0.97),
            throttle_seconds={"power_cap": 41.25},
            calibration=Calibration(1.02, -3.5),
            division=sole(0, "chat", chat),
        ),
        uuid(1): GpuAccount(gpu(1), up=True, sample=sample_of(1, 598.0, 0.95), division=sole(1, "chat", chat)),
        uuid(2): GpuAccount(
            gpu(2),
            up=True,
            sample=sample_of(2, 118.0),
            division=Division(
                (
                    (PostingKey(uuid(2), "embed", embed, State.PARKED), 0.375),
                    (PostingKey(uuid(2), "", "", State.IDLE), 0.625),
                ),
                SplitMethod.GPM,
                (Part("MIG-2a", "3g.40gb", 0.375, SplitMethod.GPM), Part("MIG-2b", "1g.10gb", 0.125, SplitMethod.GPM)),
            ),
            instance_joules={
                ("MIG-2a", "3g.40gb", SplitMethod.SLICES): 1000.0,
                ("MIG-2a", "3g.40gb", SplitMethod.GPM): 250_000.5,
                ("MIG-2b", "1g.10gb", SplitMethod.GPM): 90_000.0,
                ("MIG-gone", "1g.10gb", SplitMethod.GPM): 7.0,
            },
        ),
        uuid(3): GpuAccount(gpu(3), up=True, sample=sample_of(3, 70.5)),
        uuid(4): GpuAccount(
            gpu(4),
            up=False,
            unmetered_seconds=812.0,
            anomalies={"reset": 1, "implausible": 2},
        ),
        "sim:odd": GpuAccount(
            Gpu(
                "sim:odd",
                5,
                name="Odd GPU",
                vendor="other",
                energy_method=EnergyMethod.NONE,
                method_note="the GPU reports neither power nor energy",
            ),
            up=True,
            sample=GpuSample("sim:odd", BOOT, utilization_ratio=0.5),
            unmetered_seconds=seconds,
        ),
    }
    postings = {
        PostingKey(uuid(0), "", "", State.IDLE): posting(300.0, 70.0),
        PostingKey(uuid(0), "chat", chat, State.ACTIVE): posting(seconds - 900.0, 610.1),
        PostingKey(uuid(0), "chat", chat, State.PARKED): posting(600.0, 118.3),
        PostingKey(uuid(1), "", "", State.IDLE): posting(300.0, 70.0),
        PostingKey(uuid(1), "chat", chat, State.ACTIVE): posting(seconds - 900.0, 600.7),
        PostingKey(uuid(1), "chat", chat, State.PARKED): posting(600.0, 117.9),
        PostingKey(uuid(2), "embed", embed, State.PARKED): posting(seconds, 118.0),
        PostingKey(uuid(2), "code", code, State.ACTIVE): Amounts(
            10.0, 4000.0, 5200.0, 100.0, {"energy": 0.0, "hardware": 0.0025}, 0.0125, {"location": 1.75}, 12.0, 40.0
        ),
        PostingKey(uuid(3), "", "", State.IDLE): posting(seconds, 70.5),
        PostingKey(uuid(3), "", "", State.OTHER, Workload(WorkloadKind.SLURM, "job 4711")): posting(120.0, 290.0),
        PostingKey(uuid(4), "gone", "acme/old", State.ACTIVE): posting(1000.0, 500.0),
    }
    servers = {
        "chat": ServerAccount(
            "chat",
            anomalies={"implausible": 2},
            uncounted={"/v1/audio/speech": 3.0},
            tiers={(chat, Tier.DEVICE): 30.0 * seconds, (chat, Tier.HOST): 15.0 * seconds},
            up=True,
            active=True,
            engine="vllm",
            cadence=Cadence.STEP,
            version="0.11.0",
            attribution=Attribution.PROCESSES,
            gpus=frozenset({uuid(0), uuid(1)}),
            tokens={(chat, kind): seconds * rate for kind, rate in _KINDS},
            requests={chat: 1412.0},
            loads=(Load(chat, 23.0, 4.0),),
            models=(chat,),
            reference_cost={(chat, "api-70b"): 3.5, (chat, "rented-h100"): 10.76},
            window=window(chat, 1210.5, now),
            window_seconds=60.0,
            phases=Phases(
                chat,
                {(chat, Phase.PREFILL): 2.4e5, (chat, Phase.DECODE): 6.1e5},
                weights=PhaseWeights(0.21, 2.4, 0.08),
            ),
            service=Service(
                targets=((Slo.E2E, 30.0), (Slo.TTFT, 2.0)),
                outcomes={
                    (chat, Slo.E2E): Outcomes(5100.0, 60.0, 12.0),
                    (chat, Slo.TTFT): Outcomes(5000.0, 172.0, 0.0),
                },
                seconds={(chat, Slo.E2E): 61200.0, (chat, Slo.TTFT): 2100.0},
                joint={chat: Joint(Outcomes(4930.0, 172.0, 68.0))},
            ),
        ),
        "embed": ServerAccount(
            "embed",
            up=True,
            engine="sglang",
            cadence=Cadence.FINISH,
            attribution=Attribution.CONFIGURED,
            gpus=frozenset({uuid(2)}),
            tokens={(embed, TokenKind.INPUT): 0.0},
            work={(embed, "images"): 12.0},
            loads=(Load(embed, 0.0, None),),
            models=(embed,),
            window=window(embed, 118.0, now, busy=0.0),
            window_seconds=300.0,
        ),
        "code": ServerAccount(
            "code",
            up=False,
            engine="llamacpp",
            cadence=Cadence.FINISH,
            attribution=Attribution.PROCESSES,
            tokens={(code, TokenKind.OUTPUT): 250.0},
            loads=(Load(code, 3.0, 0.0),),
            models=(code,),
        ),
        "gone": ServerAccount(
            "gone", engine="vllm", tokens={("acme/old", TokenKind.OUTPUT): 9e6}, models=("acme/old",)
        ),
    }
    return Snapshot(
        at=at,
        books=Books(
            at=at,
            currency="EUR",
            gpus=accounts,
            postings=postings,
            hosts={"cpu": HostAccount(seconds * 141.0, 141.5), "dram": HostAccount(seconds * 22.0, None)},
            host_share=HostShare(HostMethod.COMPONENTS),
            servers=servers,
            polls=7200 + tick,
            polls_skipped=2,
            tenants=TenantBooks(
                postings={
                    TenantKey("chat", chat, State.ACTIVE, "red", Method.MEASURED): Amounts(
                        seconds, 4.1e6, 5.3e6, 0.0, {"energy": 0.4, "hardware": 1.1}, 0.02, {"location": 510.0}
                    ),
                    TenantKey("chat", chat, State.ACTIVE, "blue", Method.MEASURED): posting(seconds - 900.0, 300.5),
                    TenantKey("chat", chat, State.ACTIVE, "unattributed", Method.REST): posting(600.0, 90.0),
                    TenantKey("chat", chat, State.PARKED, "unattributed", Method.REST): posting(1200.0, 118.1),
                },
                tokens={
                    ("chat", chat, team, kind): seconds * rate * part
                    for kind, rate in _KINDS
                    for team, part in (("red", 0.5), ("blue", 0.25))
                },
            ),
        ),
        sources=(
            SourceStatus("nvml", True, 0.0011, wall, 7200 + tick, (("lost", 812),)),
            SourceStatus(
                "rapl",
                False,
                0.0001,
                None,
                3,
                (("permission", 3),),
                detail="energy_uj of intel-rapl:0 may not be read",
                hint="give the exporter read access: chmod o+r /sys/class/powercap/intel-rapl:0/energy_uj",
            ),
            SourceStatus("server:chat", True, 0.0031, wall, 7200 + tick),
            SourceStatus("server:embed", True, 0.0025, wall, 7200 + tick),
            SourceStatus(
                "server:code",
                False,
                0.5,
                wall - 75.0,
                7200 + tick,
                (("timeout", 3), ("unreachable", 75)),
                detail="connection refused at 127.0.0.1:8081",
                hint="is the server running?",
            ),
            SourceStatus("tariff", True, 0.02, wall - 600.0, 2),
        ),
        owners={name: ServerWorkload(deployment="assistant") for name in ("chat", "embed")},
        carbon=Carbon("location", 388.0),
        demand=DemandNow(4120.0, 4650.5, 14.2),
        components=("hardware",),
        periods=periods_to_date(),
        site=SiteNow("berlin", "gpu", 6.0, 640.0, 6.0 / 640.0),
        advice={"idle": 667.95, "parked": 0.0},
        budgets=(Budget("all", 9000.0, "month"), Budget("chat", 25.0, "day", server="chat")),
        pue=PUE,
        prices=_prices(wall),
        references=(
            Reference("rented-h100", price_per_gpu_second=2.69 / 3600),
            Reference(
                "api-70b",
                price_per_token={
                    TokenKind.INPUT: 0.59e-6,
                    TokenKind.CACHED_INPUT: 0.3e-6,
                    TokenKind.OUTPUT: 0.79e-6,
                },
            ),
        ),
        poll_lag_seconds=0.0012,
        interval_seconds=1.0,
        store=StoreStatus(wall - 3.0, ""),
        notes=("RAPL is not readable, so the host's share of energy is not known",),
    )
