"""The whole daemon without its HTTP server: meters, reloads, release of the driver, prices that come late."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from math import fsum
from pathlib import Path
from queue import SimpleQueue
from textwrap import dedent

import pytest
from structlog.testing import capture_logs

from support.pageserver import PageServer, answer, pages
from tpw.config.load import load
from tpw.config.schema import Config, Polling
from tpw.daemon.daemon import Daemon
from tpw.daemon.persistence import CurrencyError
from tpw.daemon.pricing import wanted_since
from tpw.daemon.reload import apply, prepare
from tpw.exposition.families import families
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Books, PostingKey
from tpw.model import Gpu, GpuSample, Instant, PriceInterval, Reason, Sharing, SourceError, TokenKind
from tpw.power.simulated import SimulatedMeter
from tpw.snapshot import Snapshot
from tpw.store.sqlite import BooksFile, History
from tpw.tariff.context import FeedContext
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve
from tpw.tariff.settings import Tariff

CAPTURES = Path(__file__).parents[2] / "captures"


def config(gpus: str, price: float = 0.2) -> Config:
    return load(
        f"""
        host: {{meters: []}}
        discovery: {{processes: false}}
        servers: [{{name: big, gpus: {gpus}, model: m}}]
        tariff: {{currency: EUR, energy: {{kind: flat, price_per_kwh: {price}}}}}
        """
    )


@pytest.fixture
def daemon() -> Daemon:
    process = frozenset({1})
    meter = SimulatedMeter(gpus=2, holders=lambda: {0: process, 1: process})
    return Daemon(config("[0]"), accelerators=[meter])


def reload(daemon: Daemon, new: Config) -> None:
    """Reload as an HTTP request would, while the ticks go on."""
    failures: list[Exception] = []

    def ask() -> None:
        try:
            daemon.reload(new)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        daemon.tick()
        thread.join(0.01)
    assert failures == []


class Beside(SimulatedMeter):
    """Another meter of the same GPUs, with other counter values and without process lists."""

    name = "beside"

    def read(self, uuid: str) -> GpuSample:
        return replace(super().read(uuid), energy_joules=7.0e6)

    def sharing(self, uuid: str) -> Sharing:
        return Sharing()


class Renamed(Beside):
    """The same GPUs under other names, as hwmon reports those of amdsmi."""

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(
            replace(gpu, uuid=f"PCI-{gpu.index}", pci_bus_id=f"0000:0{gpu.index}:00.0") for gpu in super().gpus()
        )

    def read(self, uuid: str) -> GpuSample:
        return replace(super().read(SimulatedMeter(gpus=2).gpus()[int(uuid[-1])].uuid), uuid=uuid)


class Placed(SimulatedMeter):
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(replace(gpu, pci_bus_id=f"00000000:0{gpu.index}:00.0") for gpu in super().gpus())


def test_a_gpu_that_another_meter_reports_under_another_name_is_booked_once() -> None:
    daemon = Daemon(config("[0]"), accelerators=[Placed(gpus=2), Renamed(gpus=3)])
    daemon.poll_all()
    daemon.tick()
    snapshot = daemon.snapshot
    daemon.stop()

    assert [account.gpu.index for account in snapshot.books.gpus.values()] == [0, 1, 2]
    assert list(snapshot.books.gpus)[2] == "PCI-2"
    assert [note[:5] for note in snapshot.notes if "reported by several meters" in note] == ["PCI-0", "PCI-1"]


def test_a_gpu_that_two_meters_report_is_booked_once_and_has_the_holders_of_the_first() -> None:
    process = frozenset({1})
    first = SimulatedMeter(gpus=2, holders=lambda: {0: process, 1: process})
    daemon = Daemon(config("[0]"), accelerators=[first, Beside(gpus=2)])
    daemon.poll_all()
    begun = daemon.snapshot
    for _ in range(3):
        daemon.tick()
    ended = daemon.snapshot
    daemon.stop()

    for uuid, account in ended.books.gpus.items():
        postings = [posting for key, posting in ended.books.postings.items() if key.gpu == uuid]
        passed = ended.at.monotonic_seconds - begun.at.monotonic_seconds
        assert sum(posting.seconds for posting in postings) == pytest.approx(passed, abs=1e-5)
        before, after = begun.books.gpus[uuid].sample, account.sample
        assert before is not None and after is not None
        used = (after.energy_joules or 0.0) - (before.energy_joules or 0.0)
        assert sum(posting.joules for posting in postings) == pytest.approx(used)
    assert daemon.holders() == dict.fromkeys(ended.books.gpus, process)
    assert [note for note in ended.notes if "reported by several meters" in note] == [
        f"{uuid} is reported by several meters of `accelerators`: only the first of them counts."
        for uuid in ended.books.gpus
    ]


@pytest.mark.parametrize("gpus", ["auto", "none", "[0]"])
def test_unknown_gpus_are_a_note_only_for_servers_with_automatic_attribution(gpus: str) -> None:
    with PageServer(lambda _: answer('vllm:generation_tokens_total{model_name="m"} 5\n')) as pages:
        given = load(f"host: {{meters: []}}\nservers: [{{name: big, url: {pages.url}/metrics, gpus: {gpus}}}]")
        daemon = Daemon(given, accelerators=[Beside(gpus=2)])
        daemon.poll_all()
        daemon.tick()
        daemon.stop()
        notes = [note for note in daemon.snapshot.notes if "server big" in note]
    assert [note.startswith("server big: its GPUs are not known") for note in notes] == (
        [True] if gpus == "auto" else []
    )
    assert daemon.snapshot.books.servers["big"].up


@pytest.mark.parametrize(
    "money",
    [
        "energy: {kind: flat, price_per_kwh: 0.2}}",
        "}\nreferences: [{name: rented, price_per_gpu_hour: 2.7}]",
    ],
)
def test_money_in_the_books_is_not_relabelled(tmp_path: Path, money: str) -> None:
    def euro(currency: str) -> Config:
        return load(
            "host: {meters: []}\ndiscovery: {processes: false}\nservers: [{name: big, gpus: [0], model: m}]\n"
            f"tariff: {{currency: {currency}, {money}"
        )

    daemon = Daemon(
        euro("EUR"), BooksFile(tmp_path), accelerators=[SimulatedMeter(gpus=1, holders=lambda: {0: frozenset({1})})]
    )
    daemon.poll_all()
    daemon.tick()
    with pytest.raises(CurrencyError, match=r"tariff\.currency is USD, but the books .* hold EUR"):
        daemon.reload(euro("USD"))
    daemon.stop()
    file = BooksFile(tmp_path)
    with pytest.raises(CurrencyError, match=r"new --state\.dir"):
        Daemon(euro("USD"), file, accelerators=[SimulatedMeter(gpus=1)])
    file.close()


class Late(SimulatedMeter):
    """A driver that is not there at first."""

    there = True

    def open(self) -> None:
        if not self.there:
            raise SourceError(Reason.ABSENT, "no driver yet")

    def gpus(self) -> tuple[Gpu, ...]:
        return super().gpus() if self.there else ()


def test_energy_of_a_long_downtime_has_its_price_though_the_driver_comes_later_still(tmp_path: Path) -> None:
    """By then the feeds were read again, while no GPU was there that would need old prices."""
    meter = Late(gpus=1)
    first = Daemon(config("[0]"), BooksFile(tmp_path), accelerators=[meter])
    first.poll_all()
    first.tick()
    first.stop()

    meter.there = False
    clock = hasty()
    ahead = time.time() + 20 * 3600.0 - clock()
    later = Daemon(config("[0]"), BooksFile(tmp_path), accelerators=[meter], wall=lambda: clock() + ahead, clock=clock)
    later.poll_all()
    reload(later, config("[0]"))
    meter.there = True
    deadline = time.monotonic() + 60
    while not any(account.up for account in later.snapshot.books.gpus.values()) and time.monotonic() < deadline:
        later.tick()
    postings = later.snapshot.books.postings.values()
    later.stop()
    assert sum(posting.seconds for posting in postings) == pytest.approx(20 * 3600.0, rel=1e-2)
    assert sum(posting.cost["energy"] for posting in postings) > 0.0
    assert sum(posting.unpriced_joules for posting in postings) == 0.0


def hasty() -> Callable[[], float]:
    """A monotonic clock at twenty times its speed, so that the test need not wait for the back-off of a driver."""
    begun = time.monotonic()
    return lambda: begun + 20.0 * (time.monotonic() - begun)


def owned(daemon: Daemon) -> set[int]:
    books = daemon.snapshot.books
    return {books.gpus[uuid].gpu.index for uuid in books.servers["big"].gpus}


def test_a_reload_that_gives_a_server_other_gpus_is_in_force_at_once(daemon: Daemon) -> None:
    daemon.poll_all()
    assert owned(daemon) == {0}

    reload(daemon, config("[1]"))
    daemon.tick()

    assert owned(daemon) == {1}
    daemon.stop()


def test_a_server_at_another_address_after_a_reload_does_not_count_what_was_generated_before() -> None:
    """Until the next scan the process at the new address is unknown: the one at the old address is no substitute."""
    new = {"/metrics": answer("llamacpp:tokens_predicted_total 5000\n")}
    old = {"/metrics": answer("llamacpp:tokens_predicted_total 1000\n")}

    def at(url: str) -> Config:
        servers = f"[{{name: chat, url: '{url}', engine: llamacpp, model: m, gpus: none}}]"
        return load(f"{{host: {{meters: []}}, discovery: {{processes: false}}, servers: {servers}}}")

    with PageServer(pages(old)) as one, PageServer(pages(new)) as two:
        daemon = Daemon(at(one.url), accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.tick()
        reload(daemon, at(two.url))
        daemon.tick()
        new["/metrics"] = answer("llamacpp:tokens_predicted_total 5007\n")
        daemon.tick()
        daemon.stop()
    assert daemon.snapshot.books.servers["chat"].tokens == {("m", TokenKind.OUTPUT): 7.0}


def _latency(name: str, within: int, requests: int) -> str:
    bucket = f'vllm:{name}_bucket{{model_name="m",le='
    return (
        f'{bucket}"1.0"}} {within}\n{bucket}"+Inf"}} {requests}\nvllm:{name}_sum{{model_name="m"}} {requests * 0.5}\n'
    )


def test_requests_within_the_targets_of_the_file_are_counted_and_survive_the_exporter(tmp_path: Path) -> None:
    def served(within: int, requests: int) -> bytes:
        latencies = _latency("time_to_first_token_seconds", within, requests) + _latency(
            "e2e_request_latency_seconds", requests, requests
        )
        return answer(f'vllm:generation_tokens_total{{model_name="m"}} 5\nvllm:num_requests_running 0\n{latencies}')

    def requests(daemon: Daemon) -> dict[tuple[str, str], float]:
        shown = {family.metric.name: family.samples for family in families(daemon.snapshot)}
        return {labels[2:]: value for labels, value in shown["tpw_server_slo_requests_total"]}

    page = {"/metrics": served(3, 5)}
    with PageServer(pages(page)) as server:
        text = (
            f"{{host: {{meters: []}}, discovery: {{processes: false}},"
            f" slo: {{ttft: 1s, e2e: 2s}}, servers: [{{name: chat, url: '{server.url}', engine: vllm, gpus: none}}]}}"
        )
        daemon = Daemon(load(text), BooksFile(tmp_path), accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.tick()
        page["/metrics"] = served(5, 8)
        daemon.tick()
        assert requests(daemon)["ttft", "yes"] == 2.0
        daemon.stop()
        page["/metrics"] = served(6, 10)
        daemon = Daemon(load(text), BooksFile(tmp_path), accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.tick()
        daemon.stop()
    assert requests(daemon) == {
        ("ttft", "yes"): 3.0,
        ("ttft", "no"): 2.0,
        ("ttft", "unknown"): 0.0,
        ("e2e", "yes"): 5.0,
        ("e2e", "no"): 0.0,
        ("e2e", "unknown"): 0.0,
        ("all", "yes"): 3.0,
        ("all", "no"): 2.0,
        ("all", "unknown"): 0.0,
    }


@pytest.mark.parametrize("slo", ["slo: {ttft: 1s}", "slo: {}"])
def test_a_server_without_histograms_has_no_requests_within_targets_and_that_is_a_note(slo: str) -> None:
    with PageServer(pages({"/metrics": answer("llamacpp:tokens_predicted_total 5000\n")})) as server:
        text = f"servers: [{{name: chat, url: '{server.url}', engine: llamacpp, model: m, gpus: none, {slo}}}]"
        text = f"{{host: {{meters: []}}, discovery: {{processes: false}}, slo: {{e2e: 2s}}, {text}}}"
        daemon = Daemon(load(text), accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.tick()
        daemon.stop()
    notes = [note for note in daemon.snapshot.notes if "slo" in note]
    assert bool(notes) == ("ttft" in slo)
    assert not any(family.metric.name == "tpw_server_slo_requests_total" for family in families(daemon.snapshot))


def test_a_reload_with_another_dialect_reads_the_pages_of_its_servers_by_the_new_one() -> None:
    page = "old_total 1000\nnew_total 50\n"

    def by(metric: str) -> Config:
        return load(
            "host: {meters: []}\ndiscovery: {processes: false}\n"
            f"dialects: [{{name: mine, output: {metric}}}]\n"
            f"servers: [{{name: chat, url: '{server.url}', engine: mine, model: m, gpus: none}}]"
        )

    served = {"/metrics": answer(page)}
    with PageServer(pages(served)) as server:
        daemon = Daemon(by("old_total"), accelerators=[SimulatedMeter(gpus=1)])
        daemon.poll_all()
        daemon.tick()
        reload(daemon, by("new_total"))
        daemon.tick()
        before = daemon.snapshot.books.servers["chat"].tokens.get(("m", TokenKind.OUTPUT), 0.0)
        served["/metrics"] = answer("old_total 1000\nnew_total 57\n")
        daemon.tick()
        daemon.stop()

    assert daemon.snapshot.books.servers["chat"].tokens["m", TokenKind.OUTPUT] - before == 7.0


def test_a_reload_with_another_price_leaves_booked_costs_alone(daemon: Daemon) -> None:
    daemon.poll_all()
    daemon.tick()
    before = sum(posting.cost["energy"] for posting in daemon.snapshot.books.postings.values())

    reload(daemon, config("[0]", price=0.5))
    daemon.tick()

    after = daemon.snapshot
    assert after.prices.now is not None
    assert after.prices.now.price_per_kwh == 0.5
    joules = sum(posting.facility_joules for posting in after.books.postings.values())
    cost = sum(posting.cost["energy"] for posting in after.books.postings.values())
    assert before < cost < joules / 3.6e6 * 0.5
    daemon.stop()


def test_reads_of_the_old_feed_while_a_reload_is_prepared_are_counted(daemon: Daemon) -> None:
    def reads() -> int:
        daemon.tick()
        return next(status.reads for status in daemon.snapshot.sources if status.name == "tariff")

    daemon.poll_all()
    node, new = daemon._node, config("[0]", price=0.5)
    feeds = prepare(node, new, 1e9)
    for _ in range(3):
        daemon.read_feeds()
    before = reads()

    apply(node, new, feeds)

    assert (before, reads()) == (4, 5)
    daemon.stop()


def test_a_slow_price_feed_delays_no_tick_during_a_reload(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed is read on the thread that requests the reload."""
    read_by: list[threading.Thread] = []

    class Slow:
        name = "slow"
        error = None
        contract = Contract()

        def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
            read_by.append(threading.current_thread())
            return (PriceInterval(start_seconds, end_seconds, 0.7),)

    daemon.poll_all()
    prices: Callable[[Tariff, FeedContext], Slow] = lambda tariff, context: Slow()  # noqa: E731
    monkeypatch.setattr(Tariff, "prices", prices)
    reload(daemon, config("[0]"))

    assert len(read_by) == 1
    assert read_by[0] is not threading.current_thread()
    daemon.tick()
    assert isinstance(daemon._node.pricing.policy.curve, PriceCurve)
    assert daemon.snapshot.prices.now is not None
    assert daemon.snapshot.prices.now.price_per_kwh == 0.7
    daemon.stop()


