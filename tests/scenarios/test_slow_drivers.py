"""Drivers with calls that take long: the ratios stay, no GPU is down, and no energy is lost.

Real binding, meter, poller with its threads, and ledger, on a clock that jumps. The driver serialises its calls, as NVML
was reported to. Two servers, one on the first GPU and one on the others, use three joules per token at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import pynvml
import pytest

from fakenvml import FakeNvml
from scenarios.conftest import shut_down
from support.losses import aligned, documented
from support.virtualtime import SlowDriver, VirtualTime
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.window import live_ratios
from tpw.model import (
    Attribution,
    Boundary,
    Cadence,
    Instant,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenSeries,
)
from tpw.polling import AcceleratorPoller
from tpw.power.nvml import NvmlMeter

COMMAND = "pytest tests/scenarios/test_slow_drivers.py -m heavy"
HEADINGS = ("ms per call", "GPUs", "meter", "gauge present %", "gauge error %", "GPUs down", "joules error %", "gap s")

CALL_MS = (5, 15, 40, 160, 400)
GPUS = (1, 8, 16, 72)
JOULES_PER_TOKEN = 3.0
WARM_UP_SECONDS = {True: 300, False: 900}
"""With and without a counter: as long as the longest window of a live ratio, and half a window."""
SECONDS = 240
EPOCH = 1_790_000_000.0


@dataclass(frozen=True, slots=True)
class Row:
    """What one driver did."""

    present: float
    gauge_error: float
    downs: int
    joules_error: float
    longest_gap: float

    def cells(self, ms: int, gpus: int, meter: str) -> tuple[str, ...]:
        return (
            str(ms),
            str(gpus),
            meter,
            f"{100 * self.present:.1f}",
            f"{100 * self.gauge_error:.1f}",
            str(self.downs),
            f"{100 * self.joules_error:+.2f}",
            f"{self.longest_gap:.1f}",
        )


def run(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    ms: float,
    gpus: int,
    *,
    counter: bool = True,
    serialised: bool = True,
) -> Row:
    """Warm-up, then four minutes of ticks."""
    clock = VirtualTime()
    clock.install(monkeypatch)
    with FakeNvml(directory, count=gpus, start_seconds=clock.now()) as nvml:
        nvml.preload()
        clock.on_advance = nvml.set_now
        driver = SlowDriver(pynvml, clock, ms / 1000.0, serialised=serialised)
        for module in ("nvml", "nvml_probe", "nvml_sharing"):
            monkeypatch.setattr(f"tpw.power.{module}.nvml", driver)
        for index in range(gpus):
            nvml.gpu(index).set_square(200.0, 600.0, 7.0 + 0.37 * (index % 11), 0.4)
            nvml.no_energy(index, on=not counter)
        poller = AcceleratorPoller(NvmlMeter(clock.now), clock.now, random=Random(1).random)
        try:
            return Run(nvml, poller, clock, gpus).row(WARM_UP_SECONDS[counter])
        finally:
            poller.close(clock.now())
            clock.sleep_until(clock.now() + 60.0)
            shut_down()


class Run:
    def __init__(self, nvml: FakeNvml, poller: AcceleratorPoller, clock: VirtualTime, gpus: int) -> None:
        self.nvml, self.poller, self.clock = nvml, poller, clock
        uuids = [nvml.uuid(index) for index in range(gpus)]
        owned = {"solo": uuids[:1], "rest": uuids[1:]}
        self.owned = {name: tuple(range(gpus))[1 if name == "rest" else 0 :][: len(own)] for name, own in owned.items()}
        self.owners = {
            name: Ownership(name, frozenset(own), Attribution.CONFIGURED) for name, own in owned.items() if own
        }
        self.books = Books()
        self.policy = Policy()
        self.indices = range(gpus)

    def row(self, warm_up_seconds: int) -> Row:
        clock = self.clock
        self.poller.begin()
        self.poller.finish(clock.now() + 3600.0)  # open it, however long that takes
        began = clock.now()
        ticks = present = downs = 0
        gauge_error = gap = 0.0
        before: list[tuple[float, float]] = []
        for second in range(1, warm_up_seconds + SECONDS + 1):
            clock.sleep_until(began + second)
            self.poller.begin()
            reading = self.poller.finish(clock.now() + 0.5)
            at = Instant(clock.now(), EPOCH + clock.now())
            pages = tuple(self.page(name, at) for name in self.owners)
            self.books = advance(self.books, Tick(at, reading, (), pages, self.owners), self.policy)
            if second <= warm_up_seconds:
                before = [self.booked(index) for index in self.indices]
                continue
            ticks += 1
            ratios = [self.ratio(name) for name in self.owners]
            present += all(ratio is not None for ratio in ratios)
            gauge_error = max([gauge_error, *(abs(r * JOULES_PER_TOKEN - 1.0) for r in ratios if r is not None)])
            downs += sum(not account.up for account in self.books.gpus.values())
            gap = max(gap, *(account.last_gap_seconds for account in self.books.gpus.values()))
        after = [self.booked(index) for index in self.indices]
        true = sum(
            self.nvml.true_joules(index, old[0], new[0])
            for index, old, new in zip(self.indices, before, after, strict=True)
        )
        booked = sum(new[1] - old[1] for old, new in zip(before, after, strict=True))
        return Row(present / ticks, gauge_error, downs, booked / true - 1.0, gap)

    def booked(self, index: int) -> tuple[float, float]:
        """(instant, joules booked up to it) of one GPU."""
        uuid = self.nvml.uuid(index)
        account = self.books.gpus.get(uuid)
        joules = sum(amounts.joules for key, amounts in self.books.postings.items() if key.gpu == uuid)
        if account is None or account.baseline_at_seconds is None:
            return (self.clock.now(), 0.0)
        return account.baseline_at_seconds, joules

    def page(self, name: str, at: Instant) -> ServerReading:
        now = at.monotonic_seconds
        tokens = sum(self.nvml.true_joules(i, 1000.0, now) for i in self.owned[name]) / JOULES_PER_TOKEN
        series = (TokenSeries(Role.OUTPUT, "m", "k", tokens),)
        return ServerReading(name, now, "vllm", Cadence.STEP, "", ProcessIdentity(1.0), series)

    def ratio(self, name: str) -> float | None:
        ratios = live_ratios(self.books.servers[name])
        return None if ratios is None else ratios.models["m"].tokens_per_joule.get(("output", Boundary.GPU))


@pytest.fixture(autouse=True)
def _restored_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKENVML_CONTROL", "")


def cases(*, counter: bool) -> list[tuple[int, int, bool]]:
    return [(ms, gpus, counter) for ms in CALL_MS for gpus in GPUS]


@pytest.mark.parametrize(("ms", "gpus", "counter"), [case for case in cases(counter=True) if case[1] < 72])
def test_with_a_counter_nothing_is_lost(
    ms: int, gpus: int, counter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(run(tmp_path, monkeypatch, ms, gpus, counter=counter), counter=counter)


def test_a_gpu_without_a_counter_is_read_as_often_as_a_slow_driver_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for each GPU takes 2.6 s; no other calls take the driver's time but every eighth."""
    row = run(tmp_path, monkeypatch, 160, 16, counter=False)
    check(row, counter=False)
    assert row.longest_gap < 5.0


