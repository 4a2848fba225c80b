"""A made-up day of a small fleet, as two exporters would have exposed it: for drawing boards and for testing queries.

Two nodes of eight GPUs, three inference servers. ``chat`` follows the day, ``code`` works in office hours and takes two
more GPUs of the other node in the afternoon, ``big`` spans both nodes (its tokens are counted on the first) and works in
the night. Two GPUs belong to nobody, one is lost for an hour and a half, prices change through the day and are negative
at noon. Nothing is random: two runs give the same bytes.

``python -m support.fleetday END_UNIX_SECONDS DAYS STEP_SECONDS`` writes OpenMetrics for
``promtool tsdb create-blocks-from openmetrics``.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TextIO

Labels = tuple[tuple[str, str], ...]

PUE = 1.25
HOST_SHARE = 0.15
"""Joules of the host per joule of its GPUs."""
HARDWARE = {"NVIDIA H100 80GB HBM3": 0.95, "NVIDIA H200": 1.15}
HOSTING = 0.12
"""Money per GPU and hour."""
API = {"input": 0.20e-6, "cached_input": 0.05e-6, "output": 0.85e-6}
RENTED = 2.10
JOB = "tpw-exporter"
NODES = {"node-a:10101": "NVIDIA H100 80GB HBM3", "node-b:10101": "NVIDIA H200"}
SERVERS = {
    # name: (model, engine, most running, half-load of the batch, output tokens/s per GPU at full batch, in/out, cached/out)
    "chat": ("llama-3.3-70b", "vllm", 64.0, 14.0, 820.0, 2.6, 1.4),
    "code": ("qwen-coder-32b", "sglang", 24.0, 8.0, 1050.0, 6.0, 3.5),
    "big": ("deepseek-r1", "vllm", 120.0, 40.0, 540.0, 1.2, 0.2),
}
TOKENS_ON = "node-a:10101"


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU of the fleet."""

    node: str
    index: int

    @property
    def uuid(self) -> str:
        """Made up, and stable."""
        return f"GPU-{self.node[5]}{self.index}5c1f20-8d3b-4f4e-9a51-0c2e7d64b{ord(self.node[5]):03d}{self.index}"


BOARDS = tuple(Board(node, index) for node in NODES for index in range(8))


def wave(at: float, period: float, phase: float = 0.0) -> float:
    """A sine between 0 and 1."""
    return 0.5 + 0.5 * math.sin(2 * math.pi * (at / period + phase))


def hour_of(at: float) -> float:
    """Hour of the UTC day, with its fraction."""
    return at % 86400 / 3600


def price_at(at: float) -> float:
    """Price per kWh: cheap nights, a dear evening, and more sun than anybody wants at noon."""
    hour = hour_of(at)
    if hour < 6 or hour >= 22:
        return 0.12
    if 12 <= hour < 14:
        return -0.03
    if 17 <= hour < 20:
        return 0.38
    return 0.24


def next_change(at: float) -> float:
    """When the price changes next."""
    day = at - at % 86400
    return next(day + hour * 3600 for hour in (6, 12, 14, 17, 20, 22, 30) if day + hour * 3600 > at)


def owner(board: Board, at: float) -> str:
    """Which server owns a GPU now; "" for nobody."""
    hour = hour_of(at)
    if board.node == TOKENS_ON:
        return "chat" if board.index < 4 else "code" if board.index < 6 else "big"
    if board.index < 4:
        return "big"
    return "code" if board.index < 6 and 12 <= hour < 19.5 else ""


def lost(board: Board, at: float) -> bool:
    """Whether a GPU does not answer."""
    return board.node != TOKENS_ON and board.index == 7 and 13 <= hour_of(at) < 14.5


