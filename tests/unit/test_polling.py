from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from tpw.model import (
    AcceleratorReading,
    Cadence,
    EnergyMethod,
    Gpu,
    GpuSample,
    HostReading,
    HostSample,
    Reason,
    ServerFault,
    ServerReading,
    Sharing,
    SourceError,
)
from tpw.polling import AcceleratorPoller, HostPoller, SourceHealth, TokenPoller
from tpw.polling.round import Effort, Round, Spread
from tpw.polling.state import Event, State
from tpw.power import MeterLost


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


def events(logs: list[Any]) -> list[str]:
    """What happened to sources and GPUs, without the GPUs that were found at the start."""
    return [entry["event"] for entry in logs if entry["event"] != "gpu_found"]


# -------------------------------------------------------------------------------------------------------------- meters


class Gate:
    """Makes calls hang until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        assert self._open.wait(20), "the test never opened the gate"

    def open(self) -> None:
        self._open.set()


class Meter:
    """An accelerator meter that a test controls."""

    name = "fake"

    def __init__(self, count: int = 3, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gpus = tuple(Gpu(uuid=f"GPU-{index}", index=index) for index in range(count))
        self.faults: dict[str, Exception] = {}
        self.hangs: dict[str, Gate] = {}
        self.open_faults: list[Exception] = []
        self.sweep_faults: list[Exception] = []
        self.sweep_gate: Gate | None = None
        self.pids: dict[str, frozenset[int] | None] = {}
        self.calls: list[str] = []
        self.calls_for_gpus: list[str] = []
        self.in_call: dict[str, int] = {}
        self.most_in_call = 0
        self.threads: set[int] = set()
        self.slow_seconds = 0.0
        self.together: threading.Barrier | None = None
        """Calls wait until so many are in the driver."""
        self.reads_in_parallel = False
        self._lock = threading.Lock()

    def open(self) -> None:
        self.calls.append("open")
        if self.open_faults:
            raise self.open_faults.pop(0)

    def sweep(self) -> None:
        if self.sweep_gate is not None:
            self.sweep_gate.pass_through()
        if self.sweep_faults:
            raise self.sweep_faults.pop(0)

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus

    def _enter(self, uuid: str) -> None:
        with self._lock:
            self.threads.add(threading.get_ident())
            self.in_call[uuid] = self.in_call.get(uuid, 0) + 1
            self.most_in_call = max(self.most_in_call, self.in_call[uuid])

    def _leave(self, uuid: str) -> None:
        with self._lock:
            self.in_call[uuid] -= 1

    def read(self, uuid: str) -> GpuSample:
        self._enter(uuid)
        self.calls_for_gpus.append(f"read {uuid}")
        try:
            time.sleep(self.slow_seconds)
            if self.together is not None:
                self.together.wait()
            if gate := self.hangs.get(uuid):
                gate.pass_through()
            if fault := self.faults.get(uuid):
                raise fault
            return GpuSample(uuid=uuid, at_seconds=self._clock(), energy_joules=1.0)
        finally:
            self._leave(uuid)

    def sharing(self, uuid: str) -> Sharing:
        self._enter(uuid)
        try:
            if gate := self.hangs.get(f"holders {uuid}"):
                gate.pass_through()
            return Sharing(self.pids.get(uuid, frozenset()))
        finally:
            self._leave(uuid)

    def close(self) -> None:
        self.calls.append("close")


def read_once(poller: AcceleratorPoller, seconds: float = 10.0) -> AcceleratorReading:
    poller.begin()
    return poller.finish(time.monotonic() + seconds)


def read_until(poller: AcceleratorPoller, expected: dict[str, Reason]) -> AcceleratorReading:
    """Read until these GPUs are faults, and no others."""
    deadline = time.monotonic() + 60
    while faulted(reading := read_once(poller)) != expected:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return reading


def sampled(reading: AcceleratorReading) -> set[str]:
    return {sample.uuid for sample in reading.samples}


def faulted(reading: AcceleratorReading) -> dict[str, Reason]:
    return {fault.uuid: fault.reason for fault in reading.faults}


@pytest.fixture
def closing() -> Iterator[list[AcceleratorPoller]]:
    pollers: list[AcceleratorPoller] = []
    yield pollers
    for poller in pollers:
        poller.close(time.monotonic() + 5)


# -------------------------------------------------------------------------------------------------------- accelerators


def test_a_read_covers_every_gpu(closing: list[AcceleratorPoller]) -> None:
    poller = AcceleratorPoller(Meter(3))
    closing.append(poller)

    reading = read_once(poller)

    assert sampled(reading) == {"GPU-0", "GPU-1", "GPU-2"}
    assert faulted(reading) == {}
    assert [gpu.index for gpu in reading.gpus] == [0, 1, 2]
    assert poller.health.status().up


def test_a_failed_gpu_does_not_affect_the_others(closing: list[AcceleratorPoller], logs: list[Any]) -> None:
    meter = Meter(3)
    meter.faults["GPU-1"] = SourceError(Reason.LOST, "the GPU is lost", "check the log")
    poller = AcceleratorPoller(meter)
    closing.append(poller)

    readings = [read_once(poller) for _ in range(3)]
    meter.faults.clear()
    readings.append(read_once(poller))

    assert [sampled(reading) for reading in readings] == [{"GPU-0", "GPU-2"}] * 3 + [{"GPU-0", "GPU-1", "GPU-2"}]
    assert [faulted(reading) for reading in readings] == [{"GPU-1": Reason.LOST}] * 3 + [{}]
    assert poller.health.status().failures == (("lost", 3),)
    assert poller.health.status().up
    assert events(logs) == ["gpu_down", "source_up", "gpu_up"]


def test_gpus_are_logged_once_and_again_when_their_method_changes(
    closing: list[AcceleratorPoller], logs: list[Any]
) -> None:
    meter = Meter(2)
    poller = AcceleratorPoller(meter)
    closing.append(poller)
    for _ in range(3):
        read_once(poller)
    worse = replace(meter._gpus[1], energy_method=EnergyMethod.INSTANT_POWER, method_note="no counter")
    meter._gpus = (meter._gpus[0], worse)
    for _ in range(3):
        read_once(poller)

    logged = [(entry["event"], entry["gpu"]) for entry in logs if "energy_method" in entry]
    assert logged == [("gpu_found", 0), ("gpu_found", 1), ("gpu_method_changed", 1)]


def test_a_bug_in_a_meter_is_a_failure_of_that_gpu(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    meter.faults["GPU-0"] = ZeroDivisionError("oh")
    poller = AcceleratorPoller(meter)
    closing.append(poller)

    reading = read_once(poller)

    assert (sampled(reading), faulted(reading)) == ({"GPU-1"}, {"GPU-0": Reason.INTERNAL})


def test_a_gpu_that_hangs_is_set_aside_and_the_others_are_read_in_the_same_tick(
    closing: list[AcceleratorPoller],
) -> None:
    meter = Meter(4)
    gate = meter.hangs["GPU-1"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=0.05)
    closing.append(poller)

    first = read_once(poller)
    read_until(poller, {"GPU-1": Reason.TIMEOUT})
    later = [read_once(poller) for _ in range(3)]

    assert (sampled(first), faulted(first)) == ({"GPU-0", "GPU-2", "GPU-3"}, {}), "late is not down"
    assert [sampled(reading) for reading in later] == [{"GPU-0", "GPU-2", "GPU-3"}] * 3
    assert [faulted(reading) for reading in later] == [{"GPU-1": Reason.TIMEOUT}] * 3
    assert meter.in_call["GPU-1"] == 1, "no second call starts"
    assert poller.health.status().failures == (("timeout", 1),)
    gate.open()


def test_a_gpu_is_read_again_when_its_call_returns_and_the_abandoned_thread_ends(
    closing: list[AcceleratorPoller],
) -> None:
    meter = Meter(2)
    gate = meter.hangs.setdefault("GPU-0", Gate())
    poller = AcceleratorPoller(meter, hang_seconds=0.05)
    closing.append(poller)
    read_once(poller)
    abandoned = [thread for thread in threading.enumerate() if thread.name == "fake-poller"]
    assert len(abandoned) == 2
    del meter.hangs["GPU-0"]
    gate.open()
    deadline = time.monotonic() + 60
    while "GPU-0" not in sampled(reading := read_once(poller)):
        assert time.monotonic() < deadline

    assert faulted(reading) == {}
    for thread in abandoned:
        if thread is not poller._worker.thread:  # type: ignore[union-attr]
            thread.join(5)
            assert not thread.is_alive()
    assert meter.most_in_call == 1


def test_a_result_that_comes_late_is_used(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    gate = meter.hangs["GPU-1"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=0.02)
    closing.append(poller)
    assert sampled(read_once(poller)) == {"GPU-0"}
    late = poller._reader.hung["GPU-1"]
    gate.open()
    deadline = time.monotonic() + 60
    reading = poller.finish(time.monotonic())
    while "GPU-1" not in sampled(reading):
        assert time.monotonic() < deadline
        reading = poller.finish(time.monotonic())

    assert meter.calls_for_gpus.count("read GPU-1") == 1, "the late call's own result, with its own time"
    assert next(s for s in reading.samples if s.uuid == "GPU-1").at_seconds > late
    assert poller.health.status().failures == ()


def test_a_slow_gpu_is_never_set_aside_once_its_usual_time_is_known(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    meter.slow_seconds = 0.03
    poller = AcceleratorPoller(meter, hang_seconds=0.02)
    closing.append(poller)
    while sampled(read_once(poller)) != {"GPU-0", "GPU-1"}:
        pass
    threads = len(meter.threads)

    readings = [read_once(poller) for _ in range(5)]

    assert [(sampled(reading), faulted(reading)) for reading in readings] == [({"GPU-0", "GPU-1"}, {})] * 5
    assert len(meter.threads) == threads


def test_several_threads_read_different_gpus_at_a_time(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(4)
    meter.reads_in_parallel = True
    poller = AcceleratorPoller(meter, hang_seconds=60.0)
    closing.append(poller)
    read_once(poller)
    poller._spread.threads = 4
    poller._spread_reads(Effort(0.25, 0.25, 0.0))
    meter.together = threading.Barrier(4, timeout=20)

    reading = read_once(poller)

    assert sampled(reading) == {f"GPU-{n}" for n in range(4)}, "four calls were in the driver at once"
    assert meter.most_in_call == 1


def test_a_library_lost_in_one_of_several_threads_is_closed_once(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(4)
    meter.reads_in_parallel = True
    poller = AcceleratorPoller(meter, hang_seconds=60.0)
    closing.append(poller)
    read_once(poller)
    poller._spread.threads = 4
    poller._spread_reads(Effort(0.25, 0.25, 0.0))
    meter.together = threading.Barrier(4, timeout=20)
    meter.faults = {f"GPU-{n}": MeterLost(Reason.ABSENT, "uninitialized") for n in range(4)}

    reading = read_once(poller)

    assert faulted(reading) == {f"GPU-{n}": Reason.ABSENT for n in range(4)}
    assert meter.calls == ["open", "close"]


def test_a_gpu_that_hangs_is_no_reason_for_more_threads(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(3)
    meter.reads_in_parallel = True
    gate = meter.hangs["GPU-1"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=0.4)
    closing.append(poller)

    read_once(poller)
    read_once(poller)

    assert poller._spread.threads == 1
    gate.open()


def test_a_round_teaches_nothing_if_a_gpu_hangs_in_it_and_the_next_one_does(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(3)
    meter.reads_in_parallel = True
    gate = meter.hangs["GPU-1"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=0.4)
    closing.append(poller)

    learned: list[Effort] = []
    poller._spread_reads = learned.append  # type: ignore[method-assign]
    read_once(poller)
    assert learned == [], "a round with a GPU that hangs is no measure"

    read_once(poller)

    assert len(learned) == 1
    assert learned[0].round_seconds < 0.3
    gate.open()


def rounds(spread: Spread, seconds_by_threads: Callable[[int], float], count: int, gpus: int = 16) -> list[int]:
    """Threads in each of the rounds, one round a second, in which all GPUs take the same time."""
    threads = []
    for second in range(count):
        threads.append(spread.threads)
        seconds = seconds_by_threads(spread.threads)
        spread.after(Effort(seconds, seconds, seconds * spread.threads / gpus), gpus, float(second))
    return threads


def test_a_driver_with_a_lock_per_gpu_is_read_by_as_many_threads_as_help() -> None:
    assert rounds(Spread(), lambda threads: 1.6 / threads, 6) == [1, 2, 4, 8, 8, 8]


def test_a_driver_that_serialises_its_calls_is_read_by_one_thread_with_rare_trials() -> None:
    threads = rounds(Spread(), lambda _: 1.6, 1202)

    assert threads[:4] == [1, 2, 1, 1]
    assert [second for second, count in enumerate(threads) if count > 1] == [1, 602, 1203][:2]


def test_a_fast_driver_is_read_by_one_thread_again() -> None:
    spread = Spread()
    rounds(spread, lambda threads: 1.6 / threads, 5)

    assert rounds(spread, lambda threads: 0.016 / threads, 3) == [8, 1, 1]


def test_one_slow_gpu_is_no_reason_for_more_threads() -> None:
    spread = Spread()

    spread.after(Effort(round_seconds=2.1, busy_seconds=2.1, longest_seconds=2.0), 8, 0.0)

    assert spread.threads == 1


def test_a_trial_is_judged_by_how_long_each_thread_is_busy() -> None:
    spread = Spread()

    spread.after(Effort(round_seconds=2.0, busy_seconds=1.6, longest_seconds=0.8), 8, 0.0)
    spread.after(Effort(round_seconds=2.0, busy_seconds=0.8, longest_seconds=2.0), 8, 2.0)  # one has slow values now

    assert spread.threads == 2


def test_after_a_long_round_the_next_one_begins_at_a_random_time() -> None:
    spread = Spread()
    spread.rest(Effort(4.0, 4.0, 0.4), 100.0, 1.0)
    assert spread.rests_until == float("-inf")
    spread.rest(Effort(12.0, 12.0, 0.4), 100.0, 0.5)
    assert spread.rests_until == 103.0


def test_the_effort_of_a_round() -> None:
    whole = Round(["GPU-0", "GPU-1", "GPU-2"], threads=2, now=10.0)
    for seconds in (0.1, 0.4, 0.3):
        whole.take()
        whole.done(seconds)

    assert whole.effort(10.5) == Effort(round_seconds=0.5, busy_seconds=pytest.approx(0.4), longest_seconds=0.4)


def test_a_round_with_a_gpu_that_hangs_is_no_measure_of_the_others() -> None:
    whole = Round(["GPU-0", "GPU-1"], threads=1, now=10.0)
    whole.take()
    whole.set_aside()
    whole.take()

    assert whole.done(0.1)
    assert whole.effort(11.0) is None


@pytest.mark.parametrize("tick_seconds", [0.0, 5.0])
def test_a_read_takes_as_long_as_it_takes_however_late_the_tick_sees_its_end(
    closing: list[AcceleratorPoller], tick_seconds: float
) -> None:
    clock = Clock()
    meter = Meter(3)
    meter.reads_in_parallel = True
    poller = AcceleratorPoller(meter, clock)
    closing.append(poller)
    poller.begin()
    while poller._reader.messages.qsize() < 6:  # opened, the GPUs, three samples, done
        time.sleep(0.001)
    clock.advance(tick_seconds)
    poller.finish(clock() + 1.0)

    assert poller.health.status().read_duration_seconds == 0.0
    assert poller._spread.threads == 1


def test_two_hung_gpus_do_not_affect_a_third(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(3)
    gates = [meter.hangs.setdefault(uuid, Gate()) for uuid in ("GPU-0", "GPU-1")]
    poller = AcceleratorPoller(meter, hang_seconds=0.05)
    closing.append(poller)

    first = read_once(poller)
    reading = read_until(poller, {"GPU-0": Reason.TIMEOUT, "GPU-1": Reason.TIMEOUT})

    assert sampled(first) == sampled(reading) == {"GPU-2"}
    for gate in gates:
        gate.open()


def test_a_source_is_down_while_its_only_gpu_hangs(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(1)
    gate = meter.hangs["GPU-0"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=0.02)
    closing.append(poller)

    read_until(poller, {"GPU-0": Reason.TIMEOUT})

    assert not poller.health.status().up
    gate.open()


def test_results_after_the_deadline_are_in_the_next_reading(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    gate = meter.hangs["GPU-1"] = Gate()
    poller = AcceleratorPoller(meter, hang_seconds=60.0)
    closing.append(poller)
    poller.begin()
    assert gate.entered.wait(60)

    early = poller.finish(time.monotonic())
    gate.open()
    late = read_once(poller)

    assert (sampled(early), faulted(early)) == ({"GPU-0"}, {})
    assert (sampled(late), faulted(late)) == ({"GPU-1"}, {})
    assert meter.most_in_call == 1


def test_a_hung_sweep_is_a_fault_of_every_gpu_and_no_second_sweep_starts(
    closing: list[AcceleratorPoller],
) -> None:
    meter = Meter(2)
    poller = AcceleratorPoller(meter, hang_seconds=0.02)
    closing.append(poller)
    read_once(poller)
    meter.sweep_gate = Gate()
    poller.begin()
    assert meter.sweep_gate.entered.wait(60)

    readings = [poller.finish(time.monotonic() + 0.05), read_once(poller, 0.05)]

    assert [faulted(reading) for reading in readings] == [{"GPU-0": Reason.TIMEOUT, "GPU-1": Reason.TIMEOUT}] * 2
    assert not poller.health.status().up
    gate, meter.sweep_gate = meter.sweep_gate, None
    gate.open()
    assert sampled(read_once(poller)) == {"GPU-0", "GPU-1"}


def test_a_lost_library_is_opened_again_with_a_growing_back_off(
    closing: list[AcceleratorPoller], clock: Clock, logs: list[Any]
) -> None:
    meter = Meter(2, clock)
    poller = AcceleratorPoller(meter, clock, random=lambda: 0.5)
    closing.append(poller)

    def tick() -> AcceleratorReading:
        poller.begin()
        return poller.finish(clock() + 5)

    tick()
    meter.sweep_faults = [MeterLost(Reason.ABSENT, "driver not loaded")]
    meter.open_faults = [MeterLost(Reason.ABSENT, "driver not loaded") for _ in range(7)]
    down = tick()
    opens = []
    for second in range(1, 200):
        clock.advance(1.0)
        before = meter.calls.count("open")
        reading = tick()
        if meter.calls.count("open") > before:
            opens.append(second)
        if not meter.open_faults and sampled(reading):
            break

    assert faulted(down) == {"GPU-0": Reason.ABSENT, "GPU-1": Reason.ABSENT}
    assert opens == [1, 3, 7, 15, 31, 63, 123, 183]
    assert sampled(reading) == {"GPU-0", "GPU-1"}
    assert events(logs) == ["source_up", "source_down", "source_up"]


def test_a_library_lost_during_a_read_is_a_fault_of_every_remaining_gpu(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(3)
    meter.faults["GPU-1"] = MeterLost(Reason.ABSENT, "uninitialized")
    poller = AcceleratorPoller(meter)
    closing.append(poller)

    reading = read_once(poller)

    assert sampled(reading) == {"GPU-0"}
    assert faulted(reading) == {"GPU-1": Reason.ABSENT, "GPU-2": Reason.ABSENT}
    assert meter.calls == ["open", "close"]


def test_nothing_is_read_after_a_fatal_failure(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(1)
    meter.open_faults = [MeterLost(Reason.BROKEN, "the library was replaced", fatal=True)]
    poller = AcceleratorPoller(meter)
    closing.append(poller)

    read_once(poller)
    read_once(poller)

    assert poller.fatal is not None and poller.fatal.detail == "the library was replaced"
    assert meter.calls.count("open") == 1


def test_process_lists_are_read_on_request_and_kept(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(3)
    meter.pids = {"GPU-0": frozenset({7}), "GPU-2": None}
    poller = AcceleratorPoller(meter)
    closing.append(poller)
    read_once(poller)
    assert poller.holders() is None
    poller.request_holders()
    poller.request_holders()
    while poller.holders() is None:
        read_once(poller)

    assert poller.holders() == {"GPU-0": {7}, "GPU-1": frozenset(), "GPU-2": None}


def test_sharing_holds_the_process_lists_too(closing: list[AcceleratorPoller]) -> None:
    class Sharer(Meter):
        def sharing(self, uuid: str) -> Sharing:
            if uuid == "GPU-1":
                raise SourceError(Reason.LOST, "lost")
            return Sharing(frozenset({7}), {7: 40.0}) if uuid == "GPU-0" else Sharing()

    poller = AcceleratorPoller(Sharer(3))
    closing.append(poller)
    read_once(poller)
    assert poller.sharing() == {}
    poller.request_holders()
    while poller.holders() is None:
        read_once(poller)

    assert poller.sharing() == {"GPU-0": Sharing(frozenset({7}), {7: 40.0}), "GPU-2": Sharing()}
    assert poller.holders() == {"GPU-0": {7}, "GPU-2": None}


def test_a_hung_process_list_does_not_affect_reads(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    poller = AcceleratorPoller(meter, hang_seconds=0.05)
    closing.append(poller)
    read_once(poller)
    gate = meter.hangs["holders GPU-0"] = Gate()
    poller.request_holders()
    assert gate.entered.wait(60)

    first = read_once(poller)
    reading = read_until(poller, {"GPU-0": Reason.TIMEOUT})

    assert sampled(first) == sampled(reading) == {"GPU-1"}
    gate.open()
    deadline = time.monotonic() + 60
    while sampled(read_once(poller)) != {"GPU-0", "GPU-1"}:
        assert time.monotonic() < deadline
    assert meter.most_in_call == 1


def test_a_released_meter_stays_closed_until_it_is_resumed(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(1)
    poller = AcceleratorPoller(meter)
    closing.append(poller)
    read_once(poller)

    released = poller.release(time.monotonic() + 5)
    meanwhile = read_once(poller)
    calls = list(meter.calls)
    poller.resume()

    assert released
    assert faulted(meanwhile) == {"GPU-0": Reason.DISABLED}
    assert calls == ["open", "close"]
    assert sampled(read_once(poller)) == {"GPU-0"}


def test_a_release_during_a_hung_call_completes_when_the_call_returns(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(2)
    poller = AcceleratorPoller(meter, hang_seconds=0.05)
    closing.append(poller)
    read_once(poller)
    gate = meter.hangs["GPU-0"] = Gate()
    read_once(poller)

    assert not poller.release(time.monotonic() + 5)
    del meter.hangs["GPU-0"]
    gate.open()
    deadline = time.monotonic() + 60
    while not poller.release(time.monotonic() + 0.01):
        assert time.monotonic() < deadline
        poller.begin()

    assert meter.calls[-1] == "close" and meter.calls.count("open") == 1
    assert not sampled(read_once(poller))
    poller.resume()
    assert sampled(read_once(poller)) == {"GPU-0", "GPU-1"}


@pytest.mark.parametrize("event", Event)
def test_a_failed_library_stays_failed(event: Event) -> None:
    assert State.FAILED.after(event) is State.FAILED


@pytest.mark.parametrize("state", [State.RELEASING, State.RELEASED])
@pytest.mark.parametrize("event", [Event.OPENED, Event.LOST, Event.RELEASE])
def test_a_late_message_does_not_end_a_release(state: State, event: Event) -> None:
    assert state.after(event) is state


def test_one_thread_reads_everything_while_nothing_hangs(closing: list[AcceleratorPoller]) -> None:
    meter = Meter(4)
    poller = AcceleratorPoller(meter)
    closing.append(poller)
    for _ in range(5):
        read_once(poller)

    assert len(meter.threads) == 1


class Sampled(Meter):
    """A meter with a second GPU that is to be sampled."""

    def __init__(self) -> None:
        super().__init__(2)
        self.sample_times: list[float] = []
        self.wanted = True

    def sampling(self) -> dict[str, float | None]:
        return {"GPU-1": None} if self.wanted else {}

    def sample(self, uuid: str) -> None:
        self._enter(uuid)
        try:
            self.sample_times.append(time.monotonic())
            if gate := self.hangs.get(f"sample {uuid}"):
                gate.pass_through()
            if fault := self.faults.get(uuid):
                raise fault
        finally:
            self._leave(uuid)

    def await_samples(self, count: int) -> None:
        """Wait for this many samples in all."""
        deadline = time.monotonic() + 60
        while len(self.sample_times) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_gpu_is_sampled_between_two_reads_by_the_same_thread(
    closing: list[AcceleratorPoller],
) -> None:
    meter = Sampled()
    jitter = itertools.cycle([0.0, 1.0])
    poller = AcceleratorPoller(meter, sampling_seconds=0.04, random=lambda: next(jitter))
    closing.append(poller)
    read_once(poller)
    meter.await_samples(12)

    gaps = sorted(b - a for a, b in itertools.pairwise(meter.sample_times))
    assert gaps[0] >= 0.5 * 0.04, "never sooner than half the time"
    assert gaps[6] >= 1.5 * 0.04, "every other one after one and a half: they keep no step"
    assert len(meter.threads) == 1
    assert sampled(read_once(poller)) == {"GPU-0", "GPU-1"}


def test_sampling_ends_when_no_gpu_needs_it(closing: list[AcceleratorPoller]) -> None:
    meter = Sampled()
    poller = AcceleratorPoller(meter, sampling_seconds=0.005)
    closing.append(poller)
    read_once(poller)
    meter.await_samples(2)
    meter.wanted = False
    read_once(poller)
    seen = len(meter.sample_times)
    time.sleep(0.05)

    assert len(meter.sample_times) == seen


def test_a_failed_sample_is_ignored(closing: list[AcceleratorPoller]) -> None:
    meter = Sampled()
    poller = AcceleratorPoller(meter, sampling_seconds=0.005)
    closing.append(poller)
    read_once(poller)
    meter.faults["GPU-1"] = SourceError(Reason.BROKEN, "not now")
    seen = len(meter.sample_times)
    meter.await_samples(seen + 3)
    meter.faults.clear()

    assert sampled(read_once(poller)) == {"GPU-0", "GPU-1"}
    assert poller.health.status().failures == ()


def test_a_sample_that_hangs_sets_only_its_gpu_aside(closing: list[AcceleratorPoller]) -> None:
    meter = Sampled()
    poller = AcceleratorPoller(meter, hang_seconds=0.05, sampling_seconds=0.005)
    closing.append(poller)
    read_once(poller)
    gate = meter.hangs["sample GPU-1"] = Gate()
    assert gate.entered.wait(60)

    readings = [read_until(poller, {"GPU-1": Reason.TIMEOUT}), *(read_once(poller) for _ in range(2))]

    assert [sampled(reading) for reading in readings] == [{"GPU-0"}] * 3
    assert [faulted(reading) for reading in readings] == [{"GPU-1": Reason.TIMEOUT}] * 3
    assert meter.in_call["GPU-1"] == 1
    del meter.hangs["sample GPU-1"]
    gate.open()
    deadline = time.monotonic() + 60
    while sampled(read_once(poller)) != {"GPU-0", "GPU-1"}:
        assert time.monotonic() < deadline
    assert meter.most_in_call == 1


# -------------------------------------------------------------------------------------------------------------- servers


class Source:
    """A token source that a test controls."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate: Gate | None = None
        self.fault: Exception | None = None
        self.reads = 0
        self.closed = False

    def read(self) -> ServerReading:
        self.reads += 1
        if self.gate is not None:
            self.gate.pass_through()
        if self.fault is not None:
            raise self.fault
        return ServerReading(self.name, 1.0, "fake", Cadence.STEP, "1", None, ())

    def close(self) -> None:
        self.closed = True


