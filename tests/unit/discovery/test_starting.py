"""A server that loads its model: it holds a GPU, and serves no page yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.procfs import BOOT_SECONDS, FakeProcFs, Tcp
from tpw.daemon.ownership import Holders, Owners
from tpw.discovery.ownership import Claim
from tpw.discovery.processes import HostProcesses
from tpw.discovery.scan import HostScan, scan_host
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import (
    STARTING_SECONDS,
    AcceleratorReading,
    Cadence,
    Gpu,
    GpuSample,
    Instant,
    Load,
    Reason,
    ServerReading,
    SourceError,
    State,
)
from tpw.tokens.engines import DIALECTS, LLAMACPP, VLLM

GPU = Gpu("GPU-0", 0)
HOLDERS = {"GPU-0": frozenset({51})}
STARTED = BOOT_SECONDS + 1000.0


@pytest.fixture
def fake(tmp_path: Path) -> FakeProcFs:
    proc = FakeProcFs(tmp_path / "proc")
    proc.process(1, "/sbin/init", comm="systemd", parent=0)
    proc.process(2, [], parent=0, comm="kthreadd")
    return proc


def engine(fake: FakeProcFs, command: str = "vllm serve m --port 8000", *, listens: bool = False) -> None:
    """A server with its engine as a child that holds the GPU, started at ``STARTED``."""
    ticks = 1000 * os.sysconf("SC_CLK_TCK")
    fake.process(50, command, session=50, sockets=(500,) if listens else (), started=ticks)
    fake.process(51, ["VLLM::EngineCore"], parent=50, session=50, started=ticks)
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 500)] if listens else [])


class Scans:
    """Scans of one host, with its servers' answers."""

    def __init__(self, fake: FakeProcFs, configured: dict[str, str] | None = None) -> None:
        self.answer: SourceError | None = None
        self.engine = VLLM
        self._configured = configured or {}
        self._host = HostProcesses(str(fake.root), dialects=DIALECTS, probe=self._probe)

    def _probe(self, *_: object) -> object:
        if self.answer is not None:
            raise self.answer
        return self.engine

    def scan(self, age: float = 60.0, *, find: bool = True, holders: Holders = HOLDERS) -> HostScan:
        """At a time after the start of the server."""
        return scan_host(self._host, self._configured, {}, holders, find=find, wall=lambda: STARTED + age)


def test_an_engine_that_holds_a_gpu_and_does_not_listen_is_starting(fake: FakeProcFs) -> None:
    engine(fake)
    scan = Scans(fake).scan()
    assert [(one.name, one.pids) for one in scan.starting] == [("vllm-8000", {50, 51})]
    assert scan.started == {"vllm-8000": STARTED}
    assert scan.pids == {"vllm-8000": {50, 51}}


def test_a_launcher_that_also_started_a_ready_server_does_not_hide_it(fake: FakeProcFs) -> None:
    """Both have the launcher as their ancestor, in one session: the one that loads was taken for a part of the other."""
    fake.process(40, ["python", "launch.py"], session=40)
    fake.process(60, "llama-server --port 8001", parent=40, session=40, sockets=(600,))
    fake.process(50, "vllm serve m --port 8000", parent=40, session=40)
    fake.process(51, ["VLLM::EngineCore"], parent=50, session=40)
    fake.network("host", ("10.0.0.1",), [Tcp(8001, 600)])
    scans = Scans(fake)
    scans.engine = LLAMACPP
    scan = scans.scan()
    assert [one.name for one in scan.found] == ["llamacpp-8001"]
    assert [(one.name, one.pids) for one in scan.starting] == [("vllm-8000", {50, 51})]


def vllm(fake: FakeProcFs, pid: int, port: int, *, listens: bool) -> None:
    """A vLLM that the launcher 40 started; its engine is its child."""
    sockets = (10 * pid,) if listens else ()
    fake.process(pid, f"vllm serve m --port {port}", parent=40, session=40, sockets=sockets)
    fake.process(pid + 1, ["VLLM::EngineCore"], parent=pid, session=40)


TWO_HOLDERS = {"GPU-0": frozenset({51}), "GPU-1": frozenset({61})}