RAPL = """
accelerators: []
discovery: {{processes: false}}
host: {{sysfs: {sysfs}{meters}}}
"""


def rapl(sysfs: Path, meters: str = "") -> Config:
    return load(RAPL.format(sysfs=sysfs, meters=meters))


def test_what_a_host_meter_cannot_read_is_a_note(tmp_path: Path) -> None:
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram"), ("intel-rapl:1", "package-1")):
        directory = tmp_path / "class" / "powercap" / zone
        directory.mkdir(parents=True)
        (directory / "name").write_text(name)
        (directory / "max_energy_range_uj").write_text("262143328850")
        if zone != "intel-rapl:1":
            (directory / "energy_uj").write_text("1000000")
    daemon = Daemon(rapl(tmp_path))
    daemon.poll_all()

    assert [note[:45] for note in daemon.snapshot.notes if "rapl" in note] == [
        "rapl reports no cpu energy: 1 of its 2 zones "
    ]
    daemon.stop()


def test_a_default_meter_that_this_machine_lacks_is_a_note_and_no_source(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path))
    daemon.poll_all()

    assert daemon.snapshot.sources == ()
    assert daemon.snapshot.books.sources == {}
    note = next(note for note in daemon.snapshot.notes if "rapl" in note)
    assert note.startswith(f"rapl is not read: no RAPL package zone under {tmp_path}/class/powercap. Virtual machines ")
    daemon.stop()