def names(ended: list[ServerReading | ServerFault]) -> list[str]:
    return sorted(entry.server for entry in ended)


@pytest.fixture
def token_pollers() -> Iterator[list[TokenPoller]]:
    pollers: list[TokenPoller] = []
    yield pollers
    for poller in pollers:
        poller.close()


def test_every_server_is_read_in_every_tick(token_pollers: list[TokenPoller]) -> None:
    sources = [Source("a"), Source("b"), Source("c")]
    poller = TokenPoller(sources)
    token_pollers.append(poller)

    for _ in range(3):
        poller.begin()
        assert names(poller.finish(time.monotonic() + 60)) == ["a", "b", "c"]

    assert [source.reads for source in sources] == [3, 3, 3]


def test_a_slow_server_does_not_delay_others(token_pollers: list[TokenPoller]) -> None:
    slow, quick = Source("slow"), Source("quick")
    gate = slow.gate = Gate()
    poller = TokenPoller([slow, quick])
    token_pollers.append(poller)
    poller.begin()
    first: list[str] = []
    while "quick" not in first:
        first += names(poller.finish(time.monotonic() + 0.05))
    poller.begin()
    second = names(poller.finish(time.monotonic() + 60))
    assert slow.reads == 1, "not read twice at once"
    slow.gate = None
    gate.open()
    late: list[str] = []
    while "slow" not in late:
        poller.begin()
        late = names(poller.finish(time.monotonic() + 60))

    assert (first, second) == (["quick"], ["quick"])