@pytest.mark.parametrize("ready", [False, True])
def test_two_servers_of_one_launcher_do_not_hide_each_other(fake: FakeProcFs, ready: bool) -> None:
    """Either both load, or one is ready. Engines may be siblings of the listener, so trees go up to the launcher."""
    fake.process(40, ["python", "launch.py"], session=40)
    vllm(fake, 50, 8000, listens=ready)
    vllm(fake, 60, 8001, listens=False)
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 500)] if ready else [])
    scan = Scans(fake).scan(holders=TWO_HOLDERS)
    assert [(one.name, one.pids) for one in scan.starting] == [
        *([] if ready else [("vllm-8000", {50, 51})]),
        ("vllm-8001", {60, 61}),
    ]
    assert [one.name for one in scan.found] == (["vllm-8000"] if ready else [])
    assert scan.pids == {"vllm-8000": {50, 51}, "vllm-8001": {60, 61}}


def test_it_is_found_under_the_same_name_when_it_is_ready(fake: FakeProcFs) -> None:
    engine(fake)
    scans = Scans(fake)
    [before] = scans.scan().starting
    engine(fake, listens=True)
    scan = scans.scan()
    assert [one.name for one in scan.found] == [before.name]
    assert scan.starting == ()


def test_a_server_that_answers_that_it_loads_is_starting(fake: FakeProcFs) -> None:
    engine(fake, listens=True)
    scans = Scans(fake)
    scans.answer = SourceError(Reason.LOADING, "503")
    assert [one.name for one in scans.scan().starting] == ["vllm-8000"]


def test_an_engine_without_a_page_is_not_starting(fake: FakeProcFs) -> None:
    engine(fake, listens=True)
    scans = Scans(fake)
    scans.answer = SourceError(Reason.ABSENT, "404")
    assert scans.scan().starting == ()


def test_a_configured_server_starts_under_its_own_name(fake: FakeProcFs) -> None:
    engine(fake)
    scans = Scans(fake, {"chat": "http://127.0.0.1:8000"})
    assert [one.name for one in scans.scan(find=False).starting] == ["chat"]
    assert scans.scan(find=False).pids["chat"] == {50, 51}


def test_without_discovery_only_configured_servers_start(fake: FakeProcFs) -> None:
    engine(fake)
    scan = Scans(fake, {"other": "http://127.0.0.1:9000"}).scan(find=False)
    assert scan.starting == ()


def test_a_process_without_the_name_of_an_engine_is_not_starting(fake: FakeProcFs) -> None:
    engine(fake, "python3 train.py")
    fake.process(51, "python3 worker.py", parent=50, session=50)
    assert Scans(fake).scan().starting == ()


def test_an_old_process_is_not_starting(fake: FakeProcFs) -> None:
    engine(fake)
    assert Scans(fake).scan(STARTING_SECONDS - 1.0).starting
    assert Scans(fake).scan(STARTING_SECONDS + 1.0).starting == ()


# ------------------------------------------------------------------------------------------------ into the books


def test_the_energy_of_a_start_is_its_server_s_from_the_scan_to_the_first_page(fake: FakeProcFs) -> None:
    """300 W: ten seconds before the scan sees the process, thirty that it loads, twenty that it serves and is parked."""
    scans, books, owners = Scans(fake), Books(), Owners(lambda: 0.0)
    owners.holders = HOLDERS
    for second in range(61):
        if second == 10:
            engine(fake)
            owners.receive(scans.scan(10.0))
        ready = second >= 41
        if second == 41:
            engine(fake, listens=True)
            owners.receive(scans.scan(41.0))
        at, wall = 100.0 + second, STARTED + second
        loads = (Load("m", 0.0, 0.0),)
        outcomes = (ServerReading("vllm-8000", at, "vllm", Cadence.STEP, "1", None, (), loads),) if ready else ()
        claims = {"vllm-8000": Claim("vllm-8000")} if ready else {}
        found = owners.owners(claims, outcomes, (GPU,), books)
        sample = GpuSample("GPU-0", at, 300.0 * second, 300.0, power_mean_seconds=1.0, utilization_ratio=0.5)
        reading = AcceleratorReading((GPU,), (sample,))
        books = advance(books, Tick(Instant(at, wall), reading, (), outcomes, found, owners.occupants), Policy())
    joules = {(key.server, key.state): amounts.joules for key, amounts in books.postings.items()}
    assert joules[("", State.OTHER)] == pytest.approx(9 * 300.0)
    assert joules[("vllm-8000", State.STARTING)] == pytest.approx(31 * 300.0)
    assert joules[("vllm-8000", State.PARKED)] == pytest.approx(20 * 300.0)