def test_a_configured_meter_that_this_machine_lacks_is_a_source_that_is_down(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path, ", meters: [rapl]"))
    daemon.poll_all()

    assert [(source.name, source.up, source.failures) for source in daemon.snapshot.sources] == [
        ("rapl", False, (("absent", 1),))
    ]
    assert not [note for note in daemon.snapshot.notes if "rapl" in note]
    daemon.stop()


def test_a_meter_named_in_a_reload_becomes_a_source(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path))
    daemon.poll_all()
    reload(daemon, rapl(tmp_path, ", meters: [rapl]"))
    daemon.tick()

    assert [source.name for source in daemon.snapshot.sources] == ["rapl"]
    daemon.stop()


def test_a_default_meter_that_worked_is_a_source_that_can_go_down(tmp_path: Path) -> None:
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "1000000")):
        (zone / name).write_text(f"{text}\n")
    daemon = Daemon(rapl(tmp_path))
    daemon.poll_all()
    first = [(source.name, source.up) for source in daemon.snapshot.sources]
    (zone / "energy_uj").write_text("")
    (zone / "energy_uj").unlink()
    daemon.tick()

    assert first == [("rapl", True)]
    assert [(source.name, source.up) for source in daemon.snapshot.sources] == [("rapl", False)]


def requested(daemon: Daemon, action: Callable[[], bool]) -> bool:
    """The result of a request over HTTP while the ticks go on."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(action()))
    thread.start()
    while thread.is_alive():
        daemon.tick()
        thread.join(0.01)
    return answers[0]


def up(daemon: Daemon) -> list[bool]:
    return [account.up for account in daemon.snapshot.books.gpus.values()]


def test_a_driver_is_released_and_opened_again_on_request(daemon: Daemon) -> None:
    daemon.poll_all()

    released = requested(daemon, lambda: daemon.release(10.0))
    daemon.tick()
    meanwhile = daemon.snapshot
    resumed = requested(daemon, lambda: daemon.resume(10.0))
    daemon.tick()

    assert (released, resumed) == (True, True)
    assert [account.up for account in meanwhile.books.gpus.values()] == [False, False]
    assert any("/-/resume" in note for note in meanwhile.notes)
    assert {source.name: source.up for source in meanwhile.sources}["simulated"] is False
    assert up(daemon) == [True, True]
    assert not any("/-/resume" in note for note in daemon.snapshot.notes)
    daemon.stop()


def test_without_a_tick_nothing_is_released_and_the_request_fails(daemon: Daemon) -> None:
    daemon.poll_all()

    assert not daemon.release(0.01)
    assert not daemon.resume(0.01)
    daemon.stop()


def test_a_reload_does_not_open_a_released_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Meter(SimulatedMeter):
        def open(self) -> None:
            opened.append("open")
            super().open()

    monkeypatch.setattr("tpw.daemon.sources.accelerator_meters", lambda config, clock: [Meter(gpus=2)])
    daemon = Daemon(config("[0]"))
    daemon.poll_all()
    requested(daemon, lambda: daemon.release(10.0))
    before = len(opened)
    new = load("host: {meters: []}\ndiscovery: {processes: false}\naccelerators: [{simulated: {gpus: 3}}]\n")

    reload(daemon, new)
    daemon.tick()
    kept = len(opened)
    requested(daemon, lambda: daemon.resume(10.0))
    daemon.tick()

    assert (before, kept, len(opened)) == (1, 1, 2)
    daemon.stop()


# ------------------------------------------------------------------------------------- reloads on a clock of the test


WALL = 1781524800.0  # 2026-06-15T12:00Z

CONTRACT = dedent(
    """
    tariff:
      currency: EUR
      timezone: Europe/Berlin
      energy: {price_per_kwh: 0.20, blocks: [{above_kwh: 0.001, price_per_kwh: 0.40}]}
      demand: {price_per_kw_month: 12}
      fixed: {per_month: 100}