def test_many_hung_servers_do_not_delay_others(token_pollers: list[TokenPoller]) -> None:
    hanging = [Source(f"hanging-{i}") for i in range(6)]
    gate = Gate()
    for source in hanging:
        source.gate = gate
    quick = Source("quick")
    poller = TokenPoller([*hanging, quick])
    token_pollers.append(poller)
    poller.begin()
    poller.finish(time.monotonic() + 1.0)

    for _ in range(3):
        poller.begin()
        assert names(poller.finish(time.monotonic() + 60)) == ["quick"]
    assert len(poller._threads) == 7
    gate.open()


def test_one_thread_is_enough_for_servers_that_answer(token_pollers: list[TokenPoller], monkeypatch: Any) -> None:
    monkeypatch.setattr("tpw.polling.servers.PATIENCE_SECONDS", 30.0)
    poller = TokenPoller([Source(str(i)) for i in range(8)])
    token_pollers.append(poller)
    for _ in range(5):
        poller.begin()
        assert len(poller.finish(time.monotonic() + 60)) == 8

    assert len(poller._threads) == 1


def test_one_thread_is_enough_for_many_servers_that_it_reads_in_time(
    token_pollers: list[TokenPoller], monkeypatch: Any
) -> None:
    monkeypatch.setattr("tpw.polling.servers.PATIENCE_SECONDS", 0.5)

    class Brief(Source):
        def read(self) -> ServerReading:
            threading.Event().wait(0.006)  # longer than the patience for all of them
            return super().read()

    poller = TokenPoller([Brief(str(i)) for i in range(100)])
    token_pollers.append(poller)
    poller.begin()

    assert len(poller.finish(time.monotonic() + 20)) == 100
    assert len(poller._threads) == 1


