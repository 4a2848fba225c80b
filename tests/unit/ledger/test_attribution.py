"""Who shares a GPU's time and energy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.ledger.attribution import (
    LEAST_USE,
    LEAST_WORK,
    PREFILL_WEIGHT,
    Activity,
    Evidence,
    activity,
    divide,
)
from tpw.ledger.books import Division, PostingKey, ServerAccount
from tpw.model import (
    STARTING_SECONDS,
    UNKNOWN_WORKLOAD,
    Attribution,
    Cadence,
    GpuSample,
    Load,
    Occupants,
    Ownership,
    Part,
    Reason,
    SplitMethod,
    State,
    TokenKind,
    Workload,
    WorkloadKind,
)

G = "GPU-0"
SLICES = SplitMethod.SLICES
JOB = Workload(WorkloadKind.SLURM, "12")
NOTEBOOK = Workload(WorkloadKind.SYSTEMD, "jupyter.service")
PIDS = {"a": 1, "b": 2, "job": 11, "notebook": 12}
WORKLOADS = {"job": JOB, "notebook": NOTEBOOK}


def owner(name: str, instances: tuple[str, ...] = ()) -> Ownership:
    pids = frozenset({PIDS[name]})
    return Ownership(name, frozenset({G}), Attribution.CONFIGURED, pids=pids, instances=frozenset(instances))


def doing(*, active: bool | None, work: float | None = None, requests: float | None = None) -> Activity:
    return Activity(owns=True, active=active, models=(("m", 1.0),), work=work, requests=requests)


def divided(
    *owners: tuple[Ownership, bool | Activity | None],
    parts: tuple[Part, ...] = (),
    busy: float | None = 0.5,
    watts: float | None = None,
    no_load: float | None = None,
    use: Mapping[str, float] | None = None,
    others: tuple[str, ...] = (),
    memory: Mapping[str, float] | None = None,
    known: bool = True,
    on: Mapping[str, str] | None = None,
) -> Division:
    """The division of one GPU among owners, each with whether it worked, and other workloads."""
    activities = {
        one.server: done if isinstance(done, Activity) else doing(active=done, work=1.0) for one, done in owners
    }
    sample = GpuSample(
        G, 0.0, power_watts=watts, utilization_ratio=busy,
        process_use=None if use is None else {PIDS.get(name, 99): value for name, value in use.items()},
    )  # fmt: skip
    occupants = Occupants(
        {PIDS[name]: WORKLOADS[name] for name in others},
        known,
        {PIDS[name]: held for name, held in (memory or {}).items()},
        {PIDS[name]: instance for name, instance in (on or {}).items()},
    )
    return divide(G, {one.server: one for one, _ in owners}, activities, Evidence(sample, occupants, no_load, parts))


def split(division: Division) -> dict[str, tuple[float, State]]:
    """Share and state by server, or by name of the workload."""
    assert math.isclose(math.fsum(weight for _, weight in division.shares), 1.0)
    return {
        key.server or (key.workload.name if key.workload else ""): (pytest.approx(weight), key.state)
        for key, weight in division.shares
    }


def test_nobody_there_is_idle() -> None:
    assert divided() == Division(((PostingKey(G, "", "", State.IDLE), 1.0),), None)


def test_one_owner_has_it_all() -> None:
    division = divided((owner("a"), True), use={"a": 0.03})

    assert (split(division), division.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)


def test_servers_that_work_share_by_what_their_processes_used() -> None:
    division = divided((owner("a"), True), (owner("b"), True), use={"a": 0.6, "b": 0.2})

    assert division.method is SplitMethod.SM
    assert split(division) == {"a": (0.75, State.ACTIVE), "b": (0.25, State.ACTIVE)}
    ratios = [division.ratio(name) for name in ("a", "b", "c")]
    assert ratios == pytest.approx([0.75, 0.25, 0.0])


def test_a_server_that_worked_below_the_driver_s_step_has_a_share() -> None:
    division = divided((owner("a"), True), (owner("b"), True), use={"a": 0.5})

    assert split(division)["b"] == (LEAST_USE / (0.5 + LEAST_USE), State.ACTIVE)


def test_without_use_by_process_servers_share_by_tokens() -> None:
    a, b = doing(active=True, work=2000.0, requests=3.0), doing(active=True, work=1.0, requests=1.0)
    division = divided((owner("a"), a), (owner("b"), b))

    assert division.method is SplitMethod.TOKENS
    assert split(division) == {"a": (2000 / 2001, State.ACTIVE), "b": (1 / 2001, State.ACTIVE)}


def test_a_working_server_without_counted_tokens_makes_running_requests_the_measure() -> None:
    a, b = doing(active=True, work=2000.0, requests=3.0), doing(active=True, requests=1.0)
    division = divided((owner("a"), a), (owner("b"), b))

    assert (split(division)["a"][0], division.method) == (0.75, SplitMethod.REQUESTS)


def test_with_nothing_better_memory_decides_and_then_nothing() -> None:
    both = (owner("a"), doing(active=True)), (owner("b"), doing(active=True))
    division = divided(*both, memory={"a": 30.0, "b": 10.0})
    assert (split(division)["a"][0], division.method) == (0.75, SplitMethod.MEMORY)

    division = divided(*both, memory={"a": 30.0})
    assert (split(division)["a"][0], division.method) == (0.5, SplitMethod.EVEN)


def test_a_parked_server_beside_a_working_one_shares_the_no_load_power_alone() -> None:
    both = (owner("a"), True), (owner("b"), False)
    division = divided(*both, watts=400.0)
    assert (split(division), division.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)

    division = divided(*both, watts=400.0, no_load=100.0)
    assert split(division) == {"a": (0.875, State.ACTIVE), "b": (0.125, State.PARKED)}

    division = divided(*both, watts=400.0, no_load=100.0, memory={"a": 60.0, "b": 20.0})
    assert split(division)["b"] == (0.0625, State.PARKED)


def test_where_none_works_all_are_parked_on_it() -> None:
    division = divided((owner("a"), False), (owner("b"), False), busy=0.0)

    assert split(division) == {"a": (0.5, State.PARKED), "b": (0.5, State.PARKED)}


# ------------------------------------------------------------------------------------------------------- other workloads


def test_a_job_alone_is_other_and_named() -> None:
    for use in (None, {"job": 0.97}):
        division = divided(others=("job",), use=use, busy=0.97)
        assert (split(division), division.method) == ({"12": (1.0, State.OTHER)}, SplitMethod.SOLE)


def test_a_silent_server_beside_a_job_pays_for_nothing_but_its_memory() -> None:
    division = divided(
        (owner("a"), False), others=("job",), use={"job": 0.95}, watts=600.0, no_load=60.0, memory={"a": 70.0, "job": 10.0}
    )  # fmt: skip
    assert split(division) == {"a": (0.1 * 0.875, State.PARKED), "12": (0.9 + 0.1 * 0.125, State.OTHER)}


def test_a_server_beside_a_job_that_computes_is_not_sole() -> None:
    division = divided((owner("a"), True), others=("job",), use={"a": 0.05, "job": 0.9})
    assert division.method is SplitMethod.SM
    assert split(division) == {"a": (5 / 95, State.ACTIVE), "12": (90 / 95, State.OTHER)}

    assert divided((owner("a"), True), others=("job",), memory={"a": 1.0, "job": 3.0}).method is SplitMethod.MEMORY
    assert divided((owner("a"), True), others=("job",), use={"a": 0.9}).method is SplitMethod.SOLE


def test_a_process_that_the_list_of_processes_lacks_is_unknown_and_not_the_server_s() -> None:
    division = divided((owner("a"), True), use={"a": 0.25, "x": 0.75})
    assert split(division) == {"a": (0.25, State.ACTIVE), "unknown": (0.75, State.OTHER)}


def test_processes_are_the_server_s_where_its_own_are_unknown() -> None:
    unseen = Ownership("a", frozenset({G}), Attribution.CONFIGURED)
    division = divided((unseen, True), use={"x": 0.75})
    assert (split(division), division.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)


@pytest.mark.parametrize(
    ("watts", "no_load", "state"),
    [
        (70.0, 60.0, State.IDLE),
        (120.0, 60.0, State.OTHER),
        (120.0, None, State.IDLE),
        (None, 60.0, State.IDLE),
    ],
)
def test_a_notebook_that_computes_nothing_is_idle_unless_it_draws_power(
    watts: float | None, no_load: float | None, state: State
) -> None:
    for use in (None, {}):
        division = divided(others=("notebook",), use=use, busy=0.0, watts=watts, no_load=no_load)
        assert split(division) == {"jupyter.service" if state is State.OTHER else "": (1.0, state)}


def test_a_gpu_that_nobody_holds_is_idle_whatever_its_utilization() -> None:
    """A killed process may leave the counter of utilization at 100 % (Blackwell)."""
    assert split(divided(busy=1.0)) == {"": (1.0, State.IDLE)}


@pytest.mark.parametrize(
    ("busy", "watts", "state"),
    [
        (0.5, None, State.OTHER),
        (0.0, None, State.IDLE),
        (None, 300.0, State.OTHER),
        (None, 60.0, State.IDLE),
        (None, None, State.OTHER),
    ],
)
def test_with_hidden_processes_idle_needs_evidence(busy: float | None, watts: float | None, state: State) -> None:
    division = divided(known=False, busy=busy, watts=watts, no_load=60.0)
    assert [(key.state, key.workload) for key, _ in division.shares] == [
        (state, UNKNOWN_WORKLOAD if state is State.OTHER else None)
    ]


# ------------------------------------------------------------------------------------------------------------ starting


def started(
    *, engine: str = "", read: float | None = None, started: float | None = 100.0, fault: Reason | None = None,
    now: float = 200.0, held: bool = True,
) -> Activity:  # fmt: skip
    account = ServerAccount("a", engine=engine, read_wall_seconds=read, since_wall_seconds=100.0)
    owns = Ownership("a", frozenset({G}), Attribution.PROCESSES, held=held, started_wall_seconds=started)
    return activity(account, owns, None, moved=False, fault=fault, now_wall_seconds=now)


def test_a_server_with_a_process_that_was_never_ready_is_starting() -> None:
    assert started().is_starting
    assert started(started=None).is_starting
    assert started(engine="vllm", read=50.0).is_starting  # it restarted after it was read
    assert started(engine="vllm", read=150.0, fault=Reason.LOADING).is_starting


def test_an_outage_is_no_start() -> None:
    assert not started(engine="vllm", read=150.0).is_starting
    assert not started(engine="vllm", read=150.0, fault=Reason.TIMEOUT).is_starting
    assert not started(engine="vllm", read=None).is_starting  # read before the exporter restarted
    assert not started(now=100.0 + STARTING_SECONDS + 1.0).is_starting
    assert not started(held=False).owns


def test_a_starting_server_has_its_gpu_in_that_state() -> None:
    loads = Activity(owns=True, active=None, models=(("m", 1.0),), is_starting=True)
    for busy in (0.0, 0.4):
        assert split(divided((owner("a"), loads), busy=busy)) == {"a": (1.0, State.STARTING)}


# ---------------------------------------------------------------------------------------------------------------- work


def work(risen: Mapping[TokenKind, float] | None, seconds: float | None, *, running: float = 1.0,
         cadence: Cadence = Cadence.STEP) -> float | None:  # fmt: skip
    account = ServerAccount("a", up=True, cadence=cadence, loads=(Load("m", running, 0.0),))
    by_model = None if risen is None else {("m", kind): rise for kind, rise in risen.items()}
    return activity(account, owner("a"), by_model, moved=bool(risen), seconds=seconds).work


def test_prompt_tokens_count_less_and_cached_ones_nothing() -> None:
    risen = {TokenKind.OUTPUT: 10.0, TokenKind.INPUT: 100.0, TokenKind.CACHED_INPUT: 1000.0}
    assert work(risen, 2.0) == pytest.approx((10.0 + 100.0 * PREFILL_WEIGHT) / 2.0 + LEAST_WORK)


def test_a_running_request_works_before_its_tokens_are_counted() -> None:
    assert work({}, 1.0, running=3.0) == 3.0 * LEAST_WORK


def test_work_is_unknown_where_tokens_are_not_counted_in_the_interval() -> None:
    assert work(None, 1.0) is None
    assert work({TokenKind.OUTPUT: 10.0}, None) is None
    assert work({TokenKind.OUTPUT: 10.0}, 1.0, cadence=Cadence.FINISH) is None


@given(
    st.lists(st.tuples(st.sampled_from([True, False, None]), st.none() | st.floats(0.0, 1e4)), max_size=2),
    st.lists(st.sampled_from(["job", "notebook"]), unique=True),
    st.none() | st.dictionaries(st.sampled_from(["a", "b", "job", "notebook", "x"]), st.floats(0.01, 1.0)),
    st.none() | st.floats(0.0, 1.0),
    st.none() | st.floats(1.0, 700.0),
    st.none() | st.floats(1.0, 200.0),
    st.dictionaries(st.sampled_from(["a", "b", "job", "notebook"]), st.floats(1.0, 80.0)),
    st.booleans(),
)
def test_shares_sum_to_one_and_who_works_has_one(
    servers: list[tuple[bool | None, float | None]],
    others: list[str],
    use: dict[str, float] | None,
    busy: float | None,
    watts: float | None,
    no_load: float | None,
    memory: dict[str, float],
    known: bool,
) -> None:
    owners = [
        (owner(name), doing(active=active, work=work)) for name, (active, work) in zip("ab", servers, strict=False)
    ]
    division = divided(
        *owners, others=tuple(others), use=use, busy=busy, watts=watts, no_load=no_load, memory=memory, known=known
    )
    assert math.isclose(math.fsum(weight for _, weight in division.shares), 1.0)
    assert all(weight >= 0.0 for _, weight in division.shares)
    for one, done in owners:
        if done.active:
            assert division.ratio(one.server) > 0.0
    computing = [key for key, _ in division.shares if key.state in (State.ACTIVE, State.OTHER)]
    if division.method is SplitMethod.SOLE:
        assert len({(key.server, key.workload) for key in computing}) <= 1


# ----------------------------------------------------------------------------------------------------------------- MIG


PARTS = (Part("MIG-a", "1g", 1 / 7, SLICES), Part("MIG-b", "3g", 3 / 7, SLICES))


def test_a_parked_server_keeps_its_own_instance_and_the_rest_is_idle() -> None:
    division = divided((owner("a", instances=("MIG-a",)), True), (owner("b", instances=("MIG-b",)), False), parts=PARTS)

    assert division.method is SLICES
    assert split(division) == {
        "a": (pytest.approx(1 / 7), State.ACTIVE),
        "b": (pytest.approx(3 / 7), State.PARKED),
        "": (pytest.approx(3 / 7), State.IDLE),
    }


def test_an_instance_that_nobody_owns_is_idle() -> None:
    assert split(divided((owner("a", instances=("MIG-a",)), True), parts=PARTS)) == {
        "a": (pytest.approx(1 / 7), State.ACTIVE),
        "": (pytest.approx(6 / 7), State.IDLE),
    }


def test_two_servers_on_one_instance_share_it() -> None:
    both = ("MIG-b",)
    division = divided((owner("a", instances=both), True), (owner("b", instances=both), True), parts=PARTS)

    assert split(division)["a"] == split(division)["b"] == (pytest.approx(1.5 / 7), State.ACTIVE)


def test_a_server_on_two_instances_has_both() -> None:
    division = divided((owner("a", instances=("MIG-a", "MIG-b")), True), parts=PARTS)

    assert split(division)["a"] == (pytest.approx(4 / 7), State.ACTIVE)


def test_whoever_owns_a_partitioned_gpu_as_a_whole_has_what_nobody_else_is_on() -> None:
    whole = divided((owner("a"), True), parts=PARTS)
    assert (split(whole), whole.method) == ({"a": (1.0, State.ACTIVE)}, SplitMethod.SOLE)

    beside = divided((owner("a"), True), (owner("b", instances=("MIG-b",)), True), parts=PARTS)
    assert split(beside) == {
        "a": (pytest.approx(1 - 1.5 / 7), State.ACTIVE),
        "b": (pytest.approx(1.5 / 7), State.ACTIVE),
    }


def test_a_job_on_an_instance_has_its_part() -> None:
    division = divided(
        (owner("a", instances=("MIG-a",)), True), others=("job",), on={"a": "MIG-a", "job": "MIG-b"}, parts=PARTS
    )
    assert split(division) == {
        "a": (1 / 7, State.ACTIVE),
        "12": (3 / 7, State.OTHER),
        "": (3 / 7, State.IDLE),
    }


@pytest.mark.parametrize(("busy", "state"), [(True, State.ACTIVE), (False, State.PARKED), (None, State.ACTIVE)])
def test_ranks_without_counters_work_while_their_instance_is_busy(busy: bool | None, state: State) -> None:
    part = Part("MIG-a", "1g", 1.0, SplitMethod.GPM, busy)

    assert split(divided((owner("a", instances=("MIG-a",)), None), parts=(part,))) == {"a": (1.0, state)}
