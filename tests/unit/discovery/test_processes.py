"""From addresses to processes and GPUs, and discovery of servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from support.certificates import certify, server_context
from support.pageserver import PageServer, answer, pages
from support.procfs import BOOT_SECONDS, FakeProcFs, Tcp
from tpw.discovery.finder import FoundServer
from tpw.discovery.ownership import held_by
from tpw.discovery.placement import Place
from tpw.discovery.processes import HostProcesses
from tpw.discovery.procfs import ProcFs
from tpw.discovery.scan import scan_host
from tpw.model import KvTransfer, OsProcess, Phase, ProcessIdentity, Reason, SourceError
from tpw.tokens.dialects import Climb, Dialect
from tpw.tokens.engines import DIALECTS, ENGINES, LITELLM, LLAMACPP, SGLANG, TGI, VLLM
from tpw.tokens.scrape import recognise_at

TICKS = os.sysconf("SC_CLK_TCK")


class Probe:
    """A probe with fixed results that records the URLs."""

    def __init__(self, **results: Dialect | SourceError) -> None:
        self.results: dict[str, Dialect | SourceError] = {
            url.replace("_", ":"): result for url, result in results.items()
        }
        self.probed: list[str] = []

    def __call__(self, url: str, dialects: Sequence[Dialect], expected: Sequence[Dialect]) -> Dialect:
        self.probed.append(url)
        result = self.results.get(url, SourceError(Reason.ABSENT, f"{url}: HTTP 404", "nothing"))
        if isinstance(result, SourceError):
            raise result
        return result


@pytest.fixture
def fake(tmp_path: Path) -> FakeProcFs:
    proc = FakeProcFs(tmp_path / "proc")
    proc.process(1, "/sbin/init", comm="systemd", parent=0)
    return proc


def host_of(
    fake: FakeProcFs,
    probe: Probe | None = None,
    *,
    now: list[float] | None = None,
    names: dict[str, list[str]] | None = None,
) -> HostProcesses:
    def resolve(host: str) -> Iterable[str]:
        if names is None or host not in names:
            raise OSError("unknown host")
        return names[host]

    times = now or [0.0]
    host = HostProcesses(
        str(fake.root), dialects=DIALECTS, probe=probe or Probe(), clock=lambda: times[0], resolve=resolve
    )
    host.refresh()
    return host


def url_of(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}"


# ------------------------------------------------------------------------------------------------- addresses to processes


def test_the_listeners_of_an_address_are_found(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501), Tcp(9000, 502, "127.0.0.1")])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "other", sockets=(502, 777))
    host = host_of(fake)
    assert host.listener_pids(url_of(8000)) == {100}
    assert host.listener_pids(url_of(8000, "10.0.0.1")) == {100}
    assert host.listener_pids(url_of(8000, "localhost")) == {100}
    assert host.listener_pids(url_of(9000)) == {200}


def test_a_socket_on_loopback_does_not_serve_the_host_address(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(9000, 502, "127.0.0.1")])
    fake.process(200, "other", sockets=(502,))
    assert host_of(fake).listener_pids(url_of(9000, "10.0.0.1")) == frozenset()


def test_a_socket_on_ipv6_any_serves_ipv4_addresses(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501, "::")])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = host_of(fake)
    assert (host.listener_pids(url_of(8000)), host.listener_pids(url_of(8000, "[::1]"))) == ({100}, {100})


def test_connections_are_not_listeners(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501, listening=False)])
    fake.process(100, "client", sockets=(501,))
    assert host_of(fake).listener_pids(url_of(8000)) == frozenset()


def test_an_address_of_another_host_has_no_listeners_here(fake: FakeProcFs):
    assert host_of(fake).listener_pids(url_of(8000, "192.0.2.9")) is None


def test_a_host_name_is_resolved(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = host_of(fake, names={"node-a": ["10.0.0.1"], "node-b": ["10.0.0.2"]})
    assert host.listener_pids(url_of(8000, "node-a")) == {100}
    assert host.listener_pids(url_of(8000, "node-b")) is None
    assert host.listener_pids(url_of(8000, "no-such-host")) is None


def test_a_host_name_is_resolved_again_after_five_minutes(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    now, names = [0.0], {"node-a": ["10.0.0.2"]}
    host = host_of(fake, names=names, now=now)
    found = []
    for seconds in (0.0, 299.0, 300.0):
        host.refresh()
        now[0] = seconds
        found.append(host.listener_pids(url_of(8000, "node-a")))
        names["node-a"] = ["10.0.0.1"]
    assert found == [None, None, {100}]


def test_the_addresses_of_the_host_are_read_at_every_scan(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(501,))
    host = host_of(fake)
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501)])
    before = host.listener_pids(url_of(8000, "10.0.0.2"))
    fake.network("host", ("10.0.0.1", "10.0.0.2"), [Tcp(8000, 501)])
    host.refresh()
    assert (before, host.listener_pids(url_of(8000, "10.0.0.2"))) == (None, {100})


def test_the_process_of_a_server_is_its_oldest_listener(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(300, "vllm serve m", sockets=(501,), started=20 * TICKS)
    fake.process(299, "worker", sockets=(501,), parent=300, started=30 * TICKS)
    assert host_of(fake).process_at(url_of(8000)) == OsProcess(300, BOOT_SECONDS + 20.0)


def test_a_server_that_listens_on_a_unix_socket_only_is_found(fake: FakeProcFs):
    """vLLM's ``--uds``; its sockets between processes are not probed."""
    fake.unix_sockets("host", {"/run/chat.sock": 501, "/tmp/engine-7": 502, "@abstract": 503})
    fake.process(100, "vllm serve m --uds /run/chat.sock", sockets=(501, 502))
    probe = Probe(**{"unix:/run/chat.sock": VLLM})
    host = host_of(fake, probe=probe)
    assert [(one.name, one.url, one.pid) for one in host.find_servers({})] == [
        ("vllm-chat", "unix:/run/chat.sock", 100)
    ]
    assert host.listener_pids("unix:/run/chat.sock") == {100}
    assert host.listener_pids("unix:/run/other.sock") == frozenset()
    assert host.place("unix:/run/chat.sock") is Place.HERE
    assert probe.probed == ["unix:/run/chat.sock"]