def test_a_thread_that_is_not_needed_any_more_ends(token_pollers: list[TokenPoller], monkeypatch: Any) -> None:
    monkeypatch.setattr("tpw.polling.servers.SPARE_TICKS", 3)
    sources = [Source(str(i)) for i in range(3)]
    gate = Gate()
    sources[0].gate = sources[1].gate = gate
    poller = TokenPoller(sources)
    token_pollers.append(poller)
    poller.begin()
    deadline = time.monotonic() + 60
    poller.finish(time.monotonic() + 0.2)
    while len(poller._threads) == 1:  # on a busy machine 0.2 s may be too short to see that one is not enough
        assert time.monotonic() < deadline
        poller.finish(time.monotonic() + 0.2)
    threads = list(poller._threads)
    sources[0].gate = sources[1].gate = None
    gate.open()
    deadline = time.monotonic() + 60
    while len(poller._threads) > 1:  # a thread that had to wait for a processor was busy, and counts as needed
        poller.begin()
        poller.finish(time.monotonic() + 60)
        assert time.monotonic() < deadline
    deadline = time.monotonic() + 60
    while sum(thread.is_alive() for thread in threads) > 1:
        assert time.monotonic() < deadline


def test_a_server_that_is_removed_while_it_is_read_is_not_waited_for(token_pollers: list[TokenPoller]) -> None:
    hanging, quick = Source("hanging"), Source("quick")
    gate = hanging.gate = Gate()
    poller = TokenPoller([hanging, quick])
    token_pollers.append(poller)
    poller.begin()
    first: list[str] = []
    while not first:
        first = names(poller.finish(time.monotonic() + 0.05))
    assert first == ["quick"]
    poller.set_sources([quick])
    poller.begin()
    began = time.monotonic()

    assert names(poller.finish(began + 30)) == ["quick"]
    assert time.monotonic() - began < 20
    gate.open()
    deadline = time.monotonic() + 60
    while not hanging.closed:
        poller.begin()
        poller.finish(time.monotonic() + 60)
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("reason", "gaps"),
    [
        (Reason.UNREACHABLE, [1, 2, 4, 5, 5]),
        (Reason.LOADING, [1, 2, 4, 5, 5]),
        (Reason.UNAUTHORIZED, [15, 30, 30]),
        (Reason.DISABLED, [15, 30, 30]),
        (Reason.ABSENT, [15, 30, 30]),
        (Reason.MALFORMED, [2, 4, 8, 16, 30, 30]),
    ],
)
def test_a_failed_server_is_read_again_after_a_back_off(
    token_pollers: list[TokenPoller], clock: Clock, reason: Reason, gaps: list[int]
) -> None:
    source = Source("a")
    source.fault = SourceError(reason, "no")
    poller = TokenPoller([source], clock, random=lambda: 0.5)
    token_pollers.append(poller)
    read_at: list[float] = []
    faults: list[Reason] = []
    for _ in range(sum(gaps) + 1):
        before = source.reads
        poller.begin()
        faults += [entry.reason for entry in poller.finish(clock() + 10) if isinstance(entry, ServerFault)]
        if source.reads > before:
            read_at.append(clock())
        clock.advance(1.0)

    assert [round(b - a) for a, b in itertools.pairwise(read_at)] == gaps
    assert faults == [reason] * (len(gaps) + 1)