"""
)

OTHERS = {
    "another price": "tariff: {currency: EUR, energy: {price_per_kwh: 0.9}}",
    "value added tax": "tariff: {currency: EUR, vat: 0.19, energy: {price_per_kwh: 0.2}}",
    "a lower one": "tariff: {currency: EUR, energy: {price_per_kwh: -0.5}}",
    "time of use": """
        tariff:
          currency: EUR
          timezone: Europe/Berlin
          energy: {kind: time_of_use, price_per_kwh: 0.1, zones: [{hours: "15:00-17:00", price_per_kwh: 0.7}]}
        """,
    "a feed without prices": "tariff: {currency: EUR, energy: {kind: intervals, file: /nowhere, time: t, price: p}}",
    "no tariff": "tariff: {currency: EUR}",
    "nothing": "",
    "another PUE": CONTRACT + "facility: {pue: 1.5}",
    "a PUE that is not reported": CONTRACT + "facility: {pue: {url: 'http://127.0.0.1:1', query: q, fallback: 2}}",
    "another month": CONTRACT.replace("fixed:", "billing_day: 10\n  fixed:"),
    "other charges": CONTRACT.replace("12}", "24, window: 30m}").replace("100}", "300}"),
}


class Frozen:
    """A daemon with clocks that run only when a test advances them: between two ticks no energy is used."""

    def __init__(self, directory: Path, text: str) -> None:
        self.seconds = 5000.0
        self.wall_step_seconds = 0.0
        process = frozenset({1})
        meter = SimulatedMeter(lambda: self.seconds, gpus=2, holders=lambda: {0: process, 1: process})
        self.daemon = Daemon(
            self.config(text),
            BooksFile(directory, self.wall),
            clock=lambda: self.seconds,
            wall=self.wall,
            accelerators=[meter],
        )

    @staticmethod
    def config(text: str) -> Config:
        head = """
            host: {meters: []}
            discovery: {processes: false}
            servers: [{name: big, gpus: [0], model: m}]
        """
        return load(dedent(head) + dedent(text))

    def wall(self) -> float:
        return WALL + self.seconds + self.wall_step_seconds

    def pass_time(self, seconds: float) -> None:
        self.seconds += seconds
        self.daemon.tick()

    def sum(self, what: str) -> float:
        postings = self.daemon.snapshot.books.postings.values()
        if what in {"joules", "facility_joules", "credit", "unpriced_joules"}:
            return fsum(getattr(posting, what) for posting in postings)
        return fsum(posting.cost.get(what, 0.0) for posting in postings)


def test_process_lists_are_read_again_at_the_pace_of_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes milliseconds per GPU: not every tick, and no later than a scan that depends on them."""
    node = Frozen(tmp_path, "")
    node.daemon.poll_all()
    requests: list[float] = []
    [poller] = node.daemon._node.meters.accelerators
    monkeypatch.setattr(poller, "request_holders", lambda: requests.append(node.seconds))
    for _ in range(61):
        node.pass_time(1.0)
    node.daemon.stop()

    assert len(requests) in (4, 5)
    assert {later - earlier for earlier, later in pairwise(requests)} == {15.0}


