"""Books of two days on disk, made by the real ledger in steps of five minutes: small enough to be read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Occupants,
    Ownership,
    PriceInterval,
    ProcessIdentity,
    Rate,
    Reference,
    Role,
    ServerReading,
    TokenKind,
    TokenSeries,
)
from tpw.store.sqlite import BooksFile
from tpw.store.upkeep import prune

STEP_SECONDS = 300.0
START = datetime.fromisoformat("2026-10-24T18:00:00+00:00").timestamp()
END = datetime.fromisoformat("2026-10-25T06:00:00+00:00").timestamp()
UNPRICED_FROM = datetime.fromisoformat("2026-10-25T05:00:00+00:00").timestamp()
GPUS = tuple(
    Gpu(f"GPU-0000000{index}-0000-4000-8000-000000000000", index, name="NVIDIA H100 80GB HBM3", max_power_watts=700.0)
    for index in range(3)
)
SERVERS = {"chat": (GPUS[0],), "code": (GPUS[1],)}
MODELS = {"chat": "llama-3.3-70b", "code": "qwen3-coder-30b"}


class Hourly:
    """A price that rises by a cent an hour, is below zero for one, and is not known at the end."""

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, PriceInterval | None]]:
        at = start
        while at < end:
            hour = at // 3600.0
            until = min(end, (hour + 1.0) * 3600.0)
            number = int(hour - START // 3600.0)
            price = -0.05 if number == 4 else 0.20 + 0.01 * number
            known = at < UNPRICED_FROM
            yield at, until, PriceInterval(hour * 3600.0, (hour + 1.0) * 3600.0, price) if known else None
            at = until


POLICY = Policy(
    interval_seconds=STEP_SECONDS,
    pue=1.2,
    currency="EUR",
    curve=Hourly(),
    rates=(Rate("hardware", 0.9 / 3600.0), Rate("hosting", 0.3 / 3600.0)),
    references=(
        Reference("rented", price_per_gpu_second=2.69 / 3600.0),
        Reference("api", price_per_token={TokenKind.INPUT: 0.5e-6, TokenKind.OUTPUT: 0.8e-6}),
    ),
)


def is_working(server: str, at: float) -> bool:
    """Chat always but for the last third of every hour, code at night."""
    return at % 3600.0 < 2400.0 if server == "chat" else 6 * 3600.0 < (at - START) < 9 * 3600.0


def ticks(start: float = START, end: float = END) -> Iterator[Tick]:
    """Every five minutes of the time."""
    joules, tokens = dict.fromkeys(GPUS, 1e6), dict.fromkeys(SERVERS, 0.0)
    at = start
    while at <= end:
        working = {server: is_working(server, at - STEP_SECONDS) for server in SERVERS}
        for server, gpus in SERVERS.items():
            tokens[server] += 60_000.0 * working[server]
            for gpu in gpus:
                joules[gpu] += (600.0 if working[server] else 80.0) * STEP_SECONDS
        joules[GPUS[2]] += 70.0 * STEP_SECONDS
        yield Tick(
            Instant(at, at),
            AcceleratorReading(
                GPUS,
                tuple(
                    GpuSample(gpu.uuid, at, joules[gpu], 100.0, utilization_ratio=0.0 if gpu is GPUS[2] else 0.5)
                    for gpu in GPUS
                ),
            ),
            (),
            tuple(_reading_of(server, at, tokens[server], working=working[server]) for server in SERVERS),
            {
                server: Ownership(server, frozenset(gpu.uuid for gpu in gpus), Attribution.CONFIGURED)
                for server, gpus in SERVERS.items()
            },
            {gpu.uuid: Occupants() for gpu in GPUS},
        )
        at += STEP_SECONDS


def _reading_of(server: str, at: float, tokens: float, *, working: bool) -> ServerReading:
    model = MODELS[server]
    series = (
        TokenSeries(Role.INPUT, model, "input", tokens),
        TokenSeries(Role.CACHED_INPUT, model, "cached", tokens / 4.0),
        TokenSeries(Role.OUTPUT, model, "output", tokens / 2.0),
        TokenSeries(Role.REQUESTS, model, "requests", tokens / 1000.0),
    )
    loads = (Load(model, float(working), 0.0),)
    return ServerReading(server, at, "vllm", Cadence.STEP, "1", ProcessIdentity(1.0), series, loads)


def write_books(
    directory: Path,
    policy: Policy = POLICY,
    start: float = START,
    end: float = END,
    keep_seconds: float | None = None,
    later: tuple[float, Policy] | None = None,
) -> Books:
    """Book it, tick by tick, as the daemon does; ``later`` is a policy that is in force from a moment on."""
    now = start
    file = BooksFile(directory, lambda: now)
    books = Books()
    for tick in ticks(start, end):
        now = tick.at.wall_seconds
        books = file.save(advance(books, tick, later[1] if later is not None and now > later[0] else policy))
    file.close()
    if keep_seconds is not None:
        prune(file.path, now - keep_seconds, lambda: None)
    return books