def test_a_recovered_server_is_read_in_every_tick(token_pollers: list[TokenPoller], clock: Clock) -> None:
    source = Source("a")
    source.fault = SourceError(Reason.UNREACHABLE, "no")
    poller = TokenPoller([source], clock, random=lambda: 0.5)
    token_pollers.append(poller)
    poller.begin()
    poller.finish(clock() + 10)
    source.fault = None
    clock.advance(1.0)
    ended = []
    for _ in range(2):
        poller.begin()
        ended += poller.finish(clock() + 10)

    assert [type(entry) for entry in ended] == [ServerReading, ServerReading]
    (status,) = poller.statuses()
    assert (status.name, status.up, status.reads, status.failures) == ("server:a", True, 3, (("unreachable", 1),))


def test_sources_can_be_exchanged_while_one_is_being_read(token_pollers: list[TokenPoller]) -> None:
    old, kept, new = Source("old"), Source("kept"), Source("new")
    gate = old.gate = Gate()
    poller = TokenPoller([old, kept])
    token_pollers.append(poller)
    poller.begin()
    assert gate.entered.wait(60)
    poller.finish(time.monotonic())

    poller.set_sources([kept, new])
    closed_while_reading = old.closed
    gate.open()
    ended: list[str] = []
    while not old.closed:
        poller.begin()
        ended += names(poller.finish(time.monotonic() + 60))

    assert not closed_while_reading
    assert set(ended) <= {"kept", "new"}
    assert not kept.closed
    assert [status.name for status in poller.statuses()] == ["server:kept", "server:new"]


