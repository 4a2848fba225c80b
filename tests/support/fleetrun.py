"""Runs real daemons through the day of :mod:`support.fleetday` and records every page as Prometheus would.

Each node runs the real daemon on a clock of its own with its books on disk: GPUs that answer as the day defines, a
powercap tree, and the servers' pages over HTTP, as vLLM prints them. Nothing between them and the page is stood in for,
except that no process is seen: the pages are served by this one, and it is nobody's server.
What Prometheus itself adds to a scrape (``up``, its duration, ``process_*`` of another process) is made up here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

from support import fleetday as day
from support.fleetday import GPUS, SERVERS, START, TICK, FleetGpu, Node
from support.pageserver import Asked, PageServer, answer
from support.samples import Labels, Samples, Series
from tpw.config.load import load
from tpw.daemon import ownership
from tpw.daemon.daemon import Daemon
from tpw.discovery.processes import HostProcesses
from tpw.exposition.render import Format, Page
from tpw.model import EnergyMethod, Gpu, GpuSample, Reason, SourceError
from tpw.store.sqlite import BooksFile

MONOTONIC = 5_000.0
"""Monotonic clock at the start of the day."""
ENGINE_BEGAN = START - 40_000.0
WILD_JOULES = 5e9

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class Clock:
    """The time of the day, for everybody."""

    now: float = float(START)

    def wall(self) -> float:
        """Unix time."""
        return self.now

    def monotonic(self) -> float:
        """Seconds since some boot."""
        return self.now - START + MONOTONIC


class FleetMeter:
    """An accelerator meter over the GPUs of one node."""

    name = "nvml"

    def __init__(self, node: Node, clock: Clock) -> None:
        self._clock = clock
        self._by_uuid = {gpu.uuid: gpu for gpu in GPUS if gpu.node is node}
        self._joules = {uuid: 1e6 * (index + 1) for index, uuid in enumerate(self._by_uuid)}
        self._throttled = {uuid: {"sw_power_cap": 0.0, "hw_thermal": 0.0} for uuid in self._by_uuid}
        self._upto = float(START)
        self._gpus = tuple(_gpu(gpu) for gpu in self._by_uuid.values())

    def open(self) -> None:
        """Nothing to find."""

    def sweep(self) -> None:
        """Let the time that has passed be drawn power in."""
        while self._upto < self._clock.now:
            self._upto += TICK
            for uuid, gpu in self._by_uuid.items():
                self._joules[uuid] += day.watts(gpu, self._upto) * TICK
                for reason, seconds in day.throttled(gpu, self._upto).items():
                    self._throttled[uuid][reason] += seconds

    def gpus(self) -> tuple[Gpu, ...]:
        """All of them, always."""
        return self._gpus

    def read(self, uuid: str) -> GpuSample:
        """One read. Raises SourceError for a GPU that is lost."""
        gpu, now = self._by_uuid[uuid], self._clock.now
        if day.lost(gpu, now):
            raise SourceError(Reason.LOST, f"{uuid}: has fallen off the bus")
        wild = gpu == day.WILD and day.second_of_day(now) == day.NONSENSE
        return GpuSample(
            uuid=uuid,
            at_seconds=self._clock.monotonic(),
            energy_joules=None if gpu.integrated else self._joules[uuid] + (WILD_JOULES if wild else 0.0),
            power_watts=day.sensed(gpu, now),
            power_limit_watts=700.0,
            utilization_ratio=day.utilization(gpu, now),
            memory_used_bytes=day.memory_used(gpu, now),
            memory_total_bytes=gpu.node.memory_bytes,
            temperature_celsius=day.temperature(gpu, now),
            throttle_seconds=tuple(self._throttled[uuid].items()),
        )

    def close(self) -> None:
        """Nothing to let go of."""


def _gpu(gpu: FleetGpu) -> Gpu:
    return Gpu(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.node.gpu_name,
        architecture="hopper",
        driver_version="570.86.15",
        pci_bus_id=f"00000000:{0x10 + gpu.index:02X}:00.0",
        energy_method=EnergyMethod.INSTANT_POWER if gpu.integrated else EnergyMethod.COUNTER,
        max_power_watts=700.0,
    )


class Engine:
    """An inference server's page. Its counters begin anew when it comes back."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._server = SERVERS[name]
        self._clock = clock
        self._upto = float(START)
        self._began = ENGINE_BEGAN
        self._tokens = {"output": 1000.0, "input": 3000.0, "cached_input": 500.0}
        self._finished = 7.0

    def script(self, asked: Asked) -> bytes | None:
        """Its answer; it hangs up while it is down."""
        name, now = self._server.name, self._clock.now
        if not day.answers(name, now):
            return None
        if asked.path == "/version":
            return answer('{"version": "0.32.0"}', content_type="application/json")
        if asked.path != "/metrics":
            return answer("not found\n", status=404)
        while self._upto < now:
            self._upto += TICK
            if not day.answers(name, self._upto):
                self._began = self._upto
                self._tokens = dict.fromkeys(self._tokens, 0.0)
                self._finished = 0.0
                continue
            for kind, more in day.made(name, self._upto).items():
                self._tokens[kind] += more
            self._finished += day.finished(name, self._upto)
        return answer(self._page(now))

    def _page(self, now: float) -> str:
        who = f'engine="0",model_name="{self._server.model}"'
        computed, cached = self._tokens["input"], self._tokens["cached_input"]
        return (
            "# TYPE process_start_time_seconds gauge\n"
            f"process_start_time_seconds {self._began}\n"
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{{{who}}} {day.running(self._server.name, now)}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{{{who}}} {day.waiting(self._server.name, now)}\n"
            "# TYPE vllm:prompt_tokens counter\n"
            f"vllm:prompt_tokens_total{{{who}}} {computed + cached}\n"
            "# TYPE vllm:prompt_tokens_by_source counter\n"
            f'vllm:prompt_tokens_by_source_total{{{who},source="local_compute"}} {computed}\n'
            f'vllm:prompt_tokens_by_source_total{{{who},source="local_cache_hit"}} {cached}\n'
            "# TYPE vllm:generation_tokens counter\n"
            f"vllm:generation_tokens_total{{{who}}} {self._tokens['output']}\n"
            "# TYPE vllm:request_success counter\n"
            f'vllm:request_success_total{{{who},finished_reason="stop"}} {self._finished}\n'
        )


