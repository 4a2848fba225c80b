"""From a server's tree to its container and its pod."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tpw.discovery.widening import widened
from tpw.discovery.workload import Cgroup

A, B = Cgroup(pod="p", container="a"), Cgroup(pod="p", container="b")
OTHER = Cgroup(pod="q", container="c")


def pids(servers: dict[str, set[int]], holding: set[int], groups: dict[int, Cgroup], detached: set[int] = frozenset()):  # type: ignore[assignment]
    given = {name: frozenset(own) for name, own in servers.items()}
    return widened(given, {"GPU-a": holding}, lambda pid: groups.get(pid, Cgroup()), lambda pid: pid in detached)


def test_a_server_without_a_gpu_has_the_gpu_processes_of_its_container():
    assert pids({"s": {10}}, {20, 30}, {10: A, 20: A, 30: OTHER}) == {"s": {10, 20}}


def test_a_sidecar_that_is_read_has_the_gpu_processes_of_its_pod():
    assert pids({"s": {10}}, {20, 30}, {10: B, 20: A, 30: OTHER}) == {"s": {10, 20}}


def test_a_job_beside_a_server_with_a_gpu_is_not_its_own():
    assert pids({"s": {10}}, {10, 20}, {10: A, 20: A}) == {"s": {10}}


def test_workers_of_ray_beside_a_server_with_a_gpu_are_its_own():
    assert pids({"s": {10}}, {10, 20, 30}, {10: A, 20: A, 30: A}, {20}) == {"s": {10, 20}}


def test_what_several_servers_of_a_container_may_own_belongs_to_none():
    assert pids({"s": {10}, "t": {11}}, {20}, {10: A, 11: A, 20: A}) == {"s": {10}, "t": {11}}


def test_several_containers_of_a_pod_keep_their_own():
    assert pids({"s": {10}, "t": {11}}, {20, 21}, {10: A, 20: A, 11: B, 21: B}) == {"s": {10, 20}, "t": {11, 21}}


def test_processes_outside_of_containers_stay_with_their_trees():
    assert pids({"s": {10}}, {20}, {}) == {"s": {10}}


@given(
    st.dictionaries(st.sampled_from("stu"), st.sets(st.integers(1, 9), max_size=3)),
    st.sets(st.integers(1, 9)),
    st.dictionaries(st.integers(1, 9), st.sampled_from([A, B, OTHER])),
)
def test_no_process_becomes_that_of_two_servers(
    servers: dict[str, set[int]], holding: set[int], groups: dict[int, Cgroup]
):
    before = [pid for own in servers.values() for pid in own]
    after = [pid for own in pids(servers, holding, groups).values() for pid in own or ()]
    assert all(after.count(pid) == max(1, before.count(pid)) for pid in after)