def running(server: str, at: float) -> float:
    """Requests that a server works on."""
    hour = hour_of(at)
    most = SERVERS[server][2]
    ripple = 0.82 + 0.18 * wave(at, 1700) * wave(at, 610, 0.3) + 0.12 * wave(at, 240, 0.7)
    weekday = 1.0 - 0.12 * (int(at // 86400) % 3)
    if server == "chat":
        return max(
            0.0, round(most * weekday * (0.06 + 0.8 * max(0.0, math.sin((hour - 5) / 18 * math.pi)) ** 1.3) * ripple)
        )
    if server == "code":
        busy = 7.5 <= hour < 19.5 and not 12.2 <= hour < 12.7
        return round(most * (0.35 + 0.65 * wave(at, 14400, 0.1)) * ripple) if busy else 0.0
    busy = hour < 6.5 or hour >= 21 or 15 <= hour < 16.5
    return round(most * (0.75 + 0.25 * wave(at, 9000)) * ripple) if busy else 0.0


@dataclass(slots=True)
class Fleet:
    """The series of some days. Times are multiples of ``step``, the last one is ``end``."""

    end: int
    days: float = 1.0
    step: int = 60
    priced: bool = True
    """Without it there is no tariff, no reference and no cost: no series has a currency."""
    series: dict[str, dict[Labels, list[tuple[int, float]]]] = field(default_factory=dict)
    _counters: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Run through the days."""
        self.end -= self.end % self.step
        start = self.end - int(self.days * 86400)
        for at in range(start, self.end + 1, self.step):
            self._tick(at)

    @property
    def start(self) -> int:
        """The first instant."""
        return self.end - int(self.days * 86400)

    # ------------------------------------------------------------------------------------------------------ reading

    def value(self, name: str, at: int, /, **labels: str) -> float:
        """Sum of all series of the name with these labels, at an instant."""
        wanted = set(labels.items())
        return math.fsum(
            value
            for have, samples in self.series[name].items()
            if wanted <= set(have)
            for when, value in samples
            if when == at
        )

    def rise(self, name: str, seconds: int, /, **labels: str) -> float:
        """What a counter gained over the last seconds."""
        return self.value(name, self.end, **labels) - self.value(name, self.end - seconds, **labels)

    def write(self, out: TextIO) -> None:
        """OpenMetrics text."""
        for name, rows in self.series.items():
            if name.endswith("_total"):
                out.write(f"# TYPE {name.removesuffix('_total')} counter\n")
            else:
                out.write(f"# TYPE {name} gauge\n")
            for labels, samples in rows.items():
                inner = ",".join(f'{key}="{value}"' for key, value in labels)
                head = f"{name}{{{inner}}}"
                out.writelines(f"{head} {value:.12g} {at}\n" for at, value in samples)
        out.write("# EOF\n")

    # ------------------------------------------------------------------------------------------------------ writing

    def _put(self, name: str, node: str, at: int, value: float, /, **labels: str) -> None:
        if not self.priced and (name.startswith("tpw_electricity") or "currency" in labels):
            return
        key = (("job", JOB), ("instance", node), *labels.items())
        self.series.setdefault(name, {}).setdefault(key, []).append((at, value))

    def _count(self, name: str, node: str, at: int, more: float, /, **labels: str) -> None:
        if not self.priced and (name == "tpw_energy_unpriced_joules_total" or "currency" in labels):
            return
        key = (("job", JOB), ("instance", node), *labels.items())
        total = self._counters.get((name, key), 0.0) + more
        self._counters[name, key] = total
        self.series.setdefault(name, {}).setdefault(key, []).append((at, total))

    def _tick(self, at: int) -> None:
        """Counters gain what the step before ``at`` brought."""
        load = {server: running(server, at) for server in SERVERS}
        servers: dict[tuple[str, str], dict[str, float]] = {}
        owned: dict[str, int] = dict.fromkeys(SERVERS, 0)
        for board in BOARDS:
            server = owner(board, at)
            gpus = self._board(at, board, server, load)
            if server:
                owned[server] += 1
                state = "active" if load[server] > 0 else "parked"
                sums = servers.setdefault((board.node, server), {"active": 0.0, "parked": 0.0, "gpus": 0.0})
                sums[state] += gpus
                sums["gpus"] += 1
        for (node, server), sums in servers.items():
            self._books(at, node, server, sums, load[server] > 0)
        for server, count in owned.items():
            joules = sum(sums["active"] + sums["parked"] for (_, whose), sums in servers.items() if whose == server)
            self._tokens(at, server, load[server], count, joules)
        for node in NODES:
            self._node(at, node)

    def _board(self, at: int, board: Board, server: str, load: dict[str, float]) -> float:
        """One GPU; returns the joules of the step."""
        node, name = board.node, NODES[board.node]
        who = {"gpu": str(board.index), "uuid": board.uuid}
        active = bool(server) and load[server] > 0
        state = "active" if active else "parked" if server else "idle"
        busy = load[server] / (load[server] + SERVERS[server][3]) if active else 0.0
        watts = (118.0 + 560.0 * busy if active else 116.0 if server else 71.0) + 3 * board.index + 6 * wave(at, 300)
        gone = lost(board, at)
        seconds = 0.0 if gone else float(self.step)
        joules = watts * seconds
        self._put(
            "tpw_gpu_info", node, at, 1.0, **who, name=name, vendor="nvidia", architecture="hopper",
            driver_version="570.86.15", power_scope="gpu",
            energy_method="counter" if board.index != 5 else "average_power",
        )  # fmt: skip
        self._put("tpw_gpu_up", node, at, 0.0 if gone else 1.0, **who)
        if not gone:
            sensed = watts * (1.0 + 0.004 * math.sin(at / 977 + board.index))
            self._put("tpw_gpu_power_watts", node, at, sensed, **who)
            self._put("tpw_gpu_power_limit_watts", node, at, 700.0, **who)
            self._put("tpw_gpu_utilization_ratio", node, at, min(1.0, 0.35 + busy) if active else 0.0, **who)
            used = (68.0 + 6 * busy if server else 0.6) * 2**30
            self._put("tpw_gpu_memory_used_bytes", node, at, used, **who)
            self._put("tpw_gpu_memory_total_bytes", node, at, (80.0 if "H100" in name else 141.0) * 2**30, **who)
            self._put("tpw_gpu_temperature_celsius", node, at, 31 + watts / 17 + board.index / 2, **who)
        self._count("tpw_gpu_energy_joules_total", node, at, joules, **who)
        price = price_at(at)
        facility = joules * (1 + HOST_SHARE) * PUE
        for other in ("active", "parked", "idle"):
            share = 1.0 if other == state else 0.0
            self._count("tpw_gpu_state_energy_joules_total", node, at, joules * share, **who, state=other)
            self._count("tpw_gpu_state_seconds_total", node, at, seconds * share, **who, state=other)
            self._count("tpw_gpu_state_facility_energy_joules_total", node, at, facility * share, **who, state=other)
            credit = facility / 3.6e6 * max(0.0, -price) * share
            self._count("tpw_gpu_state_credit_total", node, at, credit, **who, state=other, currency="EUR")
            charge = facility / 3.6e6 * max(0.0, price) * share
            for component, money in (
                ("energy", charge),
                ("hardware", HARDWARE[name] * self.step / 3600 * share),
                ("hosting", HOSTING * self.step / 3600 * share),
            ):
                self._count(
                    "tpw_gpu_state_cost_total", node, at, money, **who, state=other, component=component, currency="EUR"
                )
        self._count("tpw_gpu_unmetered_seconds_total", node, at, float(self.step) - seconds, **who)
        self._count("tpw_energy_unpriced_joules_total", node, at, 0.0, **who)
        for reason, share in (
            ("sw_power_cap", 0.3 * busy),
            ("hw_thermal", 0.16 if board.index == 3 and busy > 0.78 else 0),
        ):
            self._count("tpw_gpu_throttle_seconds_total", node, at, self.step * share, **who, reason=reason)
        if board.index == 5 and hour_of(at) >= 11:
            self._count(
                "tpw_gpu_energy_anomalies_total", node, at, 1.0 if hour_of(at) * 3600 % 39600 < self.step else 0.0,
                **who, reason="implausible",
            )  # fmt: skip
        if server:
            self._put("tpw_server_gpu", node, at, 1.0, server=server, **who)
        return joules

    def _books(self, at: int, node: str, server: str, sums: dict[str, float], active: bool) -> None:
        model = SERVERS[server][0]
        price = price_at(at)
        rate = HARDWARE[NODES[node]]
        here = node == TOKENS_ON
        self._put(
            "tpw_server_info", node, at, 1.0, server=server, engine=SERVERS[server][1] if here else "",
            cadence="step" if here else "unknown", version="0.32.0" if here else "",
            attribution="processes" if here else "configured",
        )  # fmt: skip
        for state in ("active", "parked"):
            who = {"server": server, "model": model, "state": state}
            facility = sums[state] * (1 + HOST_SHARE) * PUE
            on = 1.0 if (state == "active") == active else 0.0
            hours = sums["gpus"] * self.step / 3600 * on
            self._count("tpw_server_energy_joules_total", node, at, sums[state], **who)
            self._count("tpw_server_facility_energy_joules_total", node, at, facility, **who)
            self._count("tpw_server_emissions_grams_total", node, at, facility / 3.6e6 * 290, **who, basis="average")
            for component, money in (
                ("energy", facility / 3.6e6 * max(0.0, price)),
                ("hardware", rate * hours),
                ("hosting", HOSTING * hours),
            ):
                self._count("tpw_server_cost_total", node, at, money, **who, component=component, currency="EUR")
            self._count("tpw_server_credit_total", node, at, facility / 3.6e6 * max(0.0, -price), **who, currency="EUR")
        self._count(
            "tpw_server_reference_cost_total", node, at, RENTED * sums["gpus"] * self.step / 3600,
            server=server, model=model, reference="rented-h100", currency="EUR",
        )  # fmt: skip

    def _tokens(self, at: int, server: str, load: float, gpus: int, joules: float) -> None:
        model, _, _, half, speed, inputs, cached = SERVERS[server]
        output = speed * gpus * load / (load + half) * self.step
        who = {"server": server, "model": model}
        made = {"output": output, "input": output * inputs, "cached_input": output * cached}
        for kind, more in made.items():
            self._count("tpw_server_tokens_total", TOKENS_ON, at, more, **who, kind=kind)
        worth = sum(more * API[kind] for kind, more in made.items())
        self._count("tpw_server_reference_cost_total", TOKENS_ON, at, worth, **who, reference="api-70b", currency="EUR")
        self._count("tpw_server_requests_total", TOKENS_ON, at, output / 310, **who)
        down = server == "code" and 15.0 <= hour_of(at) < 15.2
        self._put("tpw_server_up", TOKENS_ON, at, 0.0 if down else 1.0, server=server)
        if not down:
            self._put("tpw_server_requests_running", TOKENS_ON, at, load, **who)
            self._put("tpw_server_requests_waiting", TOKENS_ON, at, max(0.0, load - 55), **who)
        for kind, rate in (("output", output / self.step), ("total", sum(made.values()) / self.step)):
            self._put("tpw_tokens_per_second", TOKENS_ON, at, rate, **who, kind=kind)
            for boundary, factor in (("gpu", 1.0), ("facility", (1 + HOST_SHARE) * PUE)):
                self._put(
                    "tpw_tokens_per_watt",
                    TOKENS_ON,
                    at,
                    rate * self.step / (joules * factor),
                    **who,
                    kind=kind,
                    boundary=boundary,
                )
        self._put("tpw_window_seconds", TOKENS_ON, at, 60.0, server=server)

    def _node(self, at: int, node: str) -> None:
        watts = 210 + 40 * wave(at, 5000)
        for component, share in (("cpu", 0.7), ("dram", 0.3)):
            self._put("tpw_host_power_watts", node, at, watts * share, component=component)
            self._count("tpw_host_energy_joules_total", node, at, watts * share * self.step, component=component)
        price = price_at(at)
        change = next_change(at)
        fallback = 3 <= hour_of(at) < 3.75
        self._put("tpw_electricity_price_per_kwh", node, at, price, currency="EUR")
        self._put("tpw_electricity_price_state", node, at, 1.0, state="fallback" if fallback else "final")
        self._put("tpw_electricity_price_next_change_timestamp_seconds", node, at, change)
        self._put("tpw_electricity_price_next_per_kwh", node, at, price_at(change), currency="EUR")
        self._put("tpw_grid_carbon_grams_per_kwh", node, at, 290.0, basis="average")
        if node == TOKENS_ON:
            for kind, worth in API.items():
                self._put(
                    "tpw_reference_price_per_token", node, at, worth, reference="api-70b", kind=kind, currency="EUR"
                )
            quarter = at % 900 / 900
            self._put("tpw_demand_interval_watts", node, at, 6100 + 1500 * wave(at, 86400, 0.6) * (0.7 + 0.3 * quarter))
            self._put("tpw_demand_peak_watts", node, at, 7600.0)
        names = ["nvml", "rapl", "tariff", *(f"server:{name}" for name in (SERVERS if node == TOKENS_ON else ()))]
        for number, source in enumerate(names):
            down = source == "server:code" and 15.0 <= hour_of(at) < 15.2
            self._put("tpw_source_up", node, at, 0.0 if down else 1.0, source=source)
            slow = 3600 if source == "tariff" else 1
            since = at - at % slow if not down else at - (at % 86400 - 15 * 3600)
            self._put("tpw_source_last_success_timestamp_seconds", node, at, since, source=source)
            self._put(
                "tpw_source_read_duration_seconds", node, at, 0.0004 * (number + 1) * (1 + wave(at, 700)), source=source
            )
            self._count("tpw_source_reads_total", node, at, self.step / slow, source=source)
            if source == "server:code":
                self._count(
                    "tpw_source_read_failures_total", node, at, self.step if down else 0.0, source=source,
                    reason="unreachable",
                )  # fmt: skip
        self._put("tpw_build_info", node, at, 1.0, version="1.0.0", python_version="3.13.1")
        self._put("tpw_config_last_reload_successful", node, at, 1.0)
        self._put("tpw_snapshot_timestamp_seconds", node, at, at)
        self._put("tpw_store_last_write_timestamp_seconds", node, at, at - at % 10)
        self._count("tpw_polls_total", node, at, float(self.step))
        self._count("tpw_polls_skipped_total", node, at, 1.0 if int(hour_of(at) * 10) % 53 == 0 else 0.0)
        self._put("tpw_poll_lag_seconds", node, at, 0.002 + 0.003 * wave(at, 800))
        self._count("tpw_exposition_dropped_samples_total", node, at, 0.0)
        self._put("up", node, at, 1.0)
        self._put("scrape_duration_seconds", node, at, 0.006 + 0.002 * wave(at, 1100))
        self._put("scrape_samples_scraped", node, at, 640.0)
        self._count("process_cpu_seconds_total", node, at, 0.005 * self.step)
        self._put("process_resident_memory_bytes", node, at, 41.0 * 2**20)
        self._put("process_start_time_seconds", node, at, float(self.start - 86400 * 3))


def main(arguments: list[str]) -> None:
    """Write a fleet to standard output."""
    end, days, step = arguments
    Fleet(int(end), float(days), int(step)).write(sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
