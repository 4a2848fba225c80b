"""From addresses to processes and GPUs, and servers that appear by themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from support.pageserver import PageServer, answer, pages
from support.procfs import BOOT_SECONDS, FakeProcFs, Tcp
from tpw.discovery.ownership import held_by
from tpw.discovery.processes import FoundServer, HostProcesses
from tpw.discovery.procfs import ProcFs
from tpw.discovery.scan import scan_host
from tpw.model import OsProcess, Reason, SourceError
from tpw.tokens.dialects import Climb, Dialect
from tpw.tokens.engines import DIALECTS, ENGINES, LITELLM, LLAMACPP, SGLANG, TGI, VLLM
from tpw.tokens.scrape import recognise_at

TICKS = os.sysconf("SC_CLK_TCK")


class Asker:
    """A probe that knows the answers and remembers the questions."""

    def __init__(self, **speaks: Dialect | SourceError) -> None:
        self.speaks: dict[str, Dialect | SourceError] = {url.replace("_", ":"): said for url, said in speaks.items()}
        self.asked: list[str] = []

    def __call__(self, url: str, dialects: Sequence[Dialect], expected: Sequence[Dialect]) -> Dialect:
        self.asked.append(url)
        said = self.speaks.get(url, SourceError(Reason.ABSENT, f"{url}: HTTP 404", "nothing"))
        if isinstance(said, SourceError):
            raise said
        return said


@pytest.fixture
def fake(tmp_path: Path) -> FakeProcFs:
    proc = FakeProcFs(tmp_path / "proc")
    proc.process(1, "/sbin/init", comm="systemd", parent=0)
    return proc


def look(
    fake: FakeProcFs,
    probe: Asker | None = None,
    *,
    now: list[float] | None = None,
    names: dict[str, list[str]] | None = None,
) -> HostProcesses:
    def resolve(host: str) -> Iterable[str]:
        if names is None or host not in names:
            raise OSError("not known")
        return names[host]

    times = now or [0.0]
    host = HostProcesses(
        str(fake.root), dialects=DIALECTS, probe=probe or Asker(), clock=lambda: times[0], resolve=resolve
    )
    host.refresh()
    return host


def url_of(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}"


# ------------------------------------------------------------------------------------------------- addresses to processes


def test_who_listens_at_an_address(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501), Tcp(9000, 502, "127.0.0.1")])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "other", sockets=(502, 777))
    host = look(fake)
    assert host.listener_pids(url_of(8000)) == {100}
    assert host.listener_pids(url_of(8000, "10.0.0.1")) == {100}
    assert host.listener_pids(url_of(8000, "localhost")) == {100}
    assert host.listener_pids(url_of(9000)) == {200}


def test_a_socket_bound_to_loopback_is_not_behind_the_host_address(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(9000, 502, "127.0.0.1")])
    fake.process(200, "other", sockets=(502,))
    assert look(fake).listener_pids(url_of(9000, "10.0.0.1")) == frozenset()


def test_a_socket_bound_to_ipv6_any_is_behind_ipv4_addresses(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501, "::")])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = look(fake)
    assert (host.listener_pids(url_of(8000)), host.listener_pids(url_of(8000, "[::1]"))) == ({100}, {100})


def test_connections_are_no_listeners(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501, listening=False)])
    fake.process(100, "client", sockets=(501,))
    assert look(fake).listener_pids(url_of(8000)) == frozenset()


def test_an_address_elsewhere_is_not_of_this_host(fake: FakeProcFs):
    assert look(fake).listener_pids(url_of(8000, "192.0.2.9")) is None


def test_a_host_name_is_resolved(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = look(fake, names={"node-a": ["10.0.0.1"], "node-b": ["10.0.0.2"]})
    assert host.listener_pids(url_of(8000, "node-a")) == {100}
    assert host.listener_pids(url_of(8000, "node-b")) is None
    assert host.listener_pids(url_of(8000, "no-such-host")) is None


def test_the_identity_is_the_oldest_listener(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(300, "vllm serve m", sockets=(501,), started=20 * TICKS)
    fake.process(299, "worker", sockets=(501,), parent=300, started=30 * TICKS)
    assert look(fake).process_at(url_of(8000)) == OsProcess(300, BOOT_SECONDS + 20.0)


# ------------------------------------------------------------------------------------------------------------------ trees


@pytest.mark.parametrize(
    ("of_the_first", "of_the_listener", "keeps"),
    [
        ({}, {}, False),
        ({}, {"PROMETHEUS_MULTIPROC_DIR": "/made/by/vllm"}, False),
        ({"PROMETHEUS_MULTIPROC_DIR": "/data/prom"}, {"PROMETHEUS_MULTIPROC_DIR": "/data/prom"}, True),
    ],
)
def test_t09_a_server_that_was_told_where_to_keep_its_counters_may_go_on_from_those_of_another(
    fake: FakeProcFs, of_the_first: dict[str, str], of_the_listener: dict[str, str], keeps: bool
):
    """What it tells its own children is a folder that it makes and empties itself."""
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, started=10, environment=of_the_first)
    fake.process(
        101, "VLLM::APIServer_0", parent=100, session=100, started=20, sockets=(501,), environment=of_the_listener
    )
    process = look(fake).process_at(url_of(8000))
    assert process == OsProcess(101, BOOT_SECONDS + 20 / TICKS, keeps_counters=keeps)


def test_a_tree_is_the_listener_and_all_it_started(fake: FakeProcFs):
    fake.process(100, "bash", session=100)
    fake.process(101, "llama-server -m x", parent=100, session=100)
    fake.process(102, "helper", parent=101, session=100)
    fake.process(103, "unrelated", parent=100, session=100)
    assert look(fake).tree({101}) == {101, 102}


def test_siblings_are_found_through_what_started_them_all(fake: FakeProcFs):
    """TGI: the router listens, the shards hold the GPUs, the launcher started both."""
    fake.process(10, "containerd-shim-runc-v2")
    fake.process(100, "text-generation-launcher", parent=10, session=100, cgroup="/pod1")
    fake.process(101, "text-generation-router --port 80", parent=100, session=100, cgroup="/pod1")
    fake.process(102, "python3 /usr/bin/text-generation-server serve", parent=100, session=100, cgroup="/pod1")
    assert look(fake).tree({101}, TGI.processes.climb) == {100, 101, 102}


def test_an_engine_that_holds_its_gpus_below_itself_is_not_climbed_from(fake: FakeProcFs):
    fake.process(90, "launcher", session=90)
    fake.process(100, "python -m sglang.launch_server", parent=90, session=90)
    fake.process(101, "sglang::scheduler_TP0", parent=100, session=90)
    fake.process(102, "other", parent=90, session=90)
    assert look(fake).tree({100}, SGLANG.processes.climb) == {100, 101}


def test_climbing_stops_at_another_session_or_another_control_group(fake: FakeProcFs):
    fake.process(90, "agent", session=90)
    fake.process(100, "server", parent=90, session=100)
    fake.process(91, "agent", session=91, cgroup="/a")
    fake.process(101, "server", parent=91, session=91, cgroup="/b")
    host = look(fake)
    assert (host.tree({100}), host.tree({101})) == ({100}, {101})


def test_climbing_stops_where_another_server_would_come_in(fake: FakeProcFs):
    """Two servers of one supervising program each keep their own GPUs."""
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "vllm serve a", parent=90, session=90)
    fake.process(101, "VLLM::EngineCore", parent=100, session=90)
    fake.process(200, "vllm serve b", parent=90, session=90)
    fake.process(201, "VLLM::EngineCore", parent=200, session=90)
    host = look(fake)
    assert host.tree({100}, others={100, 200}) == {100, 101}
    assert host.tree({100}) == {90, 100, 101, 200, 201}


def test_several_api_servers_on_one_port_are_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8000, 502)])
    fake.process(100, "python3 /usr/bin/vllm serve m", session=100)
    fake.process(101, "VLLM::APIServer_0", parent=100, session=100, sockets=(501,))
    fake.process(102, "VLLM::APIServer_1", parent=100, session=100, sockets=(502,))
    fake.process(103, "VLLM::EngineCore_DP0", parent=100, session=100)
    assert look(fake).server_pids(url_of(8000), VLLM) == {100, 101, 102, 103}


def test_the_gpus_are_those_that_the_tree_holds(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::Worker_TP0", parent=100, session=100)
    fake.process(102, "VLLM::Worker_TP1", parent=100, session=100)
    fake.process(900, "python3 train.py")
    pids = look(fake).server_pids(url_of(8000), VLLM)
    holders = {"GPU-a": {101}, "GPU-b": {102}, "GPU-c": {900}}
    assert pids is not None
    assert held_by(pids, holders) == {"GPU-a", "GPU-b"}


def test_while_its_engine_is_not_known_a_server_is_taken_for_what_its_process_is_called(fake: FakeProcFs):
    """A supervisor starts a server and a training job; another a TGI, whose router does not hold the GPUs."""
    fake.network("host", (), [Tcp(8080, 501), Tcp(80, 502)])
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "llama-server -m x", parent=90, session=90, sockets=(501,))
    fake.process(101, "helper", parent=100, session=90)
    fake.process(102, "python3 train.py", parent=90, session=90)
    fake.process(200, "text-generation-launcher", session=200)
    fake.process(201, "text-generation-router --port 80", parent=200, session=200, sockets=(502,))
    fake.process(202, "python3 /usr/bin/text-generation-server serve", parent=200, session=200)
    host = look(fake)
    assert host.server_pids(url_of(8080)) == {100, 101}
    assert host.server_pids(url_of(80)) == {200, 201, 202}


def test_a_server_that_is_found_has_its_engine_s_processes_from_the_first_scan_on(fake: FakeProcFs):
    """Its process is called like nothing known, so only what its page said tells that it is not to be climbed from."""
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "my-server --port 8080", parent=90, session=90, sockets=(501,))
    fake.process(102, "python3 train.py", parent=90, session=90)
    host = look(fake, Asker(**{url_of(8080): LLAMACPP}))
    scan = scan_host(host, {}, {}, {"GPU-a": {100}, "GPU-b": {102}}, find=True)
    assert [server.name for server in scan.found] == ["llamacpp-8080"]
    assert scan.pids == {"llamacpp-8080": {100}}


def test_what_is_left_of_a_server_that_listens_no_more_is_still_its_own(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::EngineCore", parent=100, session=100)
    host = look(fake)
    host.server_pids(url_of(8000), VLLM)
    fake.end(100)
    fake.network("host", (), [])
    fake.process(101, "VLLM::EngineCore", parent=1, session=100)
    host.refresh()
    assert host.server_pids(url_of(8000), VLLM) == {101}


def test_a_pid_that_came_again_is_nobody_s(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    host = look(fake)
    host.server_pids(url_of(8000), VLLM)
    fake.network("host", (), [])
    fake.end(100)
    fake.process(100, "something else", started=5000)
    host.refresh()
    assert host.server_pids(url_of(8000), VLLM) == frozenset()


# ------------------------------------------------------------------------------------------------------------- containers


def test_t28_a_container_is_found_by_its_address_and_by_its_published_port(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8001, 501)])
    fake.process(
        50,
        "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8001 -container-ip 172.17.0.2 -container-port 8000",
        sockets=(501,),
    )
    fake.process(100, "vllm serve m", sockets=(901,), network="pod", cgroup="/docker/1")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901)])
    host = look(fake)
    assert host.listener_pids(url_of(8000, "172.17.0.2")) == {100}
    assert host.listener_pids(url_of(8001)) == {100}


def test_a_port_forwarded_in_the_kernel_is_found_where_one_container_has_it(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901)])
    assert look(fake).listener_pids(url_of(8000)) == {100}


def test_a_port_that_two_containers_have_is_not_guessed(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod1")
    fake.network("pod1", ("172.17.0.2",), [Tcp(8000, 901)])
    fake.process(200, "vllm serve m", sockets=(902,), network="pod2")
    fake.network("pod2", ("172.17.0.3",), [Tcp(8000, 902)])
    assert look(fake).listener_pids(url_of(8000)) == frozenset()


# ------------------------------------------------------------------------------------------------------- finding servers


def test_an_engine_appears_by_itself(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "python3 /usr/bin/vllm serve m", sockets=(501,), started=10 * TICKS)
    probe = Asker(**{url_of(8000): VLLM})
    assert look(fake, probe).find_servers({}) == [
        FoundServer("vllm-8000", url_of(8000), "vllm", 100, BOOT_SECONDS + 10.0)
    ]


def test_a_known_server_is_not_asked_again_and_a_restarted_one_is(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    probe = Asker(**{url_of(8000): VLLM})
    host = look(fake, probe)
    first = host.find_servers({})
    host.refresh()
    assert host.find_servers({}) == first
    assert len(probe.asked) == 1
    fake.end(100)
    fake.network("host", (), [Tcp(8000, 601)])
    fake.process(140, "vllm serve m", sockets=(601,), started=900)
    host.refresh()
    [again] = host.find_servers({})
    assert (again.name, again.pid, len(probe.asked)) == ("vllm-8000", 140, 2)


def test_a_server_that_is_gone_disappears(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = look(fake, Asker(**{url_of(8000): VLLM}))
    host.find_servers({})
    fake.end(100)
    fake.network("host", (), [])
    host.refresh()
    assert host.find_servers({}) == []


def test_nothing_else_is_ever_asked(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(5432, 502), Tcp(8080, 503), Tcp(29500, 504), Tcp(34001, 505)])
    fake.process(100, "python3 -m http.server 8000", sockets=(501,))
    fake.process(101, "postgres", sockets=(502,))
    fake.process(102, "java -jar app.jar", sockets=(503,))
    fake.process(103, "torchrun --master-port 29500 train.py", sockets=(504, 505))
    probe = Asker()
    assert look(fake, probe).find_servers({"GPU-a": {103}}) == []
    assert probe.asked == []


def test_a_process_whose_tree_holds_a_gpu_is_asked_on_the_port_it_names(fake: FakeProcFs):
    fake.network("host", (), [Tcp(9123, 501), Tcp(40000, 502)])
    fake.process(100, "python3 serve_it.py --port 9123", session=100, sockets=(501, 502))
    fake.process(101, "python3 worker.py", parent=100, session=100)
    probe = Asker(**{url_of(9123): ENGINES["tpw_hook"]})
    [found] = look(fake, probe).find_servers({"GPU-a": {101}})
    assert (found.name, probe.asked) == ("tpw_hook-9123", [url_of(9123)])


def test_the_only_socket_of_a_gpu_process_that_is_no_engine_is_not_asked_at_a_port_it_does_not_name(fake: FakeProcFs):
    """The rendezvous of a training job: whoever speaks there disturbs it."""
    fake.network("host", (), [Tcp(45678, 501)])
    fake.process(100, "python3 train.py", sockets=(501,))
    probe = Asker(**{url_of(45678): VLLM})
    assert (look(fake, probe).find_servers({"GPU-a": {100}}), probe.asked) == ([], [])


def test_the_exporter_asks_itself_nothing(fake: FakeProcFs):
    """Whatever it is called: a page of a server that does not answer while it is asked would hang the scan."""
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(os.getpid(), "vllm serve m --port 8000", sockets=(501,))
    probe = Asker(**{url_of(8000): VLLM})
    assert (look(fake, probe).find_servers({}), probe.asked) == ([], [])


def test_a_process_that_came_again_with_its_pid_and_its_socket_is_asked_anew(fake: FakeProcFs):
    """A container that was restored, or a supervisor that hands the socket on."""
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(100, "llama-server -m x", sockets=(501,), started=100)
    probe = Asker(**{url_of(8080): LLAMACPP})
    host = look(fake, probe)
    [before] = host.find_servers({})
    fake.process(100, "llama-server -m x", sockets=(501,), started=900)
    host.refresh()
    [after] = host.find_servers({})
    assert len(probe.asked) == 2
    assert after.create_time - before.create_time == 800 / TICKS


def test_the_only_socket_of_a_known_engine_is_asked_whatever_its_port(fake: FakeProcFs):
    """Ollama's child: a random port, named on its command line in current versions only."""
    fake.network("host", (), [Tcp(45678, 501, "127.0.0.1")])
    fake.process(100, "/usr/lib/ollama/llama-server -m x", sockets=(501,))
    [found] = look(fake, Asker(**{url_of(45678): LLAMACPP})).find_servers({})
    assert found.name == "llamacpp-45678"