def test_a_unix_socket_in_a_container_is_read_through_its_root(fake: FakeProcFs):
    fake.unix_sockets("pod", {"/run/x.sock": 501})
    fake.process(100, "llama-server --host /run/x.sock", sockets=(501,), network="pod")
    fake.unix_sockets("pod", {"/run/x.sock": 501})
    url = f"unix:{Path(fake.root, '100', 'root', 'run', 'x.sock')}"
    probe = Probe()
    probe.results[url] = LLAMACPP
    host = host_of(fake, probe=probe)
    assert [one.url for one in host.find_servers({})] == [url]
    assert host.listener_pids(url) == {100}


def test_the_holder_of_a_unix_socket_is_the_process_that_names_it_where_open_files_cannot_be_read(fake: FakeProcFs):
    fake.unix_sockets("host", {"/run/chat.sock": 501})
    fake.process(100, "vllm serve m --uds=/run/chat.sock", started=10)
    fake.process(101, "python worker --uds=/run/chat.sock", started=20)
    assert host_of(fake).listener_pids("unix:/run/chat.sock") == {100}


# ------------------------------------------------------------------------------------------------------------------ trees


@pytest.mark.parametrize(
    ("parent_environment", "listener_environment", "keeps"),
    [
        ({}, {}, False),
        ({}, {"PROMETHEUS_MULTIPROC_DIR": "/created/by/vllm"}, False),
        ({"PROMETHEUS_MULTIPROC_DIR": "/data/prom"}, {"PROMETHEUS_MULTIPROC_DIR": "/data/prom"}, True),
    ],
)
def test_t09_a_server_started_with_a_counter_directory_may_continue_from_old_counters(
    fake: FakeProcFs, parent_environment: dict[str, str], listener_environment: dict[str, str], keeps: bool
):
    """A directory that it sets for its own children is created and emptied by itself."""
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, started=10, environment=parent_environment)
    fake.process(
        101, "VLLM::APIServer_0", parent=100, session=100, started=20, sockets=(501,), environment=listener_environment
    )
    process = host_of(fake).process_at(url_of(8000))
    assert process == OsProcess(101, BOOT_SECONDS + 20 / TICKS, keeps_counters=keeps)


def test_the_role_of_a_server_is_in_the_command_line_of_its_tree(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    command = "vllm serve m --kv-transfer-config.kv_role kv_producer --kv-transfer-config.kv_connector NixlConnector"
    fake.process(100, command, session=100, started=10)
    fake.process(101, "VLLM::APIServer_0", parent=100, session=100, started=20, sockets=(501,))
    process = host_of(fake).process_at(url_of(8000))
    assert process is not None and process.transfer == KvTransfer(Phase.PREFILL)


def test_a_tree_is_the_listener_and_its_descendants(fake: FakeProcFs):
    fake.process(100, "bash", session=100)
    fake.process(101, "llama-server -m x", parent=100, session=100)
    fake.process(102, "helper", parent=101, session=100)
    fake.process(103, "unrelated", parent=100, session=100)
    assert host_of(fake).tree({101}) == {101, 102}


def test_siblings_are_found_through_their_common_parent(fake: FakeProcFs):
    """TGI: the router listens, the shards hold the GPUs, the launcher started both."""
    fake.process(10, "containerd-shim-runc-v2")
    fake.process(100, "text-generation-launcher", parent=10, session=100, cgroup="/pod1")
    fake.process(101, "text-generation-router --port 80", parent=100, session=100, cgroup="/pod1")
    fake.process(102, "python3 /usr/bin/text-generation-server serve", parent=100, session=100, cgroup="/pod1")
    assert host_of(fake).tree({101}, TGI.processes.climb) == {100, 101, 102}


def test_an_engine_that_holds_its_gpus_below_itself_is_not_climbed_from(fake: FakeProcFs):
    fake.process(90, "launcher", session=90)
    fake.process(100, "python -m sglang.launch_server", parent=90, session=90)
    fake.process(101, "sglang::scheduler_TP0", parent=100, session=90)
    fake.process(102, "other", parent=90, session=90)
    assert host_of(fake).tree({100}, SGLANG.processes.climb) == {100, 101}


def test_climbing_stops_at_another_session_or_cgroup(fake: FakeProcFs):
    fake.process(90, "agent", session=90)
    fake.process(100, "server", parent=90, session=100)
    fake.process(91, "agent", session=91, cgroup="/a")
    fake.process(101, "server", parent=91, session=91, cgroup="/b")
    host = host_of(fake)
    assert (host.tree({100}), host.tree({101})) == ({100}, {101})


def test_climbing_stops_where_it_would_include_another_server(fake: FakeProcFs):
    """Two servers of one supervising program each keep their own GPUs."""
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "vllm serve a", parent=90, session=90)
    fake.process(101, "VLLM::EngineCore", parent=100, session=90)
    fake.process(200, "vllm serve b", parent=90, session=90)
    fake.process(201, "VLLM::EngineCore", parent=200, session=90)
    host = host_of(fake)
    assert host.tree({100}, others={100, 200}) == {100, 101}
    assert host.tree({100}) == {90, 100, 101, 200, 201}


