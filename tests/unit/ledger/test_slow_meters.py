"""Live ratios with meters that report less often than ticks (dcgm-exporter's page, a query)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from tpw.ledger.advance import advance
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, ServerAccount, WindowSample
from tpw.ledger.tick import Policy, Tick
from tpw.ledger.window import live_ratios
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Boundary,
    Cadence,
    EnergyMethod,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Ownership,
    ProcessIdentity,
    Role,
    ServerReading,
    TokenKind,
    TokenSeries,
)

OUTPUT = ("output", Boundary.GPU)
OWNERS = {"chat": Ownership("chat", frozenset({"GPU-0"}), Attribution.CONFIGURED)}
JOULES_PER_TOKEN = 3.0


def used(second: int) -> float:
    """Joules of a load that is never the same: between 100 and 500 W."""
    return 300.0 * second + 2000.0 * (1.0 - math.cos(second / 10.0))


class Ratio:
    """The live ratio at every second of a server that uses 3 J per token."""

    def __init__(
        self, reports: Callable[[int], bool], seconds: int, method: EnergyMethod, window: float = 60.0
    ) -> None:
        gpu = Gpu("GPU-0", 0, energy_method=method, max_power_watts=700.0)
        books, policy = Books(), Policy(window_seconds=window)
        self.shown: list[float | None] = []
        self.spans: list[float] = []
        self.kept = 0
        for second in range(seconds):
            at = float(second)
            sample = GpuSample("GPU-0", at, used(second) if reports(second) else None, 300.0)
            series = (TokenSeries(Role.OUTPUT, "m", "k", used(second) / JOULES_PER_TOKEN),)
            page = ServerReading(
                "chat", at, "vllm", Cadence.STEP, "", ProcessIdentity(1.0), series, (Load("m", 1.0, 0.0),)
            )
            reading = AcceleratorReading((gpu,), (sample,))
            books = advance(books, Tick(Instant(at, 1e9 + at), reading, (), (page,), OWNERS), policy)
            ratios = live_ratios(books.servers["chat"])
            self.shown.append(None if ratios is None else ratios.models["m"].tokens_per_joule.get(OUTPUT))
            self.spans.append(0.0 if ratios is None else ratios.span_seconds)
            self.kept = max(self.kept, len(books.servers["chat"].window))


@pytest.mark.parametrize("method", [EnergyMethod.COUNTER, EnergyMethod.EXTERNAL])
@pytest.mark.parametrize("window", [45.0, 60.0])
@pytest.mark.parametrize("every", [5, 15, 30])
def test_the_ratio_is_shown_and_holds_tokens_against_the_joules_of_their_own_time(
    every: int, window: float, method: EnergyMethod
) -> None:
    ratio = Ratio(lambda second: second % every == 0, 600, method, window)

    settled = int(2 * window + 3 * every)
    assert ratio.shown[settled:] == [pytest.approx(1 / JOULES_PER_TOKEN)] * (600 - settled)
    assert all(window - every <= span <= window + every for span in ratio.spans[settled:])
    assert ratio.kept <= 60 * 2 + 2


def test_in_a_long_window_complete_samples_are_not_replaced() -> None:
    """Samples of 300 s are 5 s apart: the next one would take its place."""
    ratio = Ratio(lambda second: second % 7 == 0, 1000, EnergyMethod.COUNTER, 300.0)

    assert ratio.shown[650:] == [pytest.approx(1 / JOULES_PER_TOKEN)] * 350
    assert all(300.0 - 7 <= span <= 300.0 + 7 for span in ratio.spans[650:])


def test_a_counter_that_moves_every_half_hour_has_no_live_ratio_and_no_long_memory() -> None:
    ratio = Ratio(lambda second: second % 1800 == 0, 4000, EnergyMethod.EXTERNAL)

    assert set(ratio.shown) == {None}
    assert ratio.kept <= 60 * 2 + 2


def test_a_missing_report_is_awaited_for_one_and_a_half_intervals_then_the_ratio_is_withheld() -> None:
    ratio = Ratio(lambda second: second % 30 == 0 and second <= 300, 500, EnergyMethod.COUNTER)

    assert ratio.shown[330] is not None
    assert ratio.shown[360:] == [None] * 140
    assert ratio.kept <= 60 * 2 + 2


def test_a_meter_that_reports_at_every_tick_is_not_awaited() -> None:
    ratio = Ratio(lambda second: not 300 <= second < 310, 400, EnergyMethod.COUNTER)

    assert ratio.shown[299] == pytest.approx(1 / JOULES_PER_TOKEN)
    assert ratio.shown[306:310] == [None] * 4
    assert ratio.shown[399] == pytest.approx(1 / JOULES_PER_TOKEN)


def test_unmetered_time_between_two_reports_counts_against_the_window() -> None:
    """Between two reports 4 s of 60 are unmetered: 6.7 %."""
    window = tuple(
        WindowSample(
            at_seconds=float(second),
            tokens={("m", TokenKind.OUTPUT): second / JOULES_PER_TOKEN},
            amounts={"m": Amounts(joules=30.0 * (second // 30))},
            behind_seconds=float(second % 30),
            energy_tokens={("m", TokenKind.OUTPUT): 30.0 * (second // 30) / JOULES_PER_TOKEN},
        )
        for second in range(61)
    )
    cut = tuple(replace(sample, lost_joules=max(0.0, min(4.3, sample.at_seconds - 40.0))) for sample in window)
    shown = []
    for samples in (window, cut):
        ratios = live_ratios(ServerAccount("chat", window=samples, window_seconds=60.0))
        assert ratios is not None
        shown.append(ratios.models["m"].tokens_per_joule.get(OUTPUT))

    assert shown == [pytest.approx(1 / JOULES_PER_TOKEN), None]


@pytest.mark.parametrize(("gap", "window"), [(1.0, 60.0), (2.0, 60.0), (4.0, 120.0), (14.0, 420.0), (40.0, 600.0)])
def test_the_window_is_long_where_power_is_read_rarely(gap: float, window: float) -> None:
    """With a counter it never is: the joules between two reads are known. Nor with means of all the time between two reads,
    or where no more reads were wanted."""
    for method, mean, interval, expected in (
        (EnergyMethod.AVERAGE_POWER, 1.0, 1.0, window),
        (EnergyMethod.COUNTER, 1.0, 1.0, 60.0),
        (EnergyMethod.AVERAGE_POWER, gap, 1.0, 60.0),
        (EnergyMethod.INSTANT_POWER, 0.0, gap, 60.0),
    ):
        gpu = Gpu("GPU-0", 0, energy_method=method, max_power_watts=700.0)
        books, policy = Books(), Policy(interval_seconds=interval)
        for read in range(4):
            at = gap * read
            sample = GpuSample("GPU-0", at, 300.0 * at, 300.0, power_mean_seconds=mean)
            page = ServerReading("chat", at, "vllm", Cadence.STEP, "", ProcessIdentity(1.0), ())
            reading = AcceleratorReading((gpu,), (sample,))
            books = advance(books, Tick(Instant(at, 1e9 + at), reading, (), (page,), OWNERS), policy)
        assert books.servers["chat"].window_seconds == expected
