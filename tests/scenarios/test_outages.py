"""Outages of everything between a server and the books: the real daemon on a manual clock, compared with the truth.

A server with one GPU works for 40 of every 60 s. What fails is its page (the server answers 503), a relay or proxy in front
of it (the connection ends), the server itself (another process begins later, with counters at 0), the exporter, or the
whole node.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from math import fsum
from pathlib import Path

import pytest

from support.pageserver import Asked, PageServer, answer
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.exposition.families import families
from tpw.model import EnergyMethod, Gpu, GpuSample, Sharing, State
from tpw.store.sqlite import BooksFile

DOCUMENT = Path(__file__).parents[2] / "docs" / "accuracy.md"
BEGIN = "<!-- begin: written by UPDATE_GOLDEN=1 pytest tests/scenarios/test_outages.py -m heavy -->"
END = "<!-- end -->"
START = 1_790_000_000.0
GPU = Gpu("GPU-0", 0, "GPU", energy_method=EnergyMethod.COUNTER, max_power_watts=700.0)
BUSY_WATTS, FREE_WATTS = 600.0, 90.0
TOKENS_PER_SECOND = 900
BEFORE_SECONDS, AFTER_SECONDS = 120, 120


class Place(StrEnum):
    """What fails."""

    PAGE = "page"
    RELAY = "relay"
    SERVER = "server"
    EXPORTER = "exporter"
    NODE = "node"


@dataclass
class Node:
    """The truth, second by second."""

    place: Place
    seconds: int
    process_list: bool
    now: int = 0

    @property
    def is_failed(self) -> bool:
        return BEFORE_SECONDS <= self.now < BEFORE_SECONDS + self.seconds

    def runs(self, second: int) -> bool:
        """Whether the server's process exists."""
        gone = self.place in (Place.SERVER, Place.NODE)
        return not (gone and BEFORE_SECONDS <= second < BEFORE_SECONDS + self.seconds)

    def works(self, second: int) -> bool:
        return self.runs(second) and second % 60 < 40

    def watts(self, second: int) -> float:
        if self.place is Place.NODE and not self.runs(second):
            return 0.0
        return BUSY_WATTS if self.works(second) else FREE_WATTS

    def joules(self) -> float:
        """The counter of the GPU: it begins anew with the node."""
        return 5000.0 * (self._since(Place.NODE) == 0) + fsum(
            self.watts(second) for second in range(self._since(Place.NODE), self.now)
        )

    def tokens(self) -> int:
        return TOKENS_PER_SECOND * sum(map(self.works, range(self._since(Place.SERVER, Place.NODE), self.now)))

    def _since(self, *places: Place) -> int:
        return BEFORE_SECONDS if self.place in places and self.now >= BEFORE_SECONDS + self.seconds else 0

    def page(self, _: Asked) -> bytes | None:
        if self.is_failed and self.place is not Place.EXPORTER:
            return answer("maintenance", status=503) if self.place is Place.PAGE else None
        restarted = self._since(Place.SERVER, Place.NODE) > 0
        began = START + (BEFORE_SECONDS + self.seconds if restarted else -1000)
        return answer(
            f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {began}\n"
            f'vllm:num_requests_running{{model_name="m"}} {int(self.works(max(0, self.now - 1)))}\n'
            f'vllm:generation_tokens_total{{model_name="m"}} {self.tokens()}\n'
        )

    # The meter.

    def open(self) -> None:
        pass

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass

    def gpus(self) -> tuple[Gpu, ...]:
        return (GPU,)

    def read(self, uuid: str) -> GpuSample:
        last = max(0, self.now - 1)
        busy = 0.9 if self.works(last) else 0.0
        return GpuSample(uuid, self.monotonic(), self.joules(), self.watts(last), utilization_ratio=busy)

    def sharing(self, uuid: str) -> Sharing:
        return Sharing(frozenset({7} if self.runs(self.now) else ()) if self.process_list else None)

    name = "exact"

    def monotonic(self) -> float:
        return 1000.0 + self.now

    def wall(self) -> float:
        return START + self.now