# ---------------------------------------------------------------------------------------------------------------- hosts


class Host:
    name = "host"
    every_seconds = 0.0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fault: Exception | None = None
        self.gate: Gate | None = None
        self.notes: tuple[str, ...] = ()

    def open(self) -> None:
        self.calls.append("open")

    def read(self) -> HostReading:
        if self.gate is not None:
            self.gate.pass_through()
        if self.fault is not None:
            raise self.fault
        self.calls.append("read")
        return HostReading((HostSample("cpu", 1.0, energy_joules=5.0),))

    def close(self) -> None:
        self.calls.append("close")


def test_a_fast_host_meter_is_read_in_every_tick(clock: Clock) -> None:
    host = Host()
    poller = HostPoller(host, clock)
    readings = []
    for _ in range(2):
        poller.begin()
        readings.append(poller.finish())
        clock.advance(1.0)
    poller.close()

    assert all(reading is not None and reading.samples[0].energy_joules == 5.0 for reading in readings)
    assert host.calls == ["open", "read", "read", "close"]


def test_a_failed_host_meter_is_opened_again_after_a_back_off(clock: Clock) -> None:
    host = Host()
    host.fault = SourceError(Reason.PERMISSION, "no", "allow it")
    poller = HostPoller(host, clock, random=lambda: 0.5)
    for _ in range(8):
        poller.begin()
        assert poller.finish() is None
        clock.advance(1.0)
    poller.close()

    assert host.calls.count("open") == 4  # at 0, 1, 3 and 7 s
    status = poller.health.status()
    assert (status.up, status.detail, status.hint) == (False, "no", "allow it")


