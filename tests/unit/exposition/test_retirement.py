"""Servers and models that are gone leave the page; nothing jumps or falls, and the parts still sum to the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tpw.daemon.retirement import Retirement
from tpw.exposition.families import families
from tpw.exposition.status import status
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.retirement import Retired
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    AcceleratorReading,
    Attribution,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Ownership,
    PriceInterval,
    ProcessIdentity,
    Rate,
    Role,
    ServerReading,
    TokenSeries,
)
from tpw.snapshot import Prices, Snapshot
from tpw.store.sqlite import BooksFile
from tpw.tariff.curve import PriceCurve

START = 1_790_000_000.0
DAY = 86400.0
GPUS = (Gpu("GPU-0", 0, max_power_watts=1000.0), Gpu("GPU-1", 1, max_power_watts=1000.0))
POLICY = Policy(
    interval_seconds=600.0,
    currency="EUR",
    curve=PriceCurve.from_intervals([PriceInterval(0.0, 1e11, 0.3)]),
    rates=(Rate("hardware", 1e-4),),
)
Page = dict[tuple[str, tuple[str, ...]], float]


class World:
    """Two GPUs; who serves what is decided tick by tick."""

    def __init__(self) -> None:
        self.books = Books()
        self.retirement = Retirement(DAY, None)
        self.seconds = 0.0
        self.retired = Retired()

    def live(self, ticks: int, servers: dict[str, Sequence[str]], ahead: float = 0.0) -> None:
        for _ in range(ticks):
            self.seconds += 600.0
            at = Instant(self.seconds, START + self.seconds + ahead)
            samples = tuple(GpuSample(gpu.uuid, self.seconds, 300.0 * self.seconds, 300.0) for gpu in GPUS)
            readings = [
                ServerReading(
                    *(name, self.seconds, "vllm", Cadence.STEP, "1", ProcessIdentity(1.0)),
                    tuple(TokenSeries(Role.OUTPUT, model, f"o{model}", self.seconds) for model in models),
                )
                for name, models in servers.items()
            ]
            owners = {
                name: Ownership(name, frozenset({gpu.uuid}), Attribution.CONFIGURED)
                for gpu, name in zip(GPUS, servers, strict=False)
            }
            tick = Tick(at, AcceleratorReading(GPUS, samples), servers=tuple(readings), owners=owners)
            self.books = advance(self.books, tick, POLICY)
            self.retired = self.retirement.update(self.books, at)

    def snapshot(self) -> Snapshot:
        assert self.books.at is not None
        return Snapshot(self.books.at, self.books, prices=Prices("EUR"), retired=self.retired)

    def page(self) -> Page:
        return {(metric.name, labels): value for metric, rows in families(self.snapshot()) for labels, value in rows}


def total(page: Page, name: str, *wanted: str) -> float:
    return math.fsum(value for (metric, labels), value in page.items() if metric == name and {*wanted} <= {*labels})


def check_sums(page: Page) -> None:
    """Law 2: servers, GPUs that nobody owns, and what is not listed sum to the GPUs."""
    rest = math.fsum(total(page, "tpw_gpu_state_energy_joules_total", state) for state in ("idle", "other"))
    servers = total(page, "tpw_server_energy_joules_total") + total(page, "tpw_books_unlisted_energy_joules")
    assert servers + rest == pytest.approx(total(page, "tpw_gpu_energy_joules_total"), rel=1e-12)
    for component in ("energy", "hardware"):
        parts = [
            total(page, "tpw_server_cost_total", component),
            total(page, "tpw_books_unlisted_cost", component),
            *(total(page, "tpw_gpu_state_cost_total", component, state) for state in ("idle", "other")),
        ]
        assert math.fsum(parts) == pytest.approx(total(page, "tpw_gpu_state_cost_total", component), rel=1e-12)


def servers_on(page: Page) -> set[str]:
    return {labels[0] for metric, labels in page if metric.startswith("tpw_server_")}


def test_a_server_that_is_gone_leaves_the_page_and_returns_with_its_values() -> None:
    world = World()
    world.live(20, {"stays": ["m"], "goes": ["n"]})
    before = world.page()
    world.live(140, {"stays": ["m"]})
    assert servers_on(world.page()) == {"stays", "goes"}, "gone for less than a day"
    check_sums(world.page())
    world.live(20, {"stays": ["m"]})
    without = world.page()
    check_sums(without)
    assert servers_on(without) == {"stays"}
    assert total(without, "tpw_books_unlisted_energy_joules") > 0.0
    assert "goes" not in {server["name"] for server in status(world.snapshot())["servers"]}
    world.live(1, {"stays": ["m"], "goes": ["n"]})
    after = world.page()
    check_sums(after)
    assert total(after, "tpw_books_unlisted_energy_joules") == 0.0
    for (metric, labels), value in before.items():
        if labels[:1] == ("goes",) and metric.endswith("_total"):
            assert after[metric, labels] >= value, metric


def test_no_counter_of_another_series_moves_because_of_a_retirement() -> None:
    world = World()
    world.live(20, {"stays": ["m"], "goes": ["n"]})
    world.live(160, {"stays": ["m"]})
    with_it = {
        (metric.name, labels): value
        for metric, rows in families(replace(world.snapshot(), retired=Retired()))
        for labels, value in rows
    }
    without = world.page()
    gone = {sample for sample in with_it if "goes" in sample[1]}
    assert gone
    assert {
        sample: value for sample, value in with_it.items() if sample not in gone and "unlisted" not in sample[0]
    } == {sample: value for sample, value in without.items() if "unlisted" not in sample[0]}


def test_adapters_that_are_gone_leave_the_page_of_a_server_that_stays() -> None:
    world = World()
    for number in range(30):
        world.live(36, {"stays": ["m", f"adapter-{number}"]})
    page = world.page()
    check_sums(page)
    adapters = {labels[1] for metric, labels in page if metric == "tpw_server_tokens_total"}
    assert adapters == {"m", *(f"adapter-{number}" for number in range(25, 30))}
    assert {labels[1] for metric, labels in page if metric == "tpw_server_energy_joules_total"} == adapters


def test_retirement_survives_a_restart_and_books_of_0_1_begin_to_count_from_now(tmp_path: Path) -> None:
    world = World()
    world.live(20, {"stays": ["m"], "goes": ["n"]})
    world.live(160, {"stays": ["m"]})
    file = BooksFile(tmp_path)
    file.save(world.books)
    file.close()
    file = BooksFile(tmp_path)
    books = file.load()
    file.close()
    assert Retirement(DAY, books.at).update(books, Instant(0.0, START + world.seconds)).servers == {"goes"}

    old = replace(world.books, servers={name: replace(one, seen={}) for name, one in world.books.servers.items()})
    world.books, world.retirement = old, Retirement(DAY, None)
    world.live(1, {"stays": ["m"]})
    assert not world.retired
    world.live(150, {"stays": ["m"]})
    assert world.retired.servers == {"goes"}


@pytest.mark.parametrize("ahead", [30 * DAY, -30 * DAY, -4000 * DAY])
def test_a_wrong_clock_after_a_restart_of_the_machine_retires_nobody(tmp_path: Path, ahead: float) -> None:
    world = World()
    world.live(20, {"stays": ["m", "adapter"], "goes": ["n"]})
    world.live(3, {"stays": ["m"]})
    file = BooksFile(tmp_path, boot="one")
    file.save(world.books)
    file.close()
    file = BooksFile(tmp_path, boot="two")
    world.books = file.load()
    file.close()
    world.retirement = Retirement(DAY, world.books.at)

    for wrong_by in (ahead, 0.0):
        world.live(3, {"stays": ["m"]}, wrong_by)
        assert not world.retired

    world.live(150, {"stays": ["m"]})
    assert world.retired.servers == {"goes"}
    assert world.retired.models == {("stays", "adapter")}


def test_time_in_which_no_daemon_ran_retires_nobody(tmp_path: Path) -> None:
    world = World()
    world.live(20, {"stays": ["m"], "goes": ["n"]})
    world.live(3, {"stays": ["m"]})
    file = BooksFile(tmp_path)
    file.save(world.books)
    file.close()
    file = BooksFile(tmp_path)
    world.books = file.load()
    file.close()
    world.retirement = Retirement(DAY, world.books.at)
    world.seconds += 5 * DAY

    world.live(3, {"stays": ["m"]})
    assert not world.retired
    world.live(150, {"stays": ["m"]})
    assert world.retired.servers == {"goes"}
