"""A server owns its GPUs while it answers, or while a process still holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpw.discovery.ownership import AUTO, NONE, Claim, held_by, occupants, ownership, resolve
from tpw.model import (
    UNKNOWN_WORKLOAD,
    Attribution,
    Die,
    Gpu,
    Instance,
    Occupants,
    Ownership,
    Sharing,
    Workload,
    WorkloadKind,
)

A, B, C = "GPU-aaaa1111", "GPU-aaaa2222", "GPU-cccc3333"
GPUS = (
    Gpu(A, 0, pci_bus_id="00000000:01:00.0"),
    Gpu(B, 1, pci_bus_id="00000000:65:00.0"),
    Gpu(C, 2, pci_bus_id="00000001:65:00.0"),
)
UNHELD: dict[str, frozenset[int] | None] = {A: frozenset(), B: frozenset(), C: frozenset()}


def held(**pids: set[int]) -> dict[str, frozenset[int] | None]:
    return {**UNHELD, **{{"a": A, "b": B, "c": C}[name]: frozenset(holding) for name, holding in pids.items()}}


@pytest.mark.parametrize(
    ("name", "uuid"),
    [
        ("0", A),
        ("2", C),
        (1, B),
        (A, A),
        ("gpu-CCCC3333", C),
        ("GPU-cccc...", C),
        ("GPU-cc", C),
        ("cccc3333", C),
        ("00000000:65:00.0", B),
        ("0000:65:00.0", B),
        ("65:00.0", B),
        ("0001:65:00.0", C),
        ("00000000:01:00.0", A),
    ],
)
def test_a_gpu_is_listed_by_index_uuid_or_bus_id(name: str | int, uuid: str):
    assert resolve([name], GPUS).gpus == frozenset({uuid})


def test_a_gpu_of_the_external_meter_is_listed_by_its_configured_name():
    gpus = [Gpu(uuid=f"EXT-{name}", index=index) for index, name in enumerate(("LPU-1", "LPU-10", "cast"))]
    for name in ("LPU-1", "lpu-1", "EXT-LPU-1"):
        assert resolve([name], gpus).gpus == {"EXT-LPU-1"}
    assert resolve(["lpu"], gpus).gpus == frozenset()
    assert resolve(["EXT-c"], gpus).gpus == {"EXT-cast"}


def test_t27_an_instance_is_listed_by_its_uuid_and_names_its_gpu():
    cut = (replace(GPUS[0], mig_uuids=("MIG-11", "MIG-12")), *GPUS[1:])
    assert resolve(["MIG-12"], cut).gpus == frozenset({A})
    assert resolve(["MIG-1"], cut).gpus == frozenset()


def test_an_unknown_gpu_is_reported_and_the_others_are_found():
    found = resolve(["0", "7"], GPUS)
    assert found.gpus == frozenset({A})
    assert found.problems == (f"GPU 7 is not on this host, which has 0 ({A}), 1 ({B}), 2 ({C})",)


def test_a_prefix_of_two_uuids_is_reported():
    found = resolve(["GPU-aaaa"], GPUS)
    assert (found.gpus, found.problems) == (
        frozenset(),
        (f"GPU GPU-aaaa is ambiguous: {A}, {B}; write more of its UUID",),
    )


def test_a_listed_gpu_on_a_host_without_gpus_is_reported():
    assert resolve(["0"], ()).problems == ("GPU 0 is not on this host, which has none",)


def owns(claim: Claim, *, answering: bool, pids: set[int] | None, holders=UNHELD, foreign: set[int] | None = None):
    return ownership(
        claim, answering=answering, pids=pids, holders=holders, gpus=GPUS, foreign_pids=foreign or frozenset()
    )


def test_listed_gpus_are_owned_while_the_server_answers_whichever_process_holds_them():
    claim = Claim("chat", ("0", "1"), model="m")
    assert owns(claim, answering=True, pids=None) == Ownership(
        "chat", frozenset({A, B}), Attribution.CONFIGURED, held=False, model="m"
    )


def test_a_listed_gpu_that_is_missing_is_not_owned():
    assert owns(Claim("chat", ("0", "9")), answering=True, pids=None).gpus == frozenset({A})


def test_a_server_that_stops_answering_owns_the_gpus_its_processes_hold():
    found = owns(Claim("chat", ("0", "1")), answering=False, pids={7}, holders=held(a={7}, b={9}))
    assert (found.gpus, found.held) == (frozenset({A}), True)


def test_a_listed_server_without_processes_that_does_not_answer_owns_nothing():
    found = owns(Claim("chat", ("0", "1")), answering=False, pids=None)
    assert (found.gpus, found.held) == (frozenset(), False)


def test_a_server_on_another_host_that_does_not_answer_owns_listed_gpus_that_are_held():
    found = owns(Claim("chat", ("0", "1")), answering=False, pids=None, holders=held(a={7}))
    assert (found.gpus, found.held) == (frozenset({A}), True)


def test_a_gpu_held_by_another_server_is_not_held_for_this_one():
    found = owns(Claim("chat", ("0",)), answering=False, pids=None, holders=held(a={7}), foreign={7})
    assert (found.gpus, found.held) == (frozenset(), False)


def test_without_process_lists_a_server_that_does_not_answer_may_still_run() -> None:
    found = owns(Claim("chat", ("0",)), answering=False, pids=None, holders={A: None})
    assert (found.gpus, found.held, found.holders_known) == (frozenset({A}), False, False)


def test_an_empty_list_of_another_pid_namespace_is_no_list() -> None:
    claim = Claim("chat", ("0",))
    found = ownership(claim, answering=False, pids=None, holders=held(a=set()), gpus=GPUS, blind={A})
    assert (found.gpus, found.holders_known) == (frozenset({A}), False)


def test_behind_a_proxy_a_server_is_known_by_the_processes_that_held_its_gpus() -> None:
    claim = Claim("chat", ("0",))
    proxy = {3}
    for holding, gpus in (({7}, {A}), ({9}, set()), (set(), set())):
        found = ownership(
            claim, answering=False, pids=proxy, holders=held(a=holding), gpus=GPUS, held_before=frozenset({7})
        )
        assert (found.gpus, found.holders_known) == (frozenset(gpus), True)


def test_ranks_without_a_url_own_gpus_while_a_process_holds_them():
    claim = Claim("big", ("0", "1"), model="big-model", has_counters=False)
    found = owns(claim, answering=False, pids=None, holders=held(b={3}))
    assert found == Ownership(
        "big", frozenset({B}), Attribution.CONFIGURED, held=True, model="big-model", has_counters=False
    )


def test_ranks_without_a_url_own_gpus_if_the_driver_lists_no_processes():
    claim = Claim("big", ("0",), has_counters=False)
    assert owns(claim, answering=False, pids=None, holders={A: None}).gpus == frozenset({A})


def test_spans_nodes_is_copied_to_the_ownership():
    assert owns(Claim("big", ("0",), spans_nodes=True), answering=True, pids=None).spans_nodes
    assert not owns(Claim("chat", ("0",)), answering=True, pids=None).spans_nodes


def test_auto_owns_the_gpus_its_processes_hold():
    found = owns(Claim("chat", AUTO), answering=True, pids={7, 8}, holders=held(a={7}, b={8, 9}, c={9}))
    assert found == Ownership("chat", frozenset({A, B}), Attribution.PROCESSES, held=True, pids=frozenset({7, 8}))


def test_auto_owns_held_gpus_while_the_server_does_not_answer():
    found = owns(Claim("chat", AUTO), answering=False, pids={7}, holders=held(a={7}))
    assert (found.gpus, found.held) == (frozenset({A}), True)


@pytest.mark.parametrize("pids", [None, set()])
def test_auto_owns_nothing_if_the_processes_are_unknown(pids: set[int] | None):
    found = owns(Claim("chat", AUTO), answering=True, pids=pids, holders=held(a={7}))
    assert found == Ownership("chat", frozenset(), Attribution.NONE, held=False)


def test_none_owns_nothing_even_if_gpus_are_held():
    found = owns(Claim("gateway", NONE), answering=True, pids={7}, holders=held(a={7}))
    assert found == Ownership("gateway", frozenset(), Attribution.NONE, held=False)


def test_a_gpu_may_have_several_owners():
    assert held_by({1}, held(a={1, 2})) == held_by({2}, held(a={1, 2})) == frozenset({A})


MIG = {
    A: Sharing(
        frozenset({7, 8, 9}),
        instances=(
            Instance("MIG-1111", "1g.10gb", 1, frozenset({7})),
            Instance("MIG-2222", "3g.40gb", 3, frozenset({8, 9})),
            Instance("MIG-2233", "3g.40gb", 3),
        ),
        slices=7,
    )
}


def on_instances(claim: Claim, *, answering: bool = True, pids: set[int] | None = None) -> Ownership:
    return ownership(claim, answering=answering, pids=pids, holders=held(a={7, 8, 9}), gpus=GPUS, sharing=MIG)


def test_a_listed_instance_is_owned_and_with_it_its_gpu():
    found = on_instances(Claim("chat", ("MIG-1111", "1")))
    assert (found.gpus, found.instances) == (frozenset({A, B}), frozenset({"MIG-1111"}))


def test_a_listed_instance_is_held_by_its_own_processes_only():
    assert on_instances(Claim("chat", ("mig-2222",)), answering=False, pids={7}).gpus == frozenset()
    assert on_instances(Claim("chat", ("mig-2222",)), answering=False, pids={9}).gpus == frozenset({A})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "MIG-9",
            f"GPU MIG-9 is not on this host, which has 0 ({A}), 1 ({B}), 2 ({C}), MIG-1111, MIG-2222, MIG-2233",
        ),
        ("MIG-22", "instance MIG-22 is ambiguous: MIG-2222, MIG-2233; write more of its UUID"),
    ],
)
def test_an_ambiguous_or_unknown_instance_is_reported(name: str, problem: str):
    found = resolve([name], GPUS, MIG)
    assert (found.gpus, found.instances, found.problems) == (frozenset(), frozenset(), (problem,))


def test_auto_owns_the_instances_its_processes_use():
    assert on_instances(Claim("chat", AUTO), pids={8}).instances == frozenset({"MIG-2222"})


def test_a_partitioned_gpu_listed_as_a_whole_is_narrowed_to_the_instances_in_use():
    assert on_instances(Claim("chat", ("0",)), pids={7}).instances == frozenset({"MIG-1111"})
    assert on_instances(Claim("chat", ("0",)), pids=None).instances == frozenset()


def test_processes_of_no_server_occupy_a_gpu():
    holders = held(a={7, 8, 9}, b=set())
    server = ownership(Claim("chat", AUTO), answering=True, pids={7}, holders=holders, gpus=GPUS)
    job = Workload(WorkloadKind.SLURM, "12")
    sharing = {A: Sharing(frozenset({7, 8, 9}), memory_bytes={7: 1.0, 8: 2.0, 9: 3.0})}
    found = occupants(GPUS, {"chat": server}, holders, {C}, {7: job, 8: job}, sharing)
    assert found[A] == Occupants({8: job, 9: UNKNOWN_WORKLOAD}, memory_bytes={7: 1.0, 8: 2.0, 9: 3.0})
    assert found[B] == Occupants()
    assert found[C] == Occupants(is_known=False)


def test_nobody_else_is_assumed_on_the_gpu_of_a_server_with_unknown_processes():
    server = ownership(Claim("chat", ("0",)), answering=True, pids=None, holders=held(a={7}), gpus=GPUS)
    assert occupants(GPUS[:1], {"chat": server}, held(a={7}), (), {}) == {A: Occupants()}


def test_processes_are_on_their_instances():
    found = occupants(GPUS[:1], {}, held(a={7, 8, 9}), (), {}, MIG)
    assert found[A].instances == {7: "MIG-1111", 8: "MIG-2222", 9: "MIG-2222"}


@pytest.mark.parametrize("name", [1, "AMD-d1e1", "0000:c1:00.0", 0, "AMD-d1e0", "c0:00.0"])
def test_a_gpu_is_listed_by_any_of_its_dies(name: str | int) -> None:
    gpu = Gpu("AMD-d1e0", 0, pci_bus_id="0000:c0:00.0", dies=(Die("AMD-d1e1", 1, "0000:c1:00.0"),))
    other = Gpu("AMD-d1e2", 2, pci_bus_id="0000:c2:00.0")

    assert resolve((name,), (gpu, other)).gpus == frozenset({"AMD-d1e0"})