def test_notes_of_a_host_meter_are_logged_once(clock: Clock, logs: list[Any]) -> None:
    host = Host()
    host.notes = ("cpu is withheld.",)
    poller = HostPoller(host, clock)
    for _ in range(3):
        poller.begin()
        assert poller.finish() is not None

    assert poller.notes == ("cpu is withheld.",)
    assert [entry["detail"] for entry in logs if entry["event"] == "source_incomplete"] == ["cpu is withheld."]
    poller.close()


def test_a_slow_host_meter_has_a_thread_and_an_interval_of_its_own(clock: Clock) -> None:
    host = Host()
    gate = host.gate = Gate()
    host.every_seconds = 30.0
    poller = HostPoller(host, clock)
    poller.begin()
    assert gate.entered.wait(60)
    while_it_runs = poller.finish()
    host.gate = None
    gate.open()
    deadline = time.monotonic() + 60
    while (reading := poller.finish()) is None:
        assert time.monotonic() < deadline
    poller.begin()
    clock.advance(29.0)
    poller.begin()
    poller.close()

    assert while_it_runs is None
    assert reading.samples[0].component == "cpu"
    assert host.calls.count("read") == 1


# ----------------------------------------------------------------------------------------------------------------- health


def test_a_source_is_logged_when_it_goes_down_and_when_it_recovers(logs: list[Any]) -> None:
    health = SourceHealth("tariff", clock=lambda: 1.0, wall=lambda: 5.0)

    def fail(reason: Reason) -> None:
        with pytest.raises(SourceError):
            health.read(lambda: (_ for _ in ()).throw(SourceError(reason, "why", "what to do")))

    assert health.read(lambda: 42) == 42
    health.read(lambda: 42)
    fail(Reason.TIMEOUT)
    fail(Reason.TIMEOUT)
    fail(Reason.UNAUTHORIZED)
    health.read(lambda: 42)

    assert [(entry["event"], entry.get("reason")) for entry in logs] == [
        ("source_up", None),
        ("source_down", "timeout"),
        ("source_down", "unauthorized"),
        ("source_up", None),
    ]
    assert logs[1]["detail"] == "why" and logs[1]["hint"] == "what to do" and logs[1]["source"] == "tariff"


