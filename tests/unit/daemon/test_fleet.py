"""One configuration on two nodes: what each of them reads and charges."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.pageserver import PageServer, answer
from support.procfs import FakeProcFs, Tcp
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.discovery.processes import HostProcesses
from tpw.model import State
from tpw.power.simulated import SimulatedMeter

HOST = "chat.inference.svc"
POD = "10.0.0.5"


class Pages:
    """A page of vLLM with a counter."""

    def __init__(self) -> None:
        self.tokens = 0

    def __call__(self) -> bytes:
        return answer(f'vllm:generation_tokens_total{{model_name="m",engine="0"}} {self.tokens}\n')


@pytest.fixture
def page() -> Pages:
    return Pages()


@pytest.fixture
def server(page: Pages, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    """The server, at the address of a pod as far as discovery knows."""
    with PageServer(lambda asked: page() if asked.path == "/metrics" else answer(status=404)) as one:
        real = socket.getaddrinfo

        def resolved(host: str, *arguments: Any, **options: Any) -> Any:
            return real("127.0.0.1" if host == HOST else host, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        monkeypatch.setattr("tpw.discovery.sockets._resolved", lambda host: [POD] if host == HOST else ["127.0.0.1"])
        yield one


class Fleet:
    """Nodes with one configuration."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
        self._directory, self._monkeypatch = directory, monkeypatch
        self._config = load(f"host: {{meters: []}}\ndiscovery: {{processes: false}}\nservers: {servers}")

    def node(self, name: str, holders: Mapping[int, set[int]], build: Callable[[FakeProcFs], None]) -> Daemon:
        proc = FakeProcFs(self._directory / name)
        proc.process(1, "/sbin/init", comm="systemd", parent=0)
        proc.process(2, "", comm="kthreadd", parent=0)
        build(proc)
        self._monkeypatch.setattr("tpw.daemon.ownership.HostProcesses", partial(HostProcesses, str(proc.root)))
        held = {gpu: frozenset(pids) for gpu, pids in holders.items()}
        daemon = Daemon(self._config, accelerators=[SimulatedMeter(gpus=2, holders=lambda: held)])
        daemon.poll_all()
        daemon.tick()
        return daemon


def tokens(daemon: Daemon) -> float:
    return sum(sum(account.tokens.values()) for account in daemon.snapshot.books.servers.values())


def owned(daemon: Daemon) -> dict[str, set[int]]:
    books = daemon.snapshot.books
    return {name: {books.gpus[uuid].gpu.index for uuid in one.gpus} for name, one in books.servers.items() if one.gpus}


def states(daemon: Daemon, gpu: int) -> set[State]:
    """In which joules of a GPU were booked."""
    books = daemon.snapshot.books
    [uuid] = [uuid for uuid, account in books.gpus.items() if account.gpu.index == gpu]
    return {key.state for key, amounts in books.postings.items() if key.gpu == uuid and amounts.joules > 0.0}


def with_server(server: PageServer) -> Callable[[FakeProcFs], None]:
    """A node with the server in a pod, which has GPU 0."""

    def build(proc: FakeProcFs) -> None:
        proc.network("pod", (POD,), [Tcp(server.port, 901)])
        proc.process(100, f"vllm serve m --port {server.port}", session=100, sockets=(901,), network="pod")
        proc.process(101, "VLLM::EngineCore", parent=100, session=100, network="pod")

    return build


def with_training(proc: FakeProcFs) -> None:
    """A node with a training job, which has GPU 0 too."""
    proc.process(900, "python3 train.py", session=900)


def test_a_server_that_two_nodes_list_is_counted_once_and_charges_no_gpu_of_the_other(
    server: PageServer, page: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, f"[{{name: chat, url: 'http://{HOST}:{server.port}', gpus: [0]}}]")
    first = fleet.node("a", {0: {101}}, with_server(server))
    second = fleet.node("b", {0: {900}}, with_training)
    page.tokens = 31_991
    for daemon in (first, second):
        daemon.tick()
        daemon.tick()
    assert (tokens(first), tokens(second)) == (31_991, 0)
    assert (owned(first), owned(second)) == ({"chat": {0}}, {})
    assert not states(second, 0) & {State.ACTIVE, State.PARKED}
    assert any("is not on this node" in note for note in second.snapshot.notes)
    assert not any("is not on this node" in note for note in first.snapshot.notes)


def test_a_server_on_another_node_is_read_where_it_is_configured_as_remote(
    server: PageServer, page: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://{HOST}:{server.port}"
    fleet = Fleet(tmp_path, monkeypatch, f"[{{name: chat, url: '{url}', gpus: none, remote: true}}]")
    daemon = fleet.node("b", {}, with_training)
    page.tokens = 7
    daemon.tick()
    assert tokens(daemon) == 7


def test_gpus_at_a_loopback_address_are_not_charged_where_nothing_listens_and_strangers_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    fleet = Fleet(tmp_path, monkeypatch, f"[{{name: chat, url: 'http://127.0.0.1:{port}', gpus: [0]}}]")
    daemon = fleet.node("b", {0: {900}}, with_training)
    daemon.tick()
    assert owned(daemon) == {}
    assert any("not charged to it" in note for note in daemon.snapshot.notes)


def test_listed_gpus_of_strangers_give_way_to_those_that_the_server_holds(
    server: PageServer, page: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, monkeypatch, f"[{{name: chat, url: 'http://{HOST}:{server.port}', gpus: [0]}}]")

    def build(proc: FakeProcFs) -> None:
        with_server(server)(proc)
        with_training(proc)

    daemon = fleet.node("a", {0: {900}, 1: {101}}, build)
    daemon.tick()
    assert owned(daemon) == {"chat": {1}}
    assert any("held by other processes" in note for note in daemon.snapshot.notes)


def test_a_host_name_of_several_nodes_is_read_by_none(
    server: PageServer, page: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A headless service: which of its pods answers changes from read to read."""
    monkeypatch.setattr("tpw.discovery.sockets._resolved", lambda host: [POD, "10.0.1.7"])
    fleet = Fleet(tmp_path, monkeypatch, f"[{{name: chat, url: 'http://{HOST}:{server.port}', gpus: [0]}}]")
    assert owned(fleet.node("a", {0: {101}}, with_server(server))) == {}