def test_t28_one_server_on_two_ports_is_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(80, 501), Tcp(9000, 502)])
    fake.process(100, "text-generation-router --port 80 --prometheus-port 9000", sockets=(501, 502))
    probe = Asker(**{"http://127.0.0.1:80": TGI, url_of(9000): TGI})
    assert [server.name for server in look(fake, probe).find_servers({})] == ["tgi-80"]


def test_t28_api_servers_that_share_a_port_are_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8000, 502)])
    fake.process(100, "vllm serve m", session=100)
    fake.process(101, "VLLM::APIServer_0", parent=100, session=100, sockets=(501,))
    fake.process(102, "VLLM::APIServer_1", parent=100, session=100, sockets=(502,))
    probe = Asker(**{url_of(8000): VLLM})
    assert len(look(fake, probe).find_servers({})) == 1
    assert len(probe.asked) == 1


def test_t28_configured_servers_win(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501), Tcp(8080, 502)])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "llama-server -m x", sockets=(502,))
    probe = Asker(**{url_of(8000): VLLM, url_of(8080): LLAMACPP})
    found = look(fake, probe).find_servers({}, {"chat": url_of(8000, "10.0.0.1")})
    assert [server.name for server in found] == ["llamacpp-8080"]
    assert probe.asked == [url_of(8080)]