def test_counts_continue_from_the_books() -> None:
    health = SourceHealth("nvml", reads=100, failures={"lost": 3}, wall=lambda: 77.0)
    health.succeeded(0.25)
    health.failed(SourceError(Reason.LOST, "lost", "fix it"), 0.5)

    status = health.status()

    assert (status.reads, status.failures, status.up) == (102, (("lost", 4),), False)
    assert (status.last_success_wall_seconds, status.read_duration_seconds) == (77.0, 0.5)
    assert (status.detail, status.hint) == ("lost", "fix it")


@pytest.mark.parametrize("reason", [Reason.ABSENT, Reason.UNSUPPORTED, Reason.PERMISSION])
def test_an_unavailable_default_is_omitted_and_logged_once(logs: list[Any], reason: Reason) -> None:
    health = SourceHealth("rapl", optional=True)
    assert not health.is_omitted  # not tried yet
    for _ in range(3):
        health.failed(SourceError(reason, "none", "what to do"), 0.1)

    assert health.is_omitted
    level = "warning" if reason is Reason.PERMISSION else "info"
    assert [(entry["event"], entry["log_level"], entry["hint"]) for entry in logs] == [
        ("source_omitted", level, "what to do")
    ]


def test_an_unavailable_source_that_is_configured_is_down(logs: list[Any]) -> None:
    health = SourceHealth("rapl")
    health.failed(SourceError(Reason.ABSENT, "none"), 0.1)

    assert not health.is_omitted
    assert events(logs) == ["source_down"]


def test_a_default_that_is_present_but_fails_is_down(logs: list[Any]) -> None:
    health = SourceHealth("nvml", optional=True)
    health.failed(SourceError(Reason.ABSENT, "no driver"), 0.1)
    health.failed(SourceError(Reason.BROKEN, "driver and library differ"), 0.1)

    assert not health.is_omitted
    assert events(logs) == ["source_omitted", "source_down"]


@pytest.mark.parametrize("before", [{}, {"reads": 10, "failures": {"absent": 9}}])
def test_a_default_that_gave_a_reading_once_is_never_omitted(logs: list[Any], before: dict[str, Any]) -> None:
    """In this process, or in one before it."""
    health = SourceHealth("nvml", optional=True, **before)
    if not before:
        health.failed(SourceError(Reason.ABSENT, "the driver is being loaded"), 0.1)
        health.succeeded(0.1)
    health.failed(SourceError(Reason.ABSENT, "the driver is unloaded"), 0.1)

    assert not health.is_omitted
    assert events(logs)[-1] == "source_down"


def test_a_default_with_only_failures_in_the_books_is_omitted() -> None:
    health = SourceHealth("rapl", optional=True, reads=10, failures={"permission": 10})
    health.failed(SourceError(Reason.PERMISSION, "no"), 0.1)

    assert health.is_omitted


def test_a_bug_in_a_source_has_the_reason_internal(logs: list[Any]) -> None:
    health = SourceHealth("x")

    with pytest.raises(SourceError, match="ZeroDivisionError") as caught:
        health.read(lambda: 1 // 0)

    assert caught.value.reason is Reason.INTERNAL
    assert health.status().failures == (("internal", 1),)