def test_several_api_servers_on_one_port_are_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8000, 502)])
    fake.process(100, "python3 /usr/bin/vllm serve m", session=100)
    fake.process(101, "VLLM::APIServer_0", parent=100, session=100, sockets=(501,))
    fake.process(102, "VLLM::APIServer_1", parent=100, session=100, sockets=(502,))
    fake.process(103, "VLLM::EngineCore_DP0", parent=100, session=100)
    assert host_of(fake).server_pids(url_of(8000), VLLM) == {100, 101, 102, 103}


def test_the_gpus_are_those_that_the_tree_holds(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::Worker_TP0", parent=100, session=100)
    fake.process(102, "VLLM::Worker_TP1", parent=100, session=100)
    fake.process(900, "python3 train.py")
    pids = host_of(fake).server_pids(url_of(8000), VLLM)
    holders = {"GPU-a": {101}, "GPU-b": {102}, "GPU-c": {900}}
    assert pids is not None
    assert held_by(pids, holders) == {"GPU-a", "GPU-b"}


def test_an_unknown_engine_is_derived_from_the_name_of_the_process(fake: FakeProcFs):
    """A supervisor starts a server and a training job; another a TGI with a router that holds no GPU."""
    fake.network("host", (), [Tcp(8080, 501), Tcp(80, 502)])
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "llama-server -m x", parent=90, session=90, sockets=(501,))
    fake.process(101, "helper", parent=100, session=90)
    fake.process(102, "python3 train.py", parent=90, session=90)
    fake.process(200, "text-generation-launcher", session=200)
    fake.process(201, "text-generation-router --port 80", parent=200, session=200, sockets=(502,))
    fake.process(202, "python3 /usr/bin/text-generation-server serve", parent=200, session=200)
    host = host_of(fake)
    assert host.server_pids(url_of(8080)) == {100, 101}
    assert host.server_pids(url_of(80)) == {200, 201, 202}


def test_a_discovered_server_has_the_right_processes_from_the_first_scan(fake: FakeProcFs):
    """Its process has no known name: only its page shows that its tree begins at the listener."""
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(90, "python3 run_all.py", session=90)
    fake.process(100, "my-server --port 8080", parent=90, session=90, sockets=(501,))
    fake.process(102, "python3 train.py", parent=90, session=90)
    host = host_of(fake, Probe(**{url_of(8080): LLAMACPP}))
    scan = scan_host(host, {}, {}, {"GPU-a": {100}, "GPU-b": {102}}, find=True)
    assert [server.name for server in scan.found] == ["llamacpp-8080"]
    assert scan.pids == {"llamacpp-8080": {100}}


def test_remaining_processes_of_a_server_that_stopped_listening_are_its_own(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::EngineCore", parent=100, session=100)
    host = host_of(fake)
    host.server_pids(url_of(8000), VLLM)
    fake.end(100)
    fake.network("host", (), [])
    fake.process(101, "VLLM::EngineCore", parent=1, session=100)
    host.refresh()
    assert host.server_pids(url_of(8000), VLLM) == {101}


def test_a_reused_pid_belongs_to_no_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    host = host_of(fake)
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
    host = host_of(fake)
    assert host.listener_pids(url_of(8000, "172.17.0.2")) == {100}
    assert host.listener_pids(url_of(8001)) == {100}


def test_a_port_forwarded_in_the_kernel_is_found_if_one_container_has_it(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901)])
    assert host_of(fake).listener_pids(url_of(8000)) == {100}