def test_two_servers_on_one_port_of_different_addresses_have_different_names_that_stay(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 501, "127.0.0.1"), Tcp(8080, 502, "127.0.0.2")])
    fake.process(100, "llama-server -m a", sockets=(501,))
    fake.process(200, "llama-server -m b", sockets=(502,))
    urls = {url_of(8080): LLAMACPP, url_of(8080, "127.0.0.2"): LLAMACPP}
    host = look(fake, Asker(**{url_of(8080, "127.0.0.2"): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["llamacpp-8080"]
    host = look(fake, Asker(**urls))
    both = [(one.name, one.pid) for one in host.find_servers({})]
    assert both == [("llamacpp-127.0.0.2-8080", 200), ("llamacpp-8080", 100)]
    fake.end(100)
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [("llamacpp-127.0.0.2-8080", 200)]
    # One that comes later takes no name that is in use, though it is asked first.
    fake.process(50, "llama-server -m a", sockets=(501,))
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [
        ("llamacpp-127.0.0.2-8080", 200),
        ("llamacpp-8080", 50),
    ]


def test_a_server_that_comes_later_takes_no_name_in_use(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502, "127.0.0.2")])
    fake.process(200, "llama-server -m b", sockets=(502,))
    host = look(fake, Asker(**{url_of(8080): LLAMACPP, url_of(8080, "127.0.0.2"): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["llamacpp-8080"]
    fake.network("host", (), [Tcp(8080, 501, "127.0.0.1"), Tcp(8080, 502, "127.0.0.2")])
    fake.process(100, "llama-server -m a", sockets=(501,))
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [
        ("llamacpp-127.0.0.1-8080", 100),
        ("llamacpp-8080", 200),
    ]


def test_a_server_is_not_hidden_by_a_configured_one_that_is_called_like_it(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(100, "llama-server -m a", sockets=(501,))
    [found] = look(fake, Asker(**{url_of(8080): LLAMACPP})).find_servers({}, {"llamacpp-8080": "http://192.0.2.1:8080"})
    assert found.name == "llamacpp-127.0.0.1-8080"


@pytest.mark.parametrize("network", ["host", "pod"])
def test_a_socket_of_ipv6_alone_is_asked_there(fake: FakeProcFs, network: str):
    """uvicorn and others on ``::`` take no IPv4 at all, and procfs does not tell."""
    fake.network(network, ("172.17.0.2", "fd00::2"), [Tcp(30000, 501, "::")])
    fake.process(100, "python3 -m sglang.launch_server --host :: --port 30000", sockets=(501,), network=network)
    four, six = ("127.0.0.1", "[::1]") if network == "host" else ("172.17.0.2", "[fd00::2]")
    refused = SourceError(Reason.UNREACHABLE, "connection refused")
    probe = Asker(**{url_of(30000, four): refused, url_of(30000, six): SGLANG})
    [found] = look(fake, probe).find_servers({})
    assert (found.url, probe.asked) == (url_of(30000, six), [url_of(30000, four), url_of(30000, six)])
    # A socket that takes both is asked once, and one that refuses is not asked in every way.
    for said in (SGLANG, SourceError(Reason.LOADING, "503")):
        probe = Asker(**{url_of(30000, four): said})
        look(fake, probe).find_servers({})
        assert probe.asked == [url_of(30000, four)]


def test_a_process_that_became_another_program_is_known_by_its_new_command_line(fake: FakeProcFs):
    """A wrapper in Python that ends in exec: the same process, called ``python3`` before and after."""
    fake.network("host", (), [Tcp(30000, 501)])
    fake.process(100, "python3 /entrypoint.py", comm="python3", sockets=(501,))
    host = look(fake, Asker(**{url_of(30000): SGLANG}))
    assert host.find_servers({}) == []
    fake.process(100, "python3 -m sglang.launch_server --port 30000", comm="python3", sockets=(501,))
    host.refresh()
    assert [one.name for one in host.find_servers({})] == ["sglang-30000"]


@pytest.mark.parametrize(
    ("parent", "argv", "name"),
    [
        (
            "ollama serve",
            "/usr/lib/ollama/llama-server --model /m/blobs/sha256-8eeb52dfb3bb9aefdf9d1ef24b --port {}",
            "ollama-8eeb52dfb3bb",
        ),
        ("ollama serve", "/usr/lib/ollama/llama-server -m /m/smol.Q4.gguf --alias smol --port {}", "ollama-smol"),
        ("ollama serve", "/usr/lib/ollama/llama-server --model=/m/smol.Q4.gguf --port={}", "ollama-smol.Q4"),
        ("llama-server --port 8080", "llama-server -a qwen,q -m /m/q.gguf --port {}", "llamacpp-qwen"),
        ("ollama serve", "/usr/lib/ollama/llama-server --port {}", None),
        ("bash", "llama-server -m /m/smol.Q4.gguf --port {}", None),
    ],
)
def test_a_server_that_another_one_starts_for_a_model_is_named_by_the_model(
    fake: FakeProcFs, parent: str, argv: str, name: str | None
):
    """Its port is another one each time the model is loaded."""
    for at, port in enumerate((45001, 45002)):
        fake.network("host", (), [Tcp(port, 501 + at, "127.0.0.1")])
        fake.process(90, parent)
        fake.process(100 + at, argv.format(port), parent=90, sockets=(501 + at,))
        [found] = look(fake, Asker(**{url_of(port): LLAMACPP})).find_servers({})
        assert (found.name, found.url) == (name or f"llamacpp-{port}", url_of(port))
        fake.end(100 + at)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?model=smol&autoload=false", ["llamacpp-qwen"]),
        ("?autoload=false&model=qwen", ["llamacpp-smol"]),
        ("?model=other", ["llamacpp-qwen", "llamacpp-smol"]),
        ("", ["llamacpp-qwen", "llamacpp-smol"]),
    ],
)
def test_t06_a_model_that_is_read_through_its_router_is_not_found_a_second_time(
    fake: FakeProcFs, query: str, found: list[str]
):
    fake.network("host", (), [Tcp(8080, 500), Tcp(45001, 501, "127.0.0.1"), Tcp(45002, 502, "127.0.0.1")])
    fake.process(90, "llama-server --port 8080", sockets=(500,))
    fake.process(101, "llama-server --alias smol --port 45001", parent=90, sockets=(501,))
    fake.process(102, "llama-server --alias qwen --port 45002", parent=90, sockets=(502,))
    host = look(fake, Asker(**{url_of(45001): LLAMACPP, url_of(45002): LLAMACPP}))
    configured = {"chat": f"{url_of(8080)}/metrics{query}"}
    assert [one.name for one in host.find_servers({}, configured)] == found
    # One for the same model that is none of the router's is another server.
    fake.network("host", (), [Tcp(8080, 500), Tcp(9000, 503, "127.0.0.1")])
    fake.process(103, "llama-server --alias smol --port 9000", sockets=(503,))
    host = look(fake, Asker(**{url_of(9000): LLAMACPP}))
    assert [one.name for one in host.find_servers({}, configured)] == ["llamacpp-9000"]


def test_two_servers_for_one_model_have_different_names(fake: FakeProcFs):
    fake.network("host", (), [Tcp(45001, 501, "127.0.0.1"), Tcp(45002, 502, "127.0.0.1")])
    fake.process(90, "ollama serve")
    for at in (0, 1):
        argv = f"/usr/lib/ollama/llama-server -m /m/smol.gguf --port {45001 + at}"
        fake.process(100 + at, argv, parent=90, sockets=(501 + at,))
    host = look(fake, Asker(**{url_of(45001): LLAMACPP, url_of(45002): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["ollama-smol", "ollama-smol-127.0.0.1-45002"]


def test_what_is_gone_is_forgotten(fake: FakeProcFs):
    """A server that is started anew again and again, on another port each time."""
    host = look(fake, Asker())
    for at in range(20):
        fake.network("host", (), [Tcp(45000 + at, 500 + at, "127.0.0.1")])
        fake.process(100 + at, "llama-server -m x", sockets=(500 + at,))
        host.refresh()
        host.find_servers({})
        host.server_pids(url_of(45000 + at))
        fake.end(100 + at)
    host.refresh()
    host.find_servers({})
    assert (host._refused, host._trees) == ({}, {})
    assert len(host._sockets._owners) <= 1


def test_a_gateway_is_not_found_by_itself(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "python3 gateway.py --port 8000", sockets=(501,))
    assert look(fake, Asker(**{url_of(8000): LITELLM})).find_servers({"GPU-a": {100}}) == []


def test_internal_sockets_of_gpu_processes_are_not_asked(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8080, 502)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::EngineCore", parent=100, session=100, sockets=(502,))
    probe = Asker(**{url_of(8000): VLLM})
    look(fake, probe).find_servers({"GPU-a": {101}})
    assert probe.asked == [url_of(8000)]


def test_a_server_in_a_container_has_its_address_in_its_name(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901)])
    probe = Asker(**{url_of(8000, "172.17.0.2"): VLLM})
    [found] = look(fake, probe).find_servers({})
    assert (found.name, found.url) == ("vllm-172.17.0.2-8000", "http://172.17.0.2:8000")


def test_a_socket_on_the_loopback_of_a_container_cannot_be_asked(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901, "127.0.0.1")])
    probe = Asker()
    host = look(fake, probe)
    assert (host.find_servers({}), probe.asked) == ([], [])
    [problem] = host.problems
    assert problem == (
        "vllm (pid 100) listens on 127.0.0.1:8000 of another network namespace, which cannot be reached from here: let it"
        " listen on an address of its container, or run the exporter in that network"
    )


def test_an_engine_whose_metrics_are_off_is_told_and_asked_less_and_less_often(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502)])
    fake.process(200, "llama-server -m x", sockets=(502,))
    off = SourceError(Reason.DISABLED, "http://127.0.0.1:8080/metrics: HTTP 501", "start llama-server with --metrics")
    probe, now = Asker(**{url_of(8080): off}), [0.0]
    host = look(fake, probe, now=now)
    problem = (
        "llama-server (pid 200) at http://127.0.0.1:8080 is not read: http://127.0.0.1:8080/metrics: HTTP 501;"
        " start llama-server with --metrics"
    )
    asked = []
    for at in (0.0, 15.0, 30.0, 60.0, 90.0, 120.0):
        now[0] = at
        host.refresh()
        host.find_servers({})
        assert host.problems == (problem,)
        asked.append(len(probe.asked))
    assert asked == [1, 1, 2, 2, 3, 3]