def test_prices_are_wanted_since_the_oldest_energy_without_one_up_to_62_days() -> None:
    day, now = 86400.0, WALL
    resumed = Books(at=Instant(0.0, now - 3 * day), resumed=True)
    assert wanted_since(Books(), now) == now
    assert wanted_since(resumed, now) == now - 3 * day
    assert wanted_since(replace(resumed, at=Instant(0.0, now - 61 * day)), now) == now - 61 * day
    assert wanted_since(replace(resumed, at=Instant(0.0, now - 400 * day)), now) == now - 62 * day


@pytest.mark.parametrize("step_seconds", [400 * 86400.0, -400 * 86400.0, 3600.0, -WALL])
def test_a_step_of_the_wall_clock_costs_no_tick_and_no_counter(tmp_path: Path, step_seconds: float) -> None:
    node = Frozen(tmp_path, CONTRACT)
    with capture_logs() as logs:
        node.daemon.poll_all()
        for _ in range(5):
            node.pass_time(1.0)
        before, joules = node.daemon.snapshot.books, node.sum("joules")
        node.wall_step_seconds = step_seconds
        for _ in range(5):
            node.pass_time(1.0)
        node.wall_step_seconds = 0.0
        for _ in range(5):
            node.pass_time(1.0)
    after = node.daemon.snapshot.books
    node.daemon.stop()

    assert [entry for entry in logs if entry["event"] == "tick_failed"] == []
    assert (after.polls - before.polls, after.polls_skipped) == (10, 0)
    assert node.sum("joules") - joules == pytest.approx(2 * joules, rel=0.2), "by the monotonic time"
    for key, posting in before.postings.items():
        assert after.postings[key].joules >= posting.joules
        assert after.postings[key].cost.get("energy", 0.0) >= posting.cost.get("energy", 0.0)