def test_a_port_that_two_containers_have_is_not_guessed(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod1")
    fake.network("pod1", ("172.17.0.2",), [Tcp(8000, 901)])
    fake.process(200, "vllm serve m", sockets=(902,), network="pod2")
    fake.network("pod2", ("172.17.0.3",), [Tcp(8000, 902)])
    assert host_of(fake).listener_pids(url_of(8000)) == frozenset()


# ------------------------------------------------------------------------------------------------- discovery of servers


def test_an_engine_is_discovered(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "python3 /usr/bin/vllm serve m", sockets=(501,), started=10 * TICKS)
    probe = Probe(**{url_of(8000): VLLM})
    assert host_of(fake, probe).find_servers({}) == [
        FoundServer("vllm-8000", url_of(8000), "vllm", 100, BOOT_SECONDS + 10.0)
    ]


def test_a_known_server_is_not_probed_again_and_a_restarted_one_is(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    probe = Probe(**{url_of(8000): VLLM})
    host = host_of(fake, probe)
    first = host.find_servers({})
    host.refresh()
    assert host.find_servers({}) == first
    assert len(probe.probed) == 1
    fake.end(100)
    fake.network("host", (), [Tcp(8000, 601)])
    fake.process(140, "vllm serve m", sockets=(601,), started=900)
    host.refresh()
    [again] = host.find_servers({})
    assert (again.name, again.pid, len(probe.probed)) == ("vllm-8000", 140, 2)


def test_a_server_that_stopped_is_removed(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    host = host_of(fake, Probe(**{url_of(8000): VLLM}))
    host.find_servers({})
    fake.end(100)
    fake.network("host", (), [])
    host.refresh()
    assert host.find_servers({}) == []


def test_no_other_process_is_ever_probed(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(5432, 502), Tcp(8080, 503), Tcp(29500, 504), Tcp(34001, 505)])
    fake.process(100, "python3 -m http.server 8000", sockets=(501,))
    fake.process(101, "postgres", sockets=(502,))
    fake.process(102, "java -jar app.jar", sockets=(503,))
    fake.process(103, "torchrun --master-port 29500 train.py", sockets=(504, 505))
    probe = Probe()
    assert host_of(fake, probe).find_servers({"GPU-a": {103}}) == []
    assert probe.probed == []


def test_a_process_with_a_gpu_in_its_tree_is_probed_on_the_port_it_names(fake: FakeProcFs):
    fake.network("host", (), [Tcp(9123, 501), Tcp(40000, 502)])
    fake.process(100, "python3 serve_it.py --port 9123", session=100, sockets=(501, 502))
    fake.process(101, "python3 worker.py", parent=100, session=100)
    probe = Probe(**{url_of(9123): ENGINES["tpw_hook"]})
    [found] = host_of(fake, probe).find_servers({"GPU-a": {101}})
    assert (found.name, probe.probed) == ("tpw_hook-9123", [url_of(9123)])


def test_the_only_socket_of_an_unknown_gpu_process_is_not_probed_on_a_port_it_does_not_name(fake: FakeProcFs):
    """The rendezvous of a training job: whoever results there disturbs it."""
    fake.network("host", (), [Tcp(45678, 501)])
    fake.process(100, "python3 train.py", sockets=(501,))
    probe = Probe(**{url_of(45678): VLLM})
    assert (host_of(fake, probe).find_servers({"GPU-a": {100}}), probe.probed) == ([], [])


def test_the_exporter_does_not_probe_itself(fake: FakeProcFs):
    """A page of its own that does not answer during the scan would block the scan."""
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(os.getpid(), "vllm serve m --port 8000", sockets=(501,))
    probe = Probe(**{url_of(8000): VLLM})
    assert (host_of(fake, probe).find_servers({}), probe.probed) == ([], [])


def test_a_restarted_process_with_the_same_pid_and_socket_is_probed_again(fake: FakeProcFs):
    """A restored container, or a supervisor that passes the socket on."""
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(100, "llama-server -m x", sockets=(501,), started=100)
    probe = Probe(**{url_of(8080): LLAMACPP})
    host = host_of(fake, probe)
    [before] = host.find_servers({})
    fake.process(100, "llama-server -m x", sockets=(501,), started=900)
    host.refresh()
    [after] = host.find_servers({})
    assert len(probe.probed) == 2
    assert after.create_time - before.create_time == 800 / TICKS


def test_the_only_socket_of_a_known_engine_is_probed_on_any_port(fake: FakeProcFs):
    """Ollama's child: a random port, named on its command line in current versions only."""
    fake.network("host", (), [Tcp(45678, 501, "127.0.0.1")])
    fake.process(100, "/usr/lib/ollama/llama-server -m x", sockets=(501,))
    [found] = host_of(fake, Probe(**{url_of(45678): LLAMACPP})).find_servers({})
    assert found.name == "llamacpp-45678"


def test_t28_one_server_on_two_ports_is_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(80, 501), Tcp(9000, 502)])
    fake.process(100, "text-generation-router --port 80 --prometheus-port 9000", sockets=(501, 502))
    probe = Probe(**{"http://127.0.0.1:80": TGI, url_of(9000): TGI})
    assert [server.name for server in host_of(fake, probe).find_servers({})] == ["tgi-80"]


