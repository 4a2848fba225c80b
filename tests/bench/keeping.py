"""What the books weigh on disk: the real ledger and the real store, days of ticks in a minute.

Every GPU has a server of its own, which works and waits within every quarter-hour, so that each has two rows of energy and
money and one of tokens. The configuration prices, charges demand and hardware, compares with two references and counts
grams. Ticks are a minute apart: how often is polled changes the numbers in the rows and not how many there are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tpw import logs
from tpw.config.load import load
from tpw.daemon.pricing import Feeds, policy
from tpw.ledger.advance import advance
from tpw.ledger.tick import Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenSeries,
)
from tpw.polling import SourceHealth
from tpw.store.sqlite import BooksFile

START = 1_790_000_000.0
TICK_SECONDS = 60.0
CONFIG = """
facility: {pue: 1.3}
tariff:
  currency: EUR
  timezone: Europe/Berlin
  energy: {kind: time_of_use, price_per_kwh: 0.24, zones: [{price_per_kwh: 0.16, hours: "22:00-06:00"}]}
  demand: {price_per_kw_month: 11.50}
  fixed: {per_month: 60}
carbon: {kind: static, grams_per_kwh: 332, basis: average_direct}
costs: {hardware: {price_per_gpu: 30000, years: 4, interest: 0.10, residual: 0.20}}
references:
  - {name: rented-h100, price_per_gpu_hour: 2.69}
  - {name: api-70b, price_per_million: {input: 0.59, cached_input: 0.30, output: 0.79}}
"""


def tick(number: int, gpus: tuple[Gpu, ...]) -> Tick:
    """The number-th tick of a node with servers that work in two minutes of three."""
    seconds = TICK_SECONDS * number
    samples, readings, owners = [], [], {}
    for gpu in gpus:
        busy = (number + gpu.index) % 3 > 0
        joules = 400.0 * seconds * (1.0 + 0.01 * gpu.index)
        samples.append(GpuSample(gpu.uuid, 1000.0 + seconds, joules, 400.0, utilization_ratio=0.9 if busy else 0.0))
        name, model = f"server-{gpu.index}", "acme/model-70b-instruct"
        worked = number * 2 // 3
        series = tuple(
            TokenSeries(role, model, role.value, 1000.0 * (worked if busy else worked + 1))
            for role in (Role.PROMPT, Role.CACHED_INPUT, Role.OUTPUT)
        )
        load = (Load(model, 12.0 if busy else 0.0, 0.0),)
        readings.append(
            ServerReading(name, 1000.0 + seconds, "vllm", Cadence.STEP, "1", ProcessIdentity(1.0), series, load)
        )
        owners[name] = Ownership(name, frozenset({gpu.uuid}), Attribution.CONFIGURED)
    return Tick(
        Instant(1000.0 + seconds, START + seconds),
        AcceleratorReading(gpus, tuple(samples), ()),
        servers=tuple(readings),
        owners=owners,
    )


def bytes_after(days: int, gpus: int) -> list[int]:
    """Bytes in the directory of the books after each day."""
    devices = tuple(
        Gpu(uuid=f"GPU-{i:08x}-0000-4000-8000-000000000000", index=i, max_power_watts=1000.0) for i in range(gpus)
    )
    now = START
    config = load(CONFIG)
    feeds = Feeds(config, lambda name: SourceHealth(name, clock=float, wall=float), lambda: now)
    rules = policy(config, feeds.read_all(START))
    sizes = []
    with tempfile.TemporaryDirectory() as directory:
        file = BooksFile(Path(directory), wall=lambda: now)
        books = file.load()
        for number in range(int(days * 86400 / TICK_SECONDS) + 1):
            seen = tick(number, devices)
            now = seen.at.wall_seconds
            if number % 60 == 0:
                rules = policy(config, feeds.read_all(now))
            books = file.save(advance(books, seen, rules))
            if number and number % int(86400 / TICK_SECONDS) == 0:
                sizes.append(sum(path.stat().st_size for path in Path(directory).iterdir()))
        file.close()
    return sizes


def table(days: int = 8) -> None:
    """Kilobytes per day and GPU, by the number of GPUs."""
    logs.configure("error", "logfmt")
    print(f"{'books':<12}" + "".join(f"{head:>20}" for head in ("first day KB", "KB a day and GPU", "MB in 400 days")))
    for gpus in (1, 8):
        sizes = bytes_after(days, gpus)
        a_day = (sizes[-1] - sizes[0]) / (days - 1)
        cells = f"{sizes[0] / 1e3:.0f}", f"{a_day / gpus / 1e3:.0f}", f"{(sizes[0] + 399 * a_day) / 1e6:.0f}"
        print(f"{f'{gpus} GPUs':<12}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
