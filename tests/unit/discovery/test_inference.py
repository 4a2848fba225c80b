"""Which process holds a socket where its open files cannot be read."""

from __future__ import annotations

import ipaddress

import pytest

from tpw.discovery.inference import likely_holders
from tpw.discovery.procfs import Listener, Process
from tpw.discovery.workload import Cgroup
from tpw.tokens.engines import DIALECTS

POD = "0b5a2f4e-6b1c-4a5e-9c1d-2f7e8a9b0c1d"


def process(pid: int, argv: str, parent: int = 1) -> Process:
    words = tuple(argv.split())
    return Process(pid, parent, pid, 100, words[0].rpartition("/")[2][:15], words)


def holders(
    port: int,
    *candidates: Process,
    uid: int = 0,
    users: dict[int, int] | None = None,
    groups: dict[int, Cgroup] | None = None,
) -> tuple[int, ...]:
    listener = Listener(ipaddress.ip_address("0.0.0.0"), port, 501, uid)
    return likely_holders(
        listener,
        candidates,
        DIALECTS,
        lambda pid: (users or {}).get(pid, 0),
        lambda pid: (groups or {}).get(pid, Cgroup()),
    )


def test_the_program_that_names_the_port_holds_the_socket():
    others = (process(1, "/sbin/init"), process(10, "postgres"))
    assert holders(8000, *others, process(20, "python3 s.py --port 8000")) == (20,)


def test_an_engine_that_names_the_port_comes_before_a_client_that_does():
    engine, client = process(10, "vllm serve m --port 8000"), process(20, "bench --url http://localhost:8000")
    assert holders(8000, client, engine) == (10,)


def test_children_that_inherit_the_command_line_are_not_named():
    assert holders(8000, process(10, "vllm serve m --port 8000"), process(11, "vllm serve m --port 8000", 10)) == (10,)


def test_a_wrapper_with_the_servers_command_line_does_not_hold_its_socket():
    assert holders(8000, process(10, "tini -- vllm serve --port 8000"), process(11, "vllm serve --port 8000", 10)) == (
        11,
    )


def test_the_user_of_the_socket_decides_between_programs():
    one, other = process(10, "vllm serve m --port 8000"), process(20, "vllm serve m --port 8000")
    assert holders(8000, one, other, uid=1000, users={20: 1000}) == (20,)


def test_an_engine_without_a_port_holds_its_usual_port_alone():
    engine = process(10, "vllm serve m")
    assert holders(8000, engine, process(20, "postgres")) == (10,)
    assert holders(22, engine, process(20, "sshd")) == ()
    assert holders(8000, engine, process(20, "vllm serve n")) == ()


def test_dockers_proxy_holds_the_port_of_the_host_and_not_that_of_the_container():
    proxy = process(10, "/usr/bin/docker-proxy -proto tcp -host-port 8080 -container-ip 172.17.0.2 -container-port 80")
    assert (holders(8080, proxy), holders(80, proxy)) == ((10,), ())


def test_in_a_container_the_only_engine_holds_whatever_port_there_is():
    group = Cgroup(pod=POD, container="a" * 64)
    shell, engine = process(10, "bash start.sh"), process(11, "vllm serve m", 10)
    assert holders(9000, shell, engine, groups={10: group, 11: group}) == (11,)
    assert holders(9000, shell, engine) == ()


@pytest.mark.parametrize("second", ["a" * 64, "b" * 64])
def test_without_an_engine_its_container_or_pod_holds_it(second: str):
    groups = {10: Cgroup(pod=POD, container="a" * 64), 11: Cgroup(pod=POD, container=second)}
    assert holders(9000, process(10, "python3 serve.py"), process(11, "envoy"), groups=groups) == (10, 11)


def test_programs_of_two_pods_or_of_the_host_are_not_confused():
    groups = {10: Cgroup(pod=POD), 11: Cgroup(pod=POD.replace("0b5a", "1111"))}
    two = (process(10, "python3 serve.py"), process(11, "envoy"))
    assert holders(9000, *two, groups=groups) == ()
    assert holders(9000, *two, groups={10: groups[10]}) == ()