def test_t28_api_servers_that_share_a_port_are_one_server(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8000, 502)])
    fake.process(100, "vllm serve m", session=100)
    fake.process(101, "VLLM::APIServer_0", parent=100, session=100, sockets=(501,))
    fake.process(102, "VLLM::APIServer_1", parent=100, session=100, sockets=(502,))
    probe = Probe(**{url_of(8000): VLLM})
    assert len(host_of(fake, probe).find_servers({})) == 1
    assert len(probe.probed) == 1


def test_t28_configured_servers_have_priority(fake: FakeProcFs):
    fake.network("host", ("10.0.0.1",), [Tcp(8000, 501), Tcp(8080, 502)])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "llama-server -m x", sockets=(502,))
    probe = Probe(**{url_of(8000): VLLM, url_of(8080): LLAMACPP})
    found = host_of(fake, probe).find_servers({}, {"chat": url_of(8000, "10.0.0.1")})
    assert [server.name for server in found] == ["llamacpp-8080"]
    assert probe.probed == [url_of(8080)]


def test_two_servers_on_one_port_of_different_addresses_have_different_stable_names(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 501, "127.0.0.1"), Tcp(8080, 502, "127.0.0.2")])
    fake.process(100, "llama-server -m a", sockets=(501,))
    fake.process(200, "llama-server -m b", sockets=(502,))
    urls = {url_of(8080): LLAMACPP, url_of(8080, "127.0.0.2"): LLAMACPP}
    host = host_of(fake, Probe(**{url_of(8080, "127.0.0.2"): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["llamacpp-8080"]
    host = host_of(fake, Probe(**urls))
    both = [(one.name, one.pid) for one in host.find_servers({})]
    assert both == [("llamacpp-8080", 100), ("llamacpp-8080:2", 200)]
    fake.end(100)
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [("llamacpp-8080:2", 200)]
    # A later server does not get a name in use, though it is probed first.
    fake.process(50, "llama-server -m a", sockets=(501,))
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [
        ("llamacpp-8080", 50),
        ("llamacpp-8080:2", 200),
    ]


def test_a_later_server_does_not_get_a_name_in_use(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502, "127.0.0.2")])
    fake.process(200, "llama-server -m b", sockets=(502,))
    host = host_of(fake, Probe(**{url_of(8080): LLAMACPP, url_of(8080, "127.0.0.2"): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["llamacpp-8080"]
    fake.network("host", (), [Tcp(8080, 501, "127.0.0.1"), Tcp(8080, 502, "127.0.0.2")])
    fake.process(100, "llama-server -m a", sockets=(501,))
    host.refresh()
    assert [(one.name, one.pid) for one in host.find_servers({})] == [
        ("llamacpp-8080", 200),
        ("llamacpp-8080:2", 100),
    ]


def test_a_server_is_not_hidden_by_a_configured_one_of_the_same_name(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 501)])
    fake.process(100, "llama-server -m a", sockets=(501,))
    [found] = host_of(fake, Probe(**{url_of(8080): LLAMACPP})).find_servers(
        {}, {"llamacpp-8080": "http://192.0.2.1:8080"}
    )
    assert found.name == "llamacpp-8080:2"


@pytest.mark.parametrize("network", ["host", "pod"])
def test_a_socket_with_ipv6_only_is_probed_over_ipv6(fake: FakeProcFs, network: str):
    """uvicorn and others on ``::`` do not accept IPv4, and procfs does not show that."""
    fake.network(network, ("172.17.0.2", "fd00::2"), [Tcp(30000, 501, "::")])
    fake.process(100, "python3 -m sglang.launch_server --host :: --port 30000", sockets=(501,), network=network)
    four, six = ("127.0.0.1", "[::1]") if network == "host" else ("172.17.0.2", "[fd00::2]")
    refused = SourceError(Reason.UNREACHABLE, "connection refused")
    probe = Probe(**{url_of(30000, four): refused, url_of(30000, six): SGLANG})
    [found] = host_of(fake, probe).find_servers({})
    assert (found.url, probe.probed) == (url_of(30000, six), [url_of(30000, four), url_of(30000, six)])
    # A socket that accepts both is probed once, and one that refuses is not probed over both.
    for result in (SGLANG, SourceError(Reason.LOADING, "503")):
        probe = Probe(**{url_of(30000, four): result})
        host_of(fake, probe).find_servers({})
        assert probe.probed == [url_of(30000, four)]


def test_a_process_after_exec_is_recognised_by_its_new_command_line(fake: FakeProcFs):
    """A wrapper in Python that ends in exec: the same process, named ``python3`` before and after."""
    fake.network("host", (), [Tcp(30000, 501)])
    fake.process(100, "python3 /entrypoint.py", comm="python3", sockets=(501,))
    host = host_of(fake, Probe(**{url_of(30000): SGLANG}))
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
def test_a_server_that_another_one_starts_for_a_model_is_named_after_the_model(
    fake: FakeProcFs, parent: str, argv: str, name: str | None
):
    """Its port changes each time the model is loaded."""
    for at, port in enumerate((45001, 45002)):
        fake.network("host", (), [Tcp(port, 501 + at, "127.0.0.1")])
        fake.process(90, parent)
        fake.process(100 + at, argv.format(port), parent=90, sockets=(501 + at,))
        [found] = host_of(fake, Probe(**{url_of(port): LLAMACPP})).find_servers({})
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
def test_t06_a_model_that_is_read_through_its_router_is_not_discovered_again(
    fake: FakeProcFs, query: str, found: list[str]
):
    fake.network("host", (), [Tcp(8080, 500), Tcp(45001, 501, "127.0.0.1"), Tcp(45002, 502, "127.0.0.1")])
    fake.process(90, "llama-server --port 8080", sockets=(500,))
    fake.process(101, "llama-server --alias smol --port 45001", parent=90, sockets=(501,))
    fake.process(102, "llama-server --alias qwen --port 45002", parent=90, sockets=(502,))
    host = host_of(fake, Probe(**{url_of(45001): LLAMACPP, url_of(45002): LLAMACPP}))
    configured = {"chat": f"{url_of(8080)}/metrics{query}"}
    assert [one.name for one in host.find_servers({}, configured)] == found
    # A server of the same model that is not the router's child is another server.
    fake.network("host", (), [Tcp(8080, 500), Tcp(9000, 503, "127.0.0.1")])
    fake.process(103, "llama-server --alias smol --port 9000", sockets=(503,))
    host = host_of(fake, Probe(**{url_of(9000): LLAMACPP}))
    assert [one.name for one in host.find_servers({}, configured)] == ["llamacpp-9000"]


def test_two_servers_for_one_model_have_different_names(fake: FakeProcFs):
    fake.network("host", (), [Tcp(45001, 501, "127.0.0.1"), Tcp(45002, 502, "127.0.0.1")])
    fake.process(90, "ollama serve")
    for at in (0, 1):
        argv = f"/usr/lib/ollama/llama-server -m /m/smol.gguf --port {45001 + at}"
        fake.process(100 + at, argv, parent=90, sockets=(501 + at,))
    host = host_of(fake, Probe(**{url_of(45001): LLAMACPP, url_of(45002): LLAMACPP}))
    assert [one.name for one in host.find_servers({})] == ["ollama-smol", "ollama-smol:2"]


def test_state_of_stopped_processes_is_dropped(fake: FakeProcFs):
    """A server that is restarted again and again, on another port each time."""
    host = host_of(fake, Probe())
    for at in range(20):
        fake.network("host", (), [Tcp(45000 + at, 500 + at, "127.0.0.1")])
        fake.process(100 + at, "llama-server -m x", sockets=(500 + at,))
        host.refresh()
        host.find_servers({})
        host.server_pids(url_of(45000 + at))
        fake.end(100 + at)
    host.refresh()
    host.find_servers({})
    assert (host._finder._refused, host._trees) == ({}, {})
    assert len(host._sockets._owners) <= 1


def test_a_gateway_is_not_discovered(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "python3 gateway.py --port 8000", sockets=(501,))
    assert host_of(fake, Probe(**{url_of(8000): LITELLM})).find_servers({"GPU-a": {100}}) == []


def test_internal_sockets_of_gpu_processes_are_not_probed(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8080, 502)])
    fake.process(100, "vllm serve m", session=100, sockets=(501,))
    fake.process(101, "VLLM::EngineCore", parent=100, session=100, sockets=(502,))
    probe = Probe(**{url_of(8000): VLLM})
    host_of(fake, probe).find_servers({"GPU-a": {101}})
    assert probe.probed == [url_of(8000)]