def test_a_server_that_is_loading_is_asked_every_time(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502)])
    fake.process(200, "llama-server -m x", sockets=(502,))
    probe, now = Asker(**{url_of(8080): SourceError(Reason.LOADING, "503")}), [0.0]
    host = look(fake, probe, now=now)
    host.find_servers({})
    probe.speaks[url_of(8080)] = LLAMACPP
    now[0] = 15.0
    host.refresh()
    assert [server.name for server in host.find_servers({})] == ["llamacpp-8080"]


def test_without_a_probe_nobody_is_asked_and_names_are_believed(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8002, 502), Tcp(9123, 503)])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "tritonserver", sockets=(502,))
    fake.process(300, "python3 serve_it.py --port 9123", sockets=(503,))
    host = HostProcesses(str(fake.root), dialects=DIALECTS)
    host.refresh()
    assert [server.name for server in host.find_servers({"GPU-a": {300}})] == ["vllm-8000"]


# ------------------------------------------------------------------------------------------------------------ permissions


def test_processes_that_cannot_be_looked_into_are_reported_once(fake: FakeProcFs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ProcFs, "sockets", lambda self, pid: None)
    fake.network("host", (), [Tcp(9999, 501, uid=1000)])
    fake.process(100, "some server", sockets=(501,))
    host = look(fake)
    assert (host.listener_pids(url_of(9999)), host.listener_pids(url_of(9999))) == (frozenset(), frozenset())
    [problem] = host.problems
    assert "CAP_SYS_PTRACE" in problem