@pytest.mark.parametrize("ms", [40, 400])
def test_a_driver_with_a_lock_per_gpu_is_read_in_a_fraction_of_the_time(
    ms: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = run(tmp_path, monkeypatch, ms, 16, serialised=False)

    check(row, counter=True)
    assert row.longest_gap <= (1.3 if ms == 40 else 4.0)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_the_documented_table_of_slow_drivers_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call time, number of GPUs and kind of meter."""
    rows: dict[tuple[str, ...], tuple[str, ...]] = {}
    for ms, gpus, counter in [*cases(counter=True), *cases(counter=False)]:
        directory = tmp_path / f"{ms}-{gpus}-{counter}"
        directory.mkdir()
        with monkeypatch.context() as patch:
            row = run(directory, patch, ms, gpus, counter=counter)
        check(row, counter=counter)
        cells = row.cells(ms, gpus, "counter" if counter else "mean power")
        rows[cells[:3]] = cells
    table = aligned([HEADINGS, *rows.values()])
    lines = documented(COMMAND, table)[2:]
    written = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert [cells[:3] for cells in written] == list(rows)
    for cells in written:
        present, gauge, downs, joules, gap = (float(cell) for cell in rows[cells[:3]][3:])
        assert (present, downs) == (float(cells[3]), float(cells[5]))
        assert float(cells[4]) == pytest.approx(gauge, abs=0.5 + 0.1 * gauge)
        assert float(cells[6]) == pytest.approx(joules, abs=0.3)
        assert float(cells[7]) == pytest.approx(gap, abs=0.3 + 0.1 * gap)


def check(row: Row, *, counter: bool) -> None:
    """What holds for every driver. A GPU without a counter is read as a mean of one second per read: what it uses between
    two reads of a slow driver is a guess."""
    assert row.present >= 0.99
    assert row.downs <= (0 if counter else 1)
    is_sparse = not counter and row.longest_gap > 5.0
    assert abs(row.joules_error) <= (0.06 if is_sparse else 0.01)
    assert row.gauge_error <= (0.25 if is_sparse else 0.05 if row.longest_gap < 20.0 else 0.1)