def test_workers_are_found_on_the_ports_in_their_environment(fake: FakeProcFs) -> None:
    fake.network("host", (), [Tcp(8081, 501), Tcp(8082, 502), Tcp(40001, 503)])
    for pid, port, inodes in ((100, 8081, (501,)), (200, 8082, (502, 503))):
        environment = {"DYN_SYSTEM_PORT": str(port)}
        fake.process(pid, "python3 -m dynamo.vllm", session=pid, sockets=inodes, environment=environment)
    probe = Probe(**{url_of(8081): VLLM, url_of(8082): VLLM})
    found = host_of(fake, probe).find_servers({"GPU-a": {100}, "GPU-b": {200}})
    assert [server.url for server in found] == [url_of(8081), url_of(8082)]


def test_other_listeners_of_an_engine_are_probed_once_and_a_few(fake: FakeProcFs) -> None:
    ports = [50000 + n for n in range(20)]
    fake.network("host", (), [Tcp(port, port) for port in ports])
    fake.process(100, "vllm serve m", sockets=tuple(ports))
    probe, now = Probe(**{url_of(50003): VLLM}), [0.0]
    host = host_of(fake, probe, now=now)
    [found] = host.find_servers({})
    assert found.url == url_of(50003)
    probe.results.clear()
    fake.end(100)
    fake.process(100, "vllm serve m", sockets=tuple(ports), started=900)
    for at in (3600.0, 7200.0):
        now[0] = at
        host.refresh()
        assert host.find_servers({}) == []
    assert len(probe.probed) <= 2 * 8 + 1
    assert host.problems == ()


