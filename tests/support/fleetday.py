"""A day of a small fleet: what happens in it, as functions of time alone.

Two nodes of eight GPUs, three inference servers. ``chat`` follows the day; ``code`` works in office hours, takes two more
GPUs of the other node in the afternoon, and is down for twelve minutes at 15:00; ``big`` spans both nodes (its tokens are
counted on the first) and works in the night. Two GPUs belong to nobody, one of them is lost for an hour and a half, one
counter reports one wild value. Prices change through the day and are negative at noon. Both exporters restart. Nothing is
random: two runs give the same numbers.

:mod:`support.fleetrun` runs real daemons through it; :mod:`support.handbooks` calculates by hand what they must show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

DAY = 86400
START = 1_767_312_000
"""2026-01-02 00:00 UTC, a Friday."""
END = START + DAY
TICK = 60
"""Seconds between polls, and between scrapes (Prometheus' own default): everything that happens, happens at such a step."""

PUE = 1.25
JOB = "tpw-exporter"
CURRENCY = "EUR"
HOSTING = 0.12
"""Money per GPU and hour."""
API = {"input": 0.20e-6, "cached_input": 0.05e-6, "output": 0.85e-6}
CARBON = ("average_direct", 290.0)
"""Basis, and grams per kWh."""
MONTH = 31 * DAY
"""January."""
QUARTER = 900
"""Seconds of a demand interval."""
RENTED = 2.10
"""Money per GPU and hour."""


@dataclass(frozen=True, slots=True)
class Node:
    """One exporter and its host."""

    instance: str
    gpu_name: str
    """Name of its GPUs."""
    hardware: float
    """Money per GPU and hour."""
    memory_bytes: float
    scraped_after_seconds: int
    """Prometheus spreads its scrapes over the interval: so long after a poll."""
    absences: tuple[tuple[int, int], ...]
    """Seconds of the day between which the exporter does not run: the last poll before, the first one after."""
    cpu_watts: float = 0.0
    """Of the host; 0: no meter of it is readable."""
    demand_per_kw_month: float = 0.0
    """Money for a kW of the month's highest quarter-hour; 0: demand is not charged."""
    fixed_per_month: float = 0.0
    """Money that the contract costs in any case."""


def _clock(hour: int, minute: int = 0) -> int:
    return hour * 3600 + minute * 60


A = Node(
    "node-a:10101", "NVIDIA H100 80GB HBM3", 0.95, 80 * 2.0**30, 7, ((_clock(10), _clock(10, 4)),), 205.0, 11.5, 60.0
)
B = Node(
    "node-b:10101",
    "NVIDIA H200",
    1.15,
    141 * 2.0**30,
    16,
    # Restarted with another configuration: "code" gets two more GPUs, and gives them back.
    ((_clock(11, 59), _clock(12, 1)), (_clock(19, 29), _clock(19, 31))),
)
NODES = (A, B)


@dataclass(frozen=True, slots=True)
class Server:
    """One inference server. Its tokens are counted on node A."""

    name: str
    model: str
    most: float
    """Requests running at the top."""
    half: float
    """Requests at which half the speed of a full batch is reached."""
    speed: float
    """Output tokens per second and GPU of a full batch."""
    inputs: float
    """Computed prompt tokens per output token."""
    cached: float
    """Prompt tokens from the cache per output token."""


SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        Server("chat", "llama-3.3-70b", 64.0, 14.0, 820.0, 2.6, 1.4),
        Server("code", "qwen-coder-32b", 24.0, 8.0, 1050.0, 6.0, 3.5),
        Server("big", "deepseek-r1", 120.0, 40.0, 540.0, 1.2, 0.2),
    )
}
SPANS_NODES = ("code", "big")
"""Servers that have GPUs on both nodes at some time of the day, and are configured so."""
CODE_DOWN = (_clock(15), _clock(15, 12))
LOST = (_clock(13), _clock(14, 30))
NONSENSE = _clock(11)
"""When the energy counter of one GPU reports one wild value."""


@dataclass(frozen=True, slots=True)
class FleetGpu:
    """One GPU of the fleet."""

    node: Node
    index: int

    @property
    def uuid(self) -> str:
        """Made up, and stable."""
        letter = self.node.instance[5]
        return f"GPU-{letter}{self.index}5c1f20-8d3b-4f4e-9a51-0c2e7d64b{ord(letter):03d}{self.index}"

    @property
    def integrated(self) -> bool:
        """Whether it has no energy counter, so that its power is integrated."""
        return self.node is B and self.index == 5


