"""The daemon put together, without its HTTP server: reloads, and the meters a machine does not have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tpw.app import Daemon
from tpw.config.feeds import Surroundings
from tpw.config.load import load
from tpw.config.schema import Config
from tpw.model import PriceInterval
from tpw.power.simulated import SimulatedMeter
from tpw.tariff.contract import Contract
from tpw.tariff.curve import PriceCurve


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
    somebody = frozenset({1})
    meter = SimulatedMeter(2, holders=lambda: {0: somebody, 1: somebody})
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
        daemon.look_again()
        thread.join(0.01)
    assert failures == []


def owned(daemon: Daemon) -> set[int]:
    books = daemon.snapshot.books
    return {books.gpus[uuid].gpu.index for uuid in books.servers["big"].gpus}


def test_a_reload_that_gives_a_server_other_gpus_is_in_force_at_once(daemon: Daemon) -> None:
    daemon.look()
    assert owned(daemon) == {0}

    reload(daemon, config("[1]"))
    daemon.look_again()

    assert owned(daemon) == {1}
    daemon.stop()


def test_a_reload_with_another_price_prices_what_comes_and_nothing_that_was(daemon: Daemon) -> None:
    daemon.look()
    daemon.look_again()
    before = sum(posting.cost["energy"] for posting in daemon.snapshot.books.postings.values())

    reload(daemon, config("[0]", price=0.5))
    daemon.look_again()

    after = daemon.snapshot
    assert after.prices.now is not None
    assert after.prices.now.price_per_kwh == 0.5
    joules = sum(posting.facility_joules for posting in after.books.postings.values())
    cost = sum(posting.cost["energy"] for posting in after.books.postings.values())
    assert before < cost < joules / 3.6e6 * 0.5
    daemon.stop()


def test_a_slow_price_feed_at_reload_holds_up_no_tick(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed is asked in the thread of whoever wants the reload."""
    asked_by: list[threading.Thread] = []

    class Slow:
        name = "slow"
        trouble = None
        contract = Contract()

        def intervals(self, start_seconds: float, end_seconds: float) -> tuple[PriceInterval, ...]:
            asked_by.append(threading.current_thread())
            return (PriceInterval(start_seconds, end_seconds, 0.7),)

    daemon.look()
    make: Callable[[Config, Surroundings], Slow] = lambda config, around: Slow()  # noqa: E731
    monkeypatch.setattr("tpw.outlook.price_source", make)
    reload(daemon, config("[0]"))

    assert len(asked_by) == 1
    assert asked_by[0] is not threading.current_thread()
    daemon.look_again()
    assert isinstance(daemon._policy.curve, PriceCurve)
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


def test_a_default_meter_that_this_machine_does_not_have_is_a_note_and_no_source(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path))
    daemon.look()

    assert daemon.snapshot.sources == ()
    assert daemon.snapshot.books.sources == {}
    note = next(note for note in daemon.snapshot.notes if "rapl" in note)
    assert note.startswith(f"rapl is not read: no RAPL package zone under {tmp_path}/class/powercap. Virtual machines ")
    daemon.stop()


def test_a_meter_that_is_named_stays_a_source_that_is_down(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path, ", meters: [rapl]"))
    daemon.look()

    assert [(source.name, source.up, source.failures) for source in daemon.snapshot.sources] == [
        ("rapl", False, (("absent", 1),))
    ]
    assert not [note for note in daemon.snapshot.notes if "rapl" in note]
    daemon.stop()


def test_naming_a_meter_in_a_reload_makes_it_a_source(tmp_path: Path) -> None:
    daemon = Daemon(rapl(tmp_path))
    daemon.look()
    reload(daemon, rapl(tmp_path, ", meters: [rapl]"))
    daemon.look_again()

    assert [source.name for source in daemon.snapshot.sources] == ["rapl"]
    daemon.stop()


def test_a_default_meter_that_is_here_is_a_source_and_its_loss_is_seen(tmp_path: Path) -> None:
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "1000000")):
        (zone / name).write_text(f"{text}\n")
    daemon = Daemon(rapl(tmp_path))
    daemon.look()
    first = [(source.name, source.up) for source in daemon.snapshot.sources]
    (zone / "energy_uj").write_text("")
    (zone / "energy_uj").unlink()
    daemon.look_again()

    assert first == [("rapl", True)]
    assert [(source.name, source.up) for source in daemon.snapshot.sources] == [("rapl", False)]


def asked(daemon: Daemon, deed: Callable[[], bool]) -> bool:
    """What an HTTP request is answered while the ticks go on."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(deed()))
    thread.start()
    while thread.is_alive():
        daemon.look_again()
        thread.join(0.01)
    return answers[0]


def up(daemon: Daemon) -> list[bool]:
    return [account.up for account in daemon.snapshot.books.gpus.values()]


def test_a_driver_is_let_go_of_and_taken_up_again_on_request(daemon: Daemon) -> None:
    daemon.look()

    released = asked(daemon, lambda: daemon.release(10.0))
    daemon.look_again()
    meanwhile = daemon.snapshot
    resumed = asked(daemon, lambda: daemon.resume(10.0))
    daemon.look_again()

    assert (released, resumed) == (True, True)
    assert [account.up for account in meanwhile.books.gpus.values()] == [False, False]
    assert any("/-/resume" in note for note in meanwhile.notes)
    assert {source.name: source.up for source in meanwhile.sources}["simulated"] is False
    assert up(daemon) == [True, True]
    assert not any("/-/resume" in note for note in daemon.snapshot.notes)
    daemon.stop()


def test_without_a_tick_nothing_is_let_go_of_and_that_is_said(daemon: Daemon) -> None:
    daemon.look()

    assert not daemon.release(0.01)
    assert not daemon.resume(0.01)
    daemon.stop()


def test_a_reload_leaves_a_driver_alone_that_was_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Meter(SimulatedMeter):
        def open(self) -> None:
            opened.append("open")
            super().open()

    monkeypatch.setattr("tpw.assembly.accelerator_meters", lambda config, clock: [Meter(2)])
    daemon = Daemon(config("[0]"))
    daemon.look()
    asked(daemon, lambda: daemon.release(10.0))
    before = len(opened)
    new = load("host: {meters: []}\ndiscovery: {processes: false}\naccelerators: [{simulated: {gpus: 3}}]\n")

    reload(daemon, new)
    daemon.look_again()
    kept = len(opened)
    asked(daemon, lambda: daemon.resume(10.0))
    daemon.look_again()

    assert (before, kept, len(opened)) == (1, 1, 2)
    daemon.stop()
