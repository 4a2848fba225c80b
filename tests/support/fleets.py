"""Books of weeks for a small node with known best decisions: what happens, by quarter-hour, as rows of the books.

The optimum of a fleet is calculated from its own physics (watts of a load, prices, what the GPUs cost), without noise and
without the code that is tested. What is booked has 2 % of noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tpw.advice.fleet import Fleet
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import ROW_SECONDS, Books, GpuAccount, PostingKey, PowerLimit, ServerAccount
from tpw.model import Gpu, Instant, ServerWorkload, State, TokenKind, Workload, WorkloadKind
from tpw.store.sqlite import BooksFile

MONDAY = 1_790_553_600.0  # 2026-09-28T00:00Z
DAY, WEEK = 96, 672
PUE = 1.25
IDLE_WATTS, PARKED_WATTS = 60.0, 120.0
NOISE = 0.02
OFF, STARTING, UNKNOWN = "off", "starting", "unknown"

Load = Callable[[int], "float | str"]
"""Quarter-hour -> part of the server's capacity, or that it is off, starting, or in no row."""


def hour_of(index: int) -> float:
    return index % DAY / 4.0


def weekday_of(index: int) -> int:
    return index // DAY % 7


def flat(price: float) -> Callable[[int], float]:
    return lambda _: price


def evening_peak(index: int) -> float:
    """0.40 from 17 to 21, 0.10 from 0 to 6, else 0.20."""
    hour = hour_of(index)
    return 0.40 if 17.0 <= hour < 21.0 else 0.10 if hour < 6.0 else 0.20


@dataclass(frozen=True)
class Server:
    name: str
    load: Load
    gpus: int = 1
    model: str = "llama"
    tokens_per_second: float = 1000.0
    """At its capacity."""
    full_watts: float = 600.0
    """Of each GPU at its capacity, without a limit that binds."""
    gpu_name: str = "H100"
    limit: Callable[[int], float] | None = None
    """Watts by quarter-hour; None where the GPU reports none."""
    saturated: bool = False
    """Whether it works as fast as it can whenever it works."""
    reference: float = 0.0
    """Price of a token at the reference."""
    kinds: tuple[TokenKind, ...] = (TokenKind.OUTPUT, TokenKind.INPUT)
    """What it counts: one of a pair of prefill and decode counts one of them."""
    late_above: float = 2.0
    """Load above which a fifth of its requests miss a target of latency."""
    workload: bool = False
    """It is no server, but a job."""

    def speed(self, limit: float) -> float:
        """Part of its capacity that it reaches under a limit."""
        return min(1.0, (limit / self.full_watts) ** 0.5)

    def watts(self, load: float, limit: float = 1e9) -> float:
        """Of one GPU. A higher load costs less per token; under a limit the clock is lower, and with it the voltage."""
        full = min(self.full_watts, limit)
        return PARKED_WATTS + (full - PARKED_WATTS) * min(1.0, load / self.speed(limit)) ** 0.7