def test_an_engine_of_another_user_is_found_by_its_user_and_the_port_it_names(
    fake: FakeProcFs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ProcFs, "sockets", lambda self, pid: None)
    monkeypatch.setattr(ProcFs, "owner", lambda self, pid: 1000)
    fake.network("host", (), [Tcp(8001, 501, uid=1000), Tcp(8001, 502, "127.0.0.9", uid=0), Tcp(8002, 503, uid=1000)])
    fake.process(100, "vllm serve m --port 8001", sockets=(501,))
    probe = Asker(**{url_of(8001): VLLM})
    assert [server.name for server in look(fake, probe).find_servers({})] == ["vllm-8001"]


def test_a_foreign_pid_namespace_is_told_from_an_idle_gpu(fake: FakeProcFs):
    host = look(fake)
    host.find_servers({"GPU-a": {4242}})
    [problem] = host.problems
    assert "hostPID" in problem


def test_a_place_that_is_no_procfs_is_reported(tmp_path: Path):
    host = HostProcesses(str(tmp_path))
    host.refresh()
    [problem] = host.problems
    assert "is it a mounted procfs" in problem


# --------------------------------------------------------------------------------------------------------- the real thing


def test_a_real_child_that_listens_is_found_in_the_real_procfs():
    program = (
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        port = int(child.stdout.readline())
        host = HostProcesses()
        host.refresh()
        owners = host.listener_pids(f"http://127.0.0.1:{port}")
        pids = host.tree(owners or (), Climb.SELF)
        process = host.process_at(f"http://localhost:{port}")
        child.stdin.close()
        child.wait(10)
    assert (owners, pids) == ({child.pid}, {child.pid})
    assert process is not None
    assert process.pid == child.pid
    assert abs(process.started_wall_seconds - time.time()) < 60.0


def test_a_real_engine_page_is_recognised_by_the_real_probe():
    """The listener is this test's own process, which discovery never asks: so the socket is given to a child."""
    page = (Path(__file__).parents[2] / "captures" / "servers" / "llamacpp-b11669-start.txt").read_bytes()
    with PageServer(pages({"/metrics": answer(page)})) as server:
        hold = "import sys; sys.stdin.read()"
        with subprocess.Popen(
            ["llama-server", "-c", hold, "--port", str(server.port)],
            executable=sys.executable,
            stdin=subprocess.PIPE,
            pass_fds=(server.fileno(),),
        ) as child:
            host = HostProcesses(dialects=DIALECTS, probe=recognise_at)
            host.refresh()
            found = [one for one in host.find_servers({}) if one.pid == child.pid]
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)
    assert [(one.name, one.url, one.engine) for one in found] == [
        (f"llamacpp-{server.port}", f"http://127.0.0.1:{server.port}", "llamacpp")
    ]


def test_an_unused_port_is_nobody_s():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    host = HostProcesses(dialects=DIALECTS)
    host.refresh()
    assert host.listener_pids(f"http://127.0.0.1:{port}") == frozenset()