@pytest.mark.parametrize("name", OTHERS)
def test_a_reload_changes_nothing_that_is_booked(tmp_path: Path, name: str) -> None:
    node = Frozen(tmp_path, CONTRACT)
    daemon = node.daemon
    daemon.poll_all()
    for _ in range(40):
        node.pass_time(30.0)
    before = daemon.snapshot.books
    assert node.sum("energy") > 0.0
    assert node.sum("demand") > 0.0
    assert node.sum("fixed") > 0.0
    assert len(before.rows) >= 1

    reload(daemon, node.config(OTHERS[name]))
    daemon.tick()
    after = daemon.snapshot.books
    assert after.postings == before.postings
    assert after.rows == before.rows
    assert after.month_kwh == before.month_kwh
    if name == "other charges":  # windows of another length start again; what has accrued is kept
        (old,), (new,) = before.demand.values(), after.demand.values()
        assert (new.booked_kw_months, new.closed_kw_months) == (old.booked_kw_months, old.closed_kw_months)
        assert new.peak_watts >= old.peak_watts
    else:
        assert after.demand == before.demand or not daemon._node.pricing.policy.demand

    energy, facility = node.sum("energy"), node.sum("facility_joules")
    for _ in range(20):
        node.pass_time(30.0)
    used = node.sum("facility_joules") - facility
    assert used > 0.0
    paid = node.sum("energy") - energy
    if name in {"another price", "value added tax", "time of use"}:
        price = {"another price": 0.9, "value added tax": 0.2 * 1.19, "time of use": 0.7}[name]
        assert paid == pytest.approx(used / 3.6e6 * price, rel=1e-9)
    daemon.stop()