GPUS = tuple(FleetGpu(node, index) for node in NODES for index in range(8))
WILD = FleetGpu(A, 3)
LOST_GPU = FleetGpu(B, 7)


def wave(at: float, period: float, phase: float = 0.0) -> float:
    """A sine between 0 and 1."""
    return 0.5 + 0.5 * math.sin(2 * math.pi * (at / period + phase))


def second_of_day(at: float) -> float:
    """Seconds since midnight, UTC."""
    return at % DAY


def hour_of(at: float) -> float:
    """Hour of the UTC day, with its fraction."""
    return at % DAY / 3600


PRICES = ((0, 0.12), (6, 0.24), (12, -0.03), (14, 0.24), (17, 0.38), (20, 0.24), (22, 0.12))
"""(from hour, price per kWh): cheap nights, an expensive evening, and a negative price at noon, when the sun shines."""


def price_at(at: float) -> float:
    """Price per kWh."""
    return [price for hour, price in PRICES if hour <= hour_of(at)][-1]


def next_change(at: float) -> float:
    """When the price changes next; at midnight it does not."""
    day = at - at % DAY
    return next(day + hour * 3600 for hour in (6, 12, 14, 17, 20, 22, 30) if day + hour * 3600 > at)


def runs(node: Node, at: float) -> bool:
    """Whether the exporter polls at this instant."""
    return not any(stopped < second_of_day(at) < began for stopped, began in node.absences)


def begins(node: Node, at: float) -> bool:
    """Whether this poll is the first of a process."""
    return at == START or any(second_of_day(at) == began for _, began in node.absences)


def owner(gpu: FleetGpu, at: float) -> str:
    """Which server is configured to own a GPU in the step that ends now; "" for none."""
    if gpu.node is A:
        return "chat" if gpu.index < 4 else "code" if gpu.index < 6 else "big"
    if gpu.index < 4:
        return "big"
    afternoon = B.absences[0][1] <= second_of_day(at) < B.absences[1][1]
    return "code" if gpu.index < 6 and afternoon else ""


def answers(server: str, at: float) -> bool:
    """Whether the server's page can be read."""
    return server != "code" or not CODE_DOWN[0] <= second_of_day(at) < CODE_DOWN[1]


def lost(gpu: FleetGpu, at: float) -> bool:
    """Whether a GPU does not answer."""
    return gpu == LOST_GPU and LOST[0] <= second_of_day(at) < LOST[1]


def running(server: str, at: float) -> float:
    """Requests that a server works on, in the step that ends now."""
    if not answers(server, at):
        return 0.0
    hour = hour_of(at)
    most = SERVERS[server].most
    ripple = 0.82 + 0.18 * wave(at, 1700) * wave(at, 610, 0.3) + 0.12 * wave(at, 240, 0.7)
    if server == "chat":
        return round(most * (0.06 + 0.8 * max(0.0, math.sin((hour - 5) / 18 * math.pi)) ** 1.3) * ripple)
    if server == "code":
        busy = 7.5 <= hour < 19.5 and not 12.2 <= hour < 12.7
        return round(most * (0.35 + 0.65 * wave(at, 14400, 0.1)) * ripple) if busy else 0.0
    busy = hour < 6.5 or hour >= 21 or 15 <= hour < 16.5
    return round(most * (0.75 + 0.25 * wave(at, 9000)) * ripple) if busy else 0.0


def waiting(server: str, at: float) -> float:
    """Requests in its queue."""
    return max(0.0, running(server, at) - 55.0)


def made(server: str, at: float) -> dict[str, int]:
    """Tokens of the step that ends now, by kind, on all GPUs of the server."""
    one = SERVERS[server]
    load = running(server, at)
    gpus = sum(1 for gpu in GPUS if owner(gpu, at) == server)
    output = round(one.speed * gpus * load / (load + one.half) * TICK) if load else 0
    return {"output": output, "input": round(output * one.inputs), "cached_input": round(output * one.cached)}