@dataclass(frozen=True)
class World:
    servers: tuple[Server, ...]
    spare_gpus: int = 0
    weeks: int = 4
    price: Callable[[int], float] = lambda _: 0.20
    owned: float = 0.90
    """Cost of a GPU per hour."""
    rent: float = 0.0
    seed: int = 1
    starts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Server -> seconds and watts per GPU of a start."""

    @property
    def quarters(self) -> int:
        return self.weeks * WEEK

    @property
    def month(self) -> float:
        """Of what the books cover, to a month."""
        return 365.0 / 12.0 / (7.0 * self.weeks)

    def energy(self, watts: float, index: int, seconds: float = ROW_SECONDS) -> float:
        """Money."""
        return watts * PUE * seconds / 3.6e6 * self.price(index)

    @property
    def per_quarter(self) -> float:
        """Of one GPU, beside its energy."""
        return (self.owned + self.rent) / 4.0

    # ------------------------------------------------------------------------------------------------------------- rows

    def fleet(self) -> Fleet:
        gpus: dict[str, Gpu] = {}
        of_server: dict[str, list[str]] = {}
        for server in self.servers:
            for _ in range(server.gpus):
                uuid = f"GPU-{len(gpus)}"
                gpus[uuid] = Gpu(uuid, len(gpus), name=server.gpu_name, max_power_watts=700.0)
                of_server.setdefault(server.name, []).append(uuid)
        for _ in range(self.spare_gpus):
            gpus[f"GPU-{len(gpus)}"] = Gpu(f"GPU-{len(gpus)}", len(gpus), name="H100", max_power_watts=700.0)
        limits: dict[str, tuple[PowerLimit, ...]] = {}
        for server in self.servers:
            if server.limit is not None:
                changes = [(index, server.limit(index)) for index in range(self.quarters)]
                kept = [one for one in changes if one[0] == 0 or changes[one[0] - 1][1] != one[1]]
                for uuid in of_server[server.name]:
                    limits[uuid] = tuple(PowerLimit(MONDAY + index * ROW_SECONDS, watts) for index, watts in kept)
        owners = {server.name: ServerWorkload(server.name, "deployment", "ai") for server in self.servers}
        fleet = Fleet("EUR", MONDAY, self.quarters, gpus=gpus, limits=limits, owners=owners)
        rows = list(self._rows(gpus, of_server))
        fleet.add(
            (row for row in rows if isinstance(row[-1], Amounts)),  # type: ignore[misc]
            (row for row in rows if isinstance(row[-1], Served)),  # type: ignore[misc]
        )
        return fleet

    def write(self, directory: Path) -> None:
        """The same in a state directory."""
        fleet = self.fleet()
        uuids = iter(fleet.gpus)
        of_server = {server.name: [next(uuids) for _ in range(server.gpus)] for server in self.servers}
        rows: dict[float, dict[PostingKey, Amounts]] = {}
        served: dict[float, dict[tuple[str, str], Served]] = {}
        for start, *key, quantity in self._rows(fleet.gpus, of_server):
            if isinstance(quantity, Served):
                served.setdefault(start, {})[tuple(key)] = quantity  # type: ignore[index, arg-type]
            else:
                rows.setdefault(start, {})[key[0]] = quantity  # type: ignore[call-overload, index]
        until = MONDAY + self.quarters * ROW_SECONDS
        gpus = {
            uuid: GpuAccount(gpu, power_limit=fleet.limits[uuid][-1] if uuid in fleet.limits else None)
            for uuid, gpu in fleet.gpus.items()
        }
        servers = {name: ServerAccount(name, belongs=owner) for name, owner in fleet.owners.items()}
        file = BooksFile(directory, lambda: until)
        books = Books(Instant(0.0, until), currency="EUR", gpus=gpus, rows=rows, served=served, servers=servers)
        file.save(books)
        file.close()

    def _rows(self, gpus: Mapping[str, Gpu], of_server: Mapping[str, list[str]]) -> Iterator[tuple[object, ...]]:
        noise = random.Random(self.seed)
        used = {uuid for uuids in of_server.values() for uuid in uuids}
        for index in range(self.quarters):
            at = MONDAY + index * ROW_SECONDS
            for uuid in gpus.keys() - used:
                yield at, PostingKey(uuid, "", "", State.IDLE), self._amounts(index, ROW_SECONDS, IDLE_WATTS)
            for server in self.servers:
                load = server.load(index)
                factor = noise.uniform(1.0 - NOISE, 1.0 + NOISE)
                for uuid in of_server[server.name]:
                    for state, seconds, watts in self._parts(server, load, index):
                        key = PostingKey(uuid, server.name, server.model, state)
                        if state is State.IDLE:
                            key = PostingKey(uuid, "", "", State.IDLE)
                        if server.workload and state is State.ACTIVE:
                            key = PostingKey(uuid, "", "", State.OTHER, Workload(WorkloadKind.SYSTEMD, server.name))
                        yield at, key, self._amounts(index, seconds, watts * factor)
                if isinstance(load, float) and load > 0.0 and not server.workload:
                    yield at, server.name, server.model, _served(server, self._done(server, load, index))

    def _done(self, server: Server, load: float, index: int) -> float:
        """Part of its capacity that is done."""
        limit = 1e9 if server.limit is None else server.limit(index)
        return load * server.speed(limit) if server.saturated else min(load, server.speed(limit))

    def _parts(self, server: Server, load: float | str, index: int) -> Iterator[tuple[State, float, float]]:
        if load == STARTING:
            seconds, watts = self.starts[server.name]
            yield State.IDLE, ROW_SECONDS - seconds, IDLE_WATTS
            yield State.STARTING, seconds, watts
        elif load == UNKNOWN:
            return
        elif isinstance(load, str) or (server.workload and load == 0.0):
            yield State.IDLE, ROW_SECONDS, IDLE_WATTS
        elif load == 0.0:
            yield State.PARKED, ROW_SECONDS, PARKED_WATTS
        else:
            limit = 1e9 if server.limit is None else server.limit(index)
            yield State.ACTIVE, ROW_SECONDS, server.watts(self._done(server, load, index), limit)

    def _amounts(self, index: int, seconds: float, watts: float) -> Amounts:
        joules = watts * seconds
        cost = {"energy": joules * PUE / 3.6e6 * self.price(index)}
        if self.owned:
            cost["hardware"] = self.owned * seconds / 3600.0
        if self.rent:
            cost["gpu_hour"] = self.rent * seconds / 3600.0
        return Amounts(seconds, joules, joules * PUE, cost=cost)


def _served(server: Server, done: float) -> Served:
    tokens = done * server.tokens_per_second * ROW_SECONDS
    all_kinds = {TokenKind.OUTPUT: tokens, TokenKind.INPUT: 2.0 * tokens}
    kinds = {kind: all_kinds[kind] for kind in server.kinds}
    reference = {"api": 3.0 * tokens * server.reference} if server.reference else {}
    running = 32.0 * (done if not server.saturated else 1.0)
    late = {"ttft": tokens / 1000.0} if done > server.late_above else {}
    return Served(kinds, tokens / 200.0, {}, reference, running_seconds=running * ROW_SECONDS, missed=late)
