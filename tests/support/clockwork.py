"""The real daemon under a clock that the test advances, with meters and servers of exactly known behaviour.

Everything is constant between two ticks, so a meter that is read at ticks can know the truth exactly, and what the ledger
makes of its readings can be held against a plain sum over the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.pageserver import PageServer, answer
from tpw.config.schema import Config
from tpw.daemon.daemon import Daemon
from tpw.model import EnergyMethod, Gpu, GpuSample, Sharing
from tpw.store.sqlite import BooksFile


@dataclass
class Clock:
    """Stands still until it is turned."""

    start_wall_seconds: float
    elapsed_seconds: float = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed_seconds

    def wall(self) -> float:
        return self.start_wall_seconds + self.elapsed_seconds


@dataclass(frozen=True)
class Work:
    """What a server does in one tick: totals of the tick."""

    up: bool = True
    running: int = 0
    computed: int = 0
    cached: int = 0
    output: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Truth:
    """What really happens, tick by tick (0 is the first)."""

    ticks: int
    tick_seconds: int
    watts: Callable[[int, int], float]
    """(GPU, tick) -> constant power over the tick."""
    work: Callable[[str, int], Work]
    """(server, tick) -> what it does in it."""
    owners: dict[str, tuple[int, ...]]
    """GPUs by server, while it is up."""
    gpus: int


class ExactMeter:
    """GPUs with counters that are the exact integral of the truth's power."""

    name = "exact"

    def __init__(self, truth: Truth, clock: Clock) -> None:
        self._truth, self._clock = truth, clock
        self._gpus = tuple(
            Gpu(
                f"GPU-{index:08x}-0000-4000-8000-000000000000",
                index,
                name="Exact 80GB",
                energy_method=EnergyMethod.COUNTER,
                max_power_watts=1000.0,
            )
            for index in range(truth.gpus)
        )
        self._joules = [[50_000.0 * (gpu + 1)] for gpu in range(truth.gpus)]
        for gpu, joules in enumerate(self._joules):
            for tick in range(truth.ticks):
                joules.append(joules[-1] + truth.watts(gpu, tick) * truth.tick_seconds)

    def open(self) -> None:
        pass

    def sweep(self) -> None:
        pass

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def read(self, uuid: str) -> GpuSample:
        index = next(gpu.index for gpu in self._gpus if gpu.uuid == uuid)
        tick = round(self._clock.elapsed_seconds) // self._truth.tick_seconds
        return GpuSample(
            uuid,
            self._clock.monotonic(),
            energy_joules=self._joules[index][tick],
            power_watts=self._truth.watts(index, max(0, tick - 1)),
            utilization_ratio=0.5,
        )

    def sharing(self, uuid: str) -> Sharing:
        return Sharing(frozenset())

    def close(self) -> None:
        pass


_PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="{model}"}} {running}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{model_name="{model}"}} {prompt}
# TYPE vllm:prompt_tokens_cached_total counter
vllm:prompt_tokens_cached_total{{model_name="{model}"}} {cached}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{model_name="{model}"}} {output}
# TYPE vllm:request_success_total counter
vllm:request_success_total{{finished_reason="stop",model_name="{model}"}} {requests}
"""


@dataclass
class ExactServer:
    """The page of a server that follows the truth."""

    name: str
    model: str
    truth: Truth
    clock: Clock
    _sums: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sums = (0, 0, 0, 0)
        self._sums.append(sums)
        for tick in range(self.truth.ticks):
            work = self.truth.work(self.name, tick)
            added = (work.computed + work.cached, work.cached, work.output, work.requests)
            sums = tuple(a + b for a, b in zip(sums, added, strict=True))  # type: ignore[assignment]
            self._sums.append(sums)

    def page(self) -> bytes:
        """What it answers now."""
        tick = round(self.clock.elapsed_seconds) // self.truth.tick_seconds
        work = self.truth.work(self.name, max(0, tick - 1))
        if not work.up:
            return answer("not here", status=503)
        prompt, cached, output, requests = self._sums[tick]
        return answer(
            _PAGE.format(
                model=self.model, running=work.running, prompt=prompt, cached=cached, output=output, requests=requests
            )
        )


@contextmanager
def serving(server: ExactServer) -> Iterator[str]:
    """Its address."""
    with PageServer(lambda asked: server.page()) as page:
        yield page.url


def live(
    config: Config,
    books: BooksFile,
    meter: ExactMeter,
    truth: Truth,
    clock: Clock,
    *,
    from_tick: int,
    to_tick: int,
) -> Daemon:
    """A daemon's life from one tick to another. It is stopped when it is returned; its last snapshot stands."""
    daemon = Daemon(config, books, clock=clock.monotonic, wall=clock.wall, accelerators=[meter])
    clock.elapsed_seconds = float(from_tick * truth.tick_seconds)
    daemon.poll_all()
    for tick in range(from_tick + 1, to_tick + 1):
        clock.elapsed_seconds = float(tick * truth.tick_seconds)
        daemon.tick()
    daemon.stop()
    return daemon