def test_tls_is_tried_where_plain_http_ends_at_once(fake: FakeProcFs) -> None:
    fake.network("host", (), [Tcp(8000, 501)])
    fake.process(100, "vllm serve m", sockets=(501,))
    ended = SourceError(Reason.UNREACHABLE, "the connection ended")
    secure = "https://127.0.0.1:8000"
    [found] = host_of(fake, Probe(**{url_of(8000): ended, secure: VLLM})).find_servers({})
    assert (found.name, found.url) == ("vllm-8000", secure)

    host = host_of(fake, Probe(**{url_of(8000): ended, secure: ended}))
    assert host.find_servers({}) == []
    assert host.problems == ("vllm (pid 100) at http://127.0.0.1:8000 is not read: the connection ended",)


def test_an_engine_that_holds_a_gpu_and_listens_nowhere_is_reported(fake: FakeProcFs) -> None:
    fake.network("host", (), [])
    fake.process(100, "VLLM::EngineCore", session=100)
    fake.process(200, "python3 train.py", session=200)
    host = host_of(fake, Probe())
    host.find_servers({"GPU-a": {100}, "GPU-b": {200}})
    [problem] = host.problems
    assert problem.startswith("VLLM::EngineCor (pid 100) holds a GPU and is not read: it has no page here; start vLLM")


def test_a_server_in_a_container_is_named_after_it_and_not_after_its_address(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod", cgroup=f"0::/docker/{'3f2a' * 16}")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901)])
    probe = Probe(**{url_of(8000, "172.17.0.2"): VLLM})
    [found] = host_of(fake, probe).find_servers({})
    assert (found.name, found.url) == ("3f2a3f2a3f2a", "http://172.17.0.2:8000")


def test_a_socket_on_the_loopback_of_a_container_is_reported_as_unreachable(fake: FakeProcFs):
    fake.process(100, "vllm serve m", sockets=(901,), network="pod")
    fake.network("pod", ("172.17.0.2",), [Tcp(8000, 901, "127.0.0.1")])
    probe = Probe()
    host = host_of(fake, probe)
    assert (host.find_servers({}), probe.probed) == ([], [])
    [problem] = host.problems
    assert problem == (
        "vllm (pid 100) listens on 127.0.0.1:8000 of another network namespace, which cannot be reached from here: make it"
        " listen on an address of its container, or run the exporter in that network namespace"
    )


def test_an_engine_without_metrics_is_reported_and_probed_less_and_less_often(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502)])
    fake.process(200, "llama-server -m x", sockets=(502,))
    off = SourceError(Reason.DISABLED, "http://127.0.0.1:8080/metrics: HTTP 501", "start llama-server with --metrics")
    probe, now = Probe(**{url_of(8080): off}), [0.0]
    host = host_of(fake, probe, now=now)
    problem = (
        "llama-server (pid 200) at http://127.0.0.1:8080 is not read: http://127.0.0.1:8080/metrics: HTTP 501;"
        " start llama-server with --metrics"
    )
    probed = []
    for at in (0.0, 15.0, 30.0, 60.0, 90.0, 120.0):
        now[0] = at
        host.refresh()
        host.find_servers({})
        assert host.problems == (problem,)
        probed.append(len(probe.probed))
    assert probed == [1, 1, 2, 2, 3, 3]


def test_an_engine_without_metrics_is_probed_at_least_every_fifteen_minutes(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502)])
    fake.process(200, "llama-server -m x", sockets=(502,))
    probe, now = Probe(**{url_of(8080): SourceError(Reason.DISABLED, "HTTP 501")}), [0.0]
    host = host_of(fake, probe, now=now)
    for minutes in range(0, 24 * 60, 15):
        now[0] = minutes * 60.0
        host.refresh()
        host.find_servers({})
    assert len(probe.probed) == 24 * 4


def test_a_server_that_is_loading_is_probed_at_every_scan(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8080, 502)])
    fake.process(200, "llama-server -m x", sockets=(502,))
    probe, now = Probe(**{url_of(8080): SourceError(Reason.LOADING, "503")}), [0.0]
    host = host_of(fake, probe, now=now)
    host.find_servers({})
    probe.results[url_of(8080)] = LLAMACPP
    now[0] = 15.0
    host.refresh()
    assert [server.name for server in host.find_servers({})] == ["llamacpp-8080"]


def test_without_a_probe_process_names_decide(fake: FakeProcFs):
    fake.network("host", (), [Tcp(8000, 501), Tcp(8002, 502), Tcp(9123, 503)])
    fake.process(100, "vllm serve m", sockets=(501,))
    fake.process(200, "tritonserver", sockets=(502,))
    fake.process(300, "python3 serve_it.py --port 9123", sockets=(503,))
    host = HostProcesses(str(fake.root), dialects=DIALECTS)
    host.refresh()
    assert [server.name for server in host.find_servers({"GPU-a": {300}})] == ["vllm-8000"]


# ------------------------------------------------------------------------------------------------------------ permissions