@pytest.mark.parametrize(("name", "pue"), [("another PUE", 1.5), ("a PUE that is not reported", 2.0)])
def test_another_pue_applies_from_the_reload_on(tmp_path: Path, name: str, pue: float) -> None:
    node = Frozen(tmp_path, CONTRACT)
    node.daemon.poll_all()
    node.pass_time(30.0)
    assert node.sum("facility_joules") == pytest.approx(node.sum("joules"))
    reload(node.daemon, node.config(OTHERS[name]))
    joules, facility = node.sum("joules"), node.sum("facility_joules")
    node.pass_time(30.0)
    assert node.sum("facility_joules") - facility == pytest.approx((node.sum("joules") - joules) * pue)
    node.daemon.stop()


def test_another_currency_is_refused_while_the_books_hold_money_of_the_first(tmp_path: Path) -> None:
    node = Frozen(tmp_path, CONTRACT)
    daemon = node.daemon
    daemon.poll_all()
    node.pass_time(30.0)
    before = daemon.snapshot.books
    dollars = node.config("tariff: {currency: USD, energy: {price_per_kwh: 0.1}}")

    with pytest.raises(CurrencyError) as raised:
        daemon.reload(dollars)
    assert str(raised.value) == (
        "tariff.currency is USD, but the books in the state directory hold EUR: money in them would be relabelled."
        " Keep the currency, or give a new --state.dir."
    )
    daemon.tick()
    assert daemon.snapshot.config_reload_successful is False
    assert daemon.snapshot.books.postings == before.postings
    assert daemon.snapshot.books.currency == "EUR"
    energy, facility = node.sum("energy"), node.sum("facility_joules")
    node.pass_time(30.0)
    assert node.sum("energy") - energy == pytest.approx((node.sum("facility_joules") - facility) / 3.6e6 * 0.4), (
        "the contract that was in force still is"
    )
    daemon.stop()

    file = BooksFile(tmp_path)
    with pytest.raises(CurrencyError, match="hold EUR"):
        Daemon(dollars, file, accelerators=[SimulatedMeter(gpus=1)])
    file.close()


def test_the_currency_may_change_while_the_books_hold_no_money(tmp_path: Path) -> None:
    node = Frozen(tmp_path, "tariff: {currency: EUR}")
    node.daemon.poll_all()
    node.pass_time(30.0)
    reload(node.daemon, node.config("tariff: {currency: USD, energy: {price_per_kwh: 0.1}}"))
    node.pass_time(30.0)
    assert node.daemon.snapshot.books.currency == "USD"
    assert node.sum("energy") > 0.0
    node.daemon.stop()


def test_what_of_a_contract_is_not_charged_is_logged_once_and_is_a_note(tmp_path: Path) -> None:
    rate = json.loads((CAPTURES / "tariff" / "urdb-smud-ci-tod4-2025.json").read_text())["items"][0]
    file = tmp_path / "rate.json"
    file.write_text(json.dumps({**rate, "mincharge": 250, "minchargeunits": "$/month"}))
    tariff = f"tariff: {{currency: USD, timezone: America/Los_Angeles, energy: {{kind: urdb, file: {file}}}}}"
    daemon = Daemon(load(f"host: {{meters: []}}\ndiscovery: {{processes: false}}\n{tariff}"), accelerators=[])
    with capture_logs() as logs:
        daemon.poll_all()
        daemon.read_feeds()
        daemon.tick()
        reload(daemon, daemon._node.config)
    notes = daemon.snapshot.notes
    daemon.stop()

    details = [entry["detail"] for entry in logs if entry["event"] == "contract_incomplete"]
    assert len(details) == 1 and "a minimum bill (mincharge: 250 $/month)" in details[0]
    assert [note for note in notes if "minimum bill" in note] == [f"tariff: {details[0]}."]