class Powercap:
    """The powercap tree of a host with a constant CPU power."""

    def __init__(self, root: Path, node: Node) -> None:
        self._watts = node.cpu_watts
        self._file = root / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
        self._file.parent.mkdir(parents=True)
        (self._file.parent / "name").write_text("package-0\n")
        (self._file.parent / "max_energy_range_uj").write_text(f"{10**15}\n")

    def set(self, now: float) -> None:
        """Write the counter."""
        self._file.write_text(f"{round(self._watts * (now - START + 100) * 1e6)}\n")


@dataclass(slots=True)
class Exporter:
    """One node's exporter through its restarts, and the pages it shows."""

    node: Node
    clock: Clock
    folder: Path
    urls: Mapping[str, str]
    priced: bool = True
    daemon: Daemon | None = None
    began: float = 0.0
    meter: FleetMeter = field(init=False)
    _page: Page = field(default_factory=Page)
    _powercap: Powercap | None = field(init=False)
    _keys: dict[str, Series] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the host."""
        self.meter = FleetMeter(self.node, self.clock)
        self._powercap = Powercap(self.folder / "sys", self.node) if self.node.cpu_watts else None

    def step(self) -> None:
        """One poll, if the process runs; its start or its end at the time the day defines."""
        now = self.clock.now
        if self._powercap is not None:
            self._powercap.set(now)
        if not day.runs(self.node, now):
            self.stop()
            return
        if self.daemon is not None and not day.begins(self.node, now):
            self.daemon.tick()
            return
        self.stop()
        text = day.configuration(self.node, now, self.urls, str(self.folder / "sys"))
        if not self.priced:
            lines = text.split("\n")
            carbon = next(line for line in lines if line.startswith("carbon:"))
            text = "\n".join([*lines[: lines.index("tariff:")], carbon])
        config = load(text)
        file = BooksFile(self.folder / "state", self.clock.wall)
        self.daemon = Daemon(config, file, clock=self.clock.monotonic, wall=self.clock.wall, accelerators=[self.meter])
        self.began = now
        self.daemon.poll_all()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    def scraped(self, samples: Samples) -> None:
        """What a scrape of this instant leaves behind."""
        at = int(self.clock.now) + self.node.scraped_after_seconds
        lines: list[str] = []
        if self.daemon is not None:
            page = self._page.body(self.daemon.snapshot, Format.TEXT).decode()
            lines = [line for line in page.split("\n") if line and line[0] != "#"]
            ran = self.clock.now - self.began
            lines += [
                f"process_cpu_seconds_total {0.005 * ran}",
                f"process_resident_memory_bytes {41.0 * 2**20 + 64 * ran}",
                f"process_start_time_seconds {self.began}",
            ]
        seconds = 0.006 if lines else 0.0
        shown: set[str] = set()
        for line in lines:
            head, _, value = line.rpartition(" ")
            shown.add(head)
            self._series(head, samples).put(at, float(value))
        for head in self._shown - shown:
            self._series(head, samples).gone.append(at)
        self._shown = shown
        for head, value in (
            ("up", 1.0 if lines else 0.0),
            ("scrape_duration_seconds", seconds),
            ("scrape_samples_scraped", float(len(lines))),
        ):
            self._series(head, samples).put(at, value)

    def _series(self, head: str, samples: Samples) -> Series:
        series = self._keys.get(head)
        if series is None:
            series = self._keys[head] = samples.series(*_parsed(head, self.node))
        return series


def _parsed(head: str, node: Node) -> tuple[str, Labels]:
    name, _, inner = head.partition("{")
    pairs = {"job": day.JOB, "instance": node.instance, **dict(_LABEL.findall(inner))}
    return name, tuple(sorted(pairs.items()))


def live(start: int = START, end: int = day.END, *, priced: bool = True) -> Samples:
    """The samples of a part of the day. It begins where the daemons do, with empty books."""
    samples = Samples()
    with _fleet(priced=priced) as (clock, exporters):
        for now in range(start, end + 1, TICK):
            clock.now = float(now)
            for exporter in exporters:
                exporter.step()
                exporter.scraped(samples)
    return samples


@contextmanager
def _fleet(*, priced: bool) -> Iterator[tuple[Clock, list[Exporter]]]:
    clock = Clock()
    with ExitStack() as stack:
        # In memory where that can be had: the books are committed some thousand times.
        memory = Path("/dev/shm")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)))
        (folder / "proc").mkdir()
        unseen = partial(HostProcesses, str(folder / "proc"))
        stack.enter_context(mock.patch.object(ownership, "HostProcesses", unseen))
        urls = {name: stack.enter_context(PageServer(Engine(name, clock).script)).url for name in SERVERS}
        exporters = []
        for number, node in enumerate(day.NODES):
            own = folder / str(number)
            (own / "state").mkdir(parents=True)
            exporters.append(Exporter(node, clock, own, urls, priced=priced))
            stack.callback(exporters[-1].stop)
        yield clock, exporters