def test_a_socket_that_several_programs_may_hold_is_reported_once_without_a_count(
    fake: FakeProcFs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ProcFs, "sockets", lambda self, pid: None)
    fake.network("host", (), [Tcp(9999, 501, uid=1000)])
    fake.process(100, "some server", sockets=(501,))
    host = host_of(fake)
    assert (host.listener_pids(url_of(9999)), host.listener_pids(url_of(9999))) == (frozenset(), frozenset())
    problems = host.problems
    [problem] = problems
    assert problem.startswith("port 9999:")
    fake.process(101, "another program")
    host.refresh()
    host.listener_pids(url_of(9999))
    assert host.problems == problems


def test_an_engine_of_another_user_is_found_by_its_user_and_the_port_it_names(
    fake: FakeProcFs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ProcFs, "sockets", lambda self, pid: None)
    monkeypatch.setattr(ProcFs, "owner", lambda self, pid: 1000)
    fake.network("host", (), [Tcp(8001, 501, uid=1000), Tcp(8001, 502, "127.0.0.9", uid=0), Tcp(8002, 503, uid=1000)])
    fake.process(100, "vllm serve m --port 8001", sockets=(501,))
    probe = Probe(**{url_of(8001): VLLM})
    assert [server.name for server in host_of(fake, probe).find_servers({})] == ["vllm-8001"]


def test_a_foreign_pid_namespace_is_distinguished_from_an_idle_gpu(fake: FakeProcFs):
    host = host_of(fake)
    host.find_servers({"GPU-a": {4242}})
    [problem] = host.problems
    assert "hostPID" in problem


def test_a_directory_that_is_not_a_procfs_is_reported(tmp_path: Path):
    host = HostProcesses(str(tmp_path))
    host.refresh()
    [problem] = host.problems
    assert "lists no processes" in problem


# --------------------------------------------------------------------------------------------------------- real procfs


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
        child.wait(60)
    assert (owners, pids) == ({child.pid}, {child.pid})
    assert process is not None
    assert process.pid == child.pid
    assert abs(process.started_wall_seconds - time.time()) < 60.0


def _found_by_the_real_probe(server: PageServer) -> list[FoundServer]:
    """The listener is this test's own process, which discovery never probes: so a child holds the socket."""
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
        child.wait(60)
    return found


def test_a_real_engine_page_is_recognised_by_the_real_probe():
    page = (Path(__file__).parents[2] / "captures" / "servers" / "llamacpp-b11669-start.txt").read_bytes()
    with PageServer(pages({"/metrics": answer(page)})) as server:
        found = _found_by_the_real_probe(server)
    assert [(one.name, one.url, one.engine) for one in found] == [
        (f"llamacpp-{server.port}", f"http://127.0.0.1:{server.port}", "llamacpp")
    ]


def test_a_real_tls_server_is_recognised_by_the_real_probe(tmp_path: Path) -> None:
    certify(tmp_path, "server", "IP:127.0.0.1")
    page = (Path(__file__).parents[2] / "captures" / "servers" / "llamacpp-b11669-start.txt").read_bytes()
    script = pages({"/metrics": answer(page)})
    with PageServer(script, tls=server_context(tmp_path, "server")) as server:
        found = _found_by_the_real_probe(server)
    assert [(one.url, one.engine) for one in found] == [(f"https://127.0.0.1:{server.port}", "llamacpp")]


def test_an_unused_port_has_no_listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    host = HostProcesses(dialects=DIALECTS)
    host.refresh()
    assert host.listener_pids(f"http://127.0.0.1:{port}") == frozenset()


def test_a_replica_has_the_name_that_the_books_have_for_its_process(fake: FakeProcFs, tmp_path: Path):
    """Replicas that started in the same second, with identities from the operating system and from their pages."""
    logs = tmp_path / "pods"
    for pid, port in ((10, 8001), (11, 8002)):
        uid = f"0b5a2f4e-6b1c-4a5e-9c1d-{pid:012d}"
        (logs / f"chat_llama-7d9f8c6b5-{'bcdfghjklm'[pid - 10 :][:5]}_{uid}").mkdir(parents=True)
        cgroup = f"0::/kubepods/pod{uid}/{'a' * 64}"
        fake.process(pid, f"vllm serve m --port {port}", started=100 + pid, sockets=(900 + pid,), cgroup=cgroup)
    fake.network("host", ("10.0.0.1",), [Tcp(8001, 910), Tcp(8002, 911)])
    first, second = (BOOT_SECONDS + (100 + pid) / 100 for pid in (10, 11))
    one, two = "chat/llama", "chat/llama:replica-2"

    def found(known: dict[str, ProcessIdentity]) -> dict[int, str]:
        host = HostProcesses(str(fake.root), dialects=(VLLM,), pod_logs=str(logs))
        host.refresh()
        return {server.pid: server.name for server in host.find_servers({}, known=known)}

    assert found({}) == {10: one, 11: two}
    assert found({two: ProcessIdentity(first, 10), one: ProcessIdentity(second, 11)}) == {10: two, 11: one}
    assert found({two: ProcessIdentity(first), one: ProcessIdentity(second)}) == {10: two, 11: one}
    assert found({two: ProcessIdentity(first + 60.0, 10)}) == {10: one, 11: two}