def test_a_step_of_the_wall_clock_is_logged_once_and_booked_by_the_monotonic_clock() -> None:
    seconds, ahead = [1000.0], [1.79e9]
    meter = SimulatedMeter(lambda: seconds[0], gpus=1)
    daemon = Daemon(config("[0]"), clock=lambda: seconds[0], wall=lambda: seconds[0] + ahead[0], accelerators=[meter])
    daemon.poll_all()
    before = fsum(posting.seconds for posting in daemon.snapshot.books.postings.values())
    with capture_logs() as logs:
        for step in (0.0, 400 * 86400.0, 0.0, 0.0, -1.7e9, 0.0, 0.4):
            seconds[0] += 1.0
            ahead[0] += step
            daemon.tick(0.5)
    after = fsum(posting.seconds for posting in daemon.snapshot.books.postings.values())
    daemon.stop()

    assert after - before == pytest.approx(7.0)
    steps = [entry["seconds"] for entry in logs if entry["event"] == "wall_clock_stepped"]
    assert steps == [400 * 86400.0, -1.7e9]


def test_a_tick_that_hangs_is_reported_as_stuck_until_it_ends() -> None:
    seconds, hangs, goes_on = [1000.0], threading.Event(), threading.Event()
    daemon = Daemon(config("[0]"), clock=lambda: seconds[0], accelerators=[SimulatedMeter(lambda: seconds[0], gpus=1)])
    daemon.poll_all()

    def hang(_snapshot: object) -> None:
        hangs.set()
        goes_on.wait(60)

    daemon.on_snapshot = hang
    thread = threading.Thread(target=daemon.tick, args=[0.5])
    thread.start()
    assert hangs.wait(60)
    before = daemon.stuck()
    seconds[0] += 10.0
    during = daemon.stuck()
    goes_on.set()
    thread.join()
    after = daemon.stuck()
    daemon.stop()

    assert (before, after) == ("", "")
    assert "no tick has begun or ended for 10 s" in during


def test_the_first_tick_waits_for_no_row_of_the_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month of a large node takes seconds to read. Until then its sums are unknown."""
    readable, history = threading.Event(), BooksFile.history

    def slow(file: BooksFile, start: float, end: float) -> History:
        found = history(file, start, end)
        assert found is not None

        def rows() -> Iterator[tuple[float, PostingKey, Amounts]]:
            assert readable.wait(60.0)
            yield from found.rows

        return replace(found, rows=rows())

    monkeypatch.setattr(BooksFile, "history", slow)
    snapshots: SimpleQueue[Snapshot] = SimpleQueue()
    daemon = Daemon(
        replace(config("[0]"), polling=Polling(interval=0.05)), BooksFile(tmp_path), accelerators=[SimulatedMeter()]
    )
    daemon.on_snapshot = snapshots.put
    daemon.start()
    try:
        assert snapshots.get(timeout=60.0).periods is None
        readable.set()
        while snapshots.get(timeout=60.0).periods is None:
            pass
    finally:
        readable.set()
        daemon.stop()


def test_the_deployment_of_a_server_is_that_of_its_configuration_with_and_without_a_page() -> None:
    with PageServer(pages({"/metrics": answer("llamacpp:tokens_predicted_total 5000\n")})) as server:
        ranks = "{name: ranks, gpus: [0], model: m, deployment: pair}"
        text = f"[{{name: chat, url: '{server.url}', model: m, gpus: none, deployment: pair}}, {ranks}]"
        daemon = Daemon(
            load(f"{{host: {{meters: []}}, discovery: {{processes: false}}, servers: {text}}}"),
            accelerators=[SimulatedMeter(gpus=1)],
        )
        daemon.poll_all()
        daemon.tick()
        daemon.stop()
    snapshot = daemon.snapshot
    assert {name: owner.deployment for name, owner in snapshot.owners.items()} == {"chat": "pair", "ranks": "pair"}
    assert snapshot.books.servers["ranks"].belongs.deployment == "pair"