@dataclass(frozen=True)
class Row:
    """One outage."""

    place: Place
    seconds: int
    process_list: bool
    true_tokens: float
    tokens: float
    true_joules: float
    """Of the server, while its process existed."""
    joules: float
    waste_joules: float
    """Booked as idle."""
    live: tuple[bool, ...]
    """Whether a live ratio was exposed, at each tick of the outage after its first second."""
    balances: bool
    """Whether the states were all of the GPU at every tick."""

    @property
    def ratio_error(self) -> float:
        return (self.tokens / self.joules) / (self.true_tokens / self.true_joules) - 1.0

    def cells(self) -> tuple[str, ...]:
        return (
            str(self.place),
            f"{self.seconds}",
            "yes" if self.process_list else "no",
            f"{self.true_tokens:.0f}",
            f"{self.tokens:.0f}",
            f"{self.true_joules:.0f}",
            f"{self.joules:.0f}",
            f"{100.0 * self.ratio_error:+.2f}",
        )


def outage(directory: Path, place: Place, seconds: int, process_list: bool) -> Row:
    node = Node(place, seconds, process_list)
    with PageServer(node.page) as server:
        config = load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            servers: [{{name: chat, url: "{server.url}", engine: vllm, gpus: [0]}}]
            """
        )

        def begin() -> Daemon:
            books = BooksFile(directory, node.wall)
            daemon = Daemon(config, books, clock=node.monotonic, wall=node.wall, accelerators=[node])
            daemon.poll_all()
            return daemon

        daemon = begin()
        live, balances, counted, true_joules = [], [], 0.0, 0.0
        stopped = False
        for second in range(1, BEFORE_SECONDS + seconds + AFTER_SECONDS + 1):
            counted += TOKENS_PER_SECOND * node.works(second - 1)
            true_joules += node.watts(second - 1) if node.runs(second - 1) else 0.0
            node.now = second
            if place in (Place.EXPORTER, Place.NODE) and node.is_failed:
                if not stopped:
                    daemon.stop()
                    stopped = True
                continue
            if stopped:
                daemon, stopped = begin(), False
            daemon.tick()
            page = {one.name: samples for one, samples in families(daemon.snapshot)} if second % 5 == 0 else {}
            if page:
                states = {labels[2]: value for labels, value in page["tpw_gpu_state_energy_joules_total"]}
                balances.append(fsum(states.values()) == pytest.approx(page["tpw_gpu_energy_joules_total"][0][1]))
                if node.is_failed and second > BEFORE_SECONDS + 1:
                    live.append("tpw_tokens_per_second" in page or "tpw_tokens_per_watt" in page)
        daemon.stop()
    postings = daemon.snapshot.books.postings
    return Row(
        place,
        seconds,
        process_list,
        counted,
        fsum(daemon.snapshot.books.servers["chat"].tokens.values()),
        true_joules,
        fsum(amounts.joules for key, amounts in postings.items() if key.server == "chat"),
        fsum(amounts.joules for key, amounts in postings.items() if key.state is State.IDLE),
        tuple(live),
        all(balances),
    )


def check(row: Row) -> None:
    assert row.balances
    assert not any(row.live), "a ratio is absent while it is not known"
    assert row.tokens == pytest.approx(row.true_tokens, rel=0.01)
    assert row.joules == pytest.approx(row.true_joules, rel=0.01)
    assert abs(row.ratio_error) <= 0.01


@pytest.mark.parametrize("process_list", [False, True], ids=["no list", "list"])
@pytest.mark.parametrize("place", [Place.PAGE, Place.RELAY])
def test_85_s_without_a_page_change_no_ratio(tmp_path: Path, place: Place, process_list: bool) -> None:
    check(outage(tmp_path, place, 85, process_list))


@pytest.mark.parametrize("seconds", [5, 7, 9, 11])
def test_a_restart_between_two_reads_of_the_process_list_changes_no_ratio(tmp_path: Path, seconds: int) -> None:
    check(outage(tmp_path, Place.SERVER, seconds, process_list=True))


@pytest.mark.heavy
def test_no_outage_of_the_documented_table_changes_a_ratio(tmp_path: Path) -> None:
    headings = ("failed", "s", "process list", "true tokens", "tokens", "true J", "booked J", "ratio error %")
    rows = []
    for number, (place, seconds, listed) in enumerate(product(Place, (5, 85, 600), (True, False))):
        rows.append(outage(tmp_path / str(number), place, seconds, listed))
        print(*rows[-1].cells(), f"idle {rows[-1].waste_joules:.0f}", sep=" | ", flush=True)
    cells = [headings, *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    lines.insert(1, "| --- | --: | --- | --: | --: | --: | --: | --: |")
    text = "\n".join(["", *lines, ""])
    if os.environ.get("UPDATE_GOLDEN") == "1":
        head, begin, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(head + begin + text + END + rest.partition(END)[2])
    for row in rows:
        check(row)
    # Back-offs are random, so the figures of a restarted server differ from run to run.
    assert DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].count("\n") == text.count("\n")