def finished(server: str, at: float) -> int:
    """Requests that ended in the step that ends now."""
    return made(server, at)["output"] // 310


def busy(gpu: FleetGpu, at: float) -> float:
    """How full the batch on a GPU is, 0 to 1."""
    server = owner(gpu, at)
    load = running(server, at) if server else 0.0
    return load / (load + SERVERS[server].half) if load else 0.0


def watts(gpu: FleetGpu, at: float) -> float:
    """Power of a GPU in the step that ends now."""
    full = busy(gpu, at)
    base = 118.0 + 560.0 * full if full else 116.0 if owner(gpu, at) else 71.0
    return base + 3 * gpu.index + 6 * wave(at, 300)


def sensed(gpu: FleetGpu, at: float) -> float:
    """What its power sensor reports: GPUs differ a little, and one is off by a few per cent."""
    off = 0.03 if gpu == FleetGpu(A, 2) else 0.0
    return watts(gpu, at) * (1.0 + off + 0.004 * math.sin(at / 977 + gpu.index))


def utilization(gpu: FleetGpu, at: float) -> float:
    """Share of time with a kernel resident."""
    full = busy(gpu, at)
    return min(1.0, 0.35 + full) if full else 0.0


def memory_used(gpu: FleetGpu, at: float) -> float:
    """Bytes."""
    return (68.0 + 6 * busy(gpu, at) if owner(gpu, at) else 0.6) * 2**30


def temperature(gpu: FleetGpu, at: float) -> float:
    """Degrees Celsius."""
    return round(31 + watts(gpu, at) / 17 + gpu.index / 2, 1)


def throttled(gpu: FleetGpu, at: float) -> dict[str, float]:
    """Seconds of the step that ends now in which the clocks were held down, by reason."""
    full = busy(gpu, at)
    hot = gpu.index == 3 and full > 0.78
    return {"sw_power_cap": TICK * 0.3 * full, "hw_thermal": TICK * 0.16 if hot else 0.0}


def configuration(node: Node, at: float, urls: Mapping[str, str], sysfs: str) -> str:
    """The exporter's configuration file as it stands at this instant."""
    servers = []
    for name, server in SERVERS.items():
        gpus = [gpu.index for gpu in GPUS if gpu.node is node and owner(gpu, at) == name]
        if gpus:
            spans = "spans_nodes: true, " if name in SPANS_NODES else ""
            address = f"url: {urls[name]}, {spans}" if node is A else ""
            servers.append(f"  - {{name: {name}, {address}model: {server.model}, gpus: {gpus}}}")
    zones = [
        f'      - {{price_per_kwh: {price}, hours: "{begin:02d}:00-{end:02d}:00"}}'
        for (begin, price), end in zip(PRICES, [hour for hour, _ in PRICES[1:]] + [24], strict=True)
    ]
    api = ", ".join(f"{kind}: {price * 1e6!r}" for kind, price in API.items())
    lines = [
        f"polling: {{interval: {TICK}s, window: {2 * TICK}s}}",
        "discovery: {processes: false}",
        f"host: {{meters: [{'rapl' if node.cpu_watts else ''}], sysfs: {sysfs}}}",
        "servers:",
        *servers,
        f"facility: {{pue: {PUE}}}",
        "tariff:",
        f"  currency: {CURRENCY}",
        "  timezone: UTC",
        "  energy:",
        "    kind: time_of_use",
        "    price_per_kwh: 9.99",
        "    zones:",
        *zones,
        *([f"  demand: {{price_per_kw_month: {node.demand_per_kw_month}}}"] if node.demand_per_kw_month else []),
        *([f"  fixed: {{per_month: {node.fixed_per_month}}}"] if node.fixed_per_month else []),
        f"carbon: {{kind: static, grams_per_kwh: {CARBON[1]}, basis: {CARBON[0]}}}",
        "costs:",
        f"  hardware: {{price_per_gpu: {node.hardware * 8760 * 4!r}, years: 4}}",
        f"  hosting: {{price_per_kw_month: {HOSTING * 730!r}, kw_per_gpu: 1}}",
        "references:",
        f"  - {{name: rented-h100, price_per_gpu_hour: {RENTED}}}",
        f"  - {{name: api-70b, price_per_million: {{{api}}}}}",
    ]
    return "\n".join(lines) + "\n"
