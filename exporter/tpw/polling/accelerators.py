"""Polls one accelerator meter from a worker thread, and sets aside a GPU with a driver call that does not return.

A hung driver call cannot be cancelled: its thread is abandoned, its GPU is a fault until the call returns, and a fresh
thread continues with the other GPUs. There is never more than one call per GPU in the driver.

All methods of :class:`AcceleratorPoller` are called from one thread (the tick).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import Empty

import structlog

from tpw.model import AcceleratorReading, EnergyMethod, Gpu, GpuFault, GpuSample, Reason, Sharing, SourceError
from tpw.polling.health import JITTER, BackOff, Jitter, SourceHealth
from tpw.polling.reader import CallReturned, GpuFailed, LibraryLost, Message, MeterReader, ReadDone, SharingRead
from tpw.polling.round import Effort, Spread
from tpw.polling.state import Event, State
from tpw.polling.worker import CallKind, Task, Worker
from tpw.power import AcceleratorMeter, Clock

HANG_SECONDS = 0.3
"""A GPU with a call that has not returned after this time is set aside: another thread continues with the other GPUs. When
the call returns, its result is used. Chosen below the half second that a tick waits for its reads, so that the other GPUs
are still read in the same tick. Where calls usually take longer, so does this."""
USUAL_FACTOR = 3.0
"""A GPU is set aside after this many times the usual duration of a call."""
DOWN_FACTOR = 3.0
"""Late is not down: a GPU is reported as a fault after this many times the time after which it is set aside."""

SAMPLING_SECONDS = 0.1
"""Mean time between two samples of a GPU that reports only instants. Chosen: ten driver calls a second. The times are
random, so that a load of any period is sampled without bias; what remains is a random error (docs/accuracy.md)."""

log = structlog.get_logger("tpw.source")


@dataclass(slots=True)
class _Read:
    """The read that is running."""

    began_seconds: float
    any_sample: bool = False


@dataclass(slots=True)
class _Results:
    """What has arrived since the last reading."""

    samples: dict[str, GpuSample] = field(default_factory=dict)
    faults: dict[str, GpuFault] = field(default_factory=dict)


class AcceleratorPoller:
    """Polls one accelerator meter.

    Args:
        meter: opened by the first read, in the worker.
        clock: monotonic seconds; ``finish`` really waits, so it must advance by itself where a call can hang.
        health: record of the source; created with the meter's name where it is left out.
        hang_seconds: a GPU with a call that takes longer is set aside, at the least.
        random: jitter of the back-off and of the sampling.
        sampling_seconds: mean time between two samples of a GPU that needs them; 0: none.
    """

    def __init__(
        self,
        meter: AcceleratorMeter,
        clock: Clock = time.monotonic,
        *,
        health: SourceHealth | None = None,
        hang_seconds: float = HANG_SECONDS,
        random: Jitter = JITTER,
        sampling_seconds: float = SAMPLING_SECONDS,
    ) -> None:
        self._reader = MeterReader(meter, clock, random, sampling_seconds)
        self._clock = clock
        self._hang_seconds = hang_seconds
        self._back_off = BackOff(1.0, 60.0, random)
        self._worker: Worker | None = None
        self._spread = Spread()
        self._state = State.CLOSED
        self._read: _Read | None = None
        self._error: SourceError | None = None
        self._gpus: tuple[Gpu, ...] = ()
        self._results = _Results()
        self._down: dict[str, Reason] = {}
        self._sharing: Mapping[str, Sharing] | None = None
        self._sharing_requested = False
        self.health = health or SourceHealth(meter.name, clock=clock)

    @property
    def fatal(self) -> SourceError | None:
        """The failure from which only a new process recovers: the daemon exits with 1."""
        return self._error if self._state is State.FAILED else None

    @property
    def notes(self) -> tuple[str, ...]:
        """The meter's sentences for the operator."""
        return () if self._reader.noting is None else self._reader.noting.notes

    # ----------------------------------------------------------------------------------------------------------- reading

    def begin(self) -> None:
        """Start a read, unless one is running, the meter is released, or its back-off has not passed."""
        self._drain()
        self._set_aside(self._clock())
        if self._state not in (State.CLOSED, State.OPEN):
            return
        now = self._clock()
        closed = self._state is State.CLOSED
        if self._read is not None or (closed and not self._back_off.is_due(now)) or now < self._spread.rests_until:
            return
        self._read = _Read(now)
        self._queue(partial(self._reader.read_all, open_first=closed))

    def finish(self, deadline_seconds: float) -> AcceleratorReading:
        """Everything that has been read by this monotonic instant. Returns earlier when the read is complete. Later results
        are in the next reading."""
        while self._read is not None:
            now = self._clock()
            hang_at = self._set_aside(now)
            if now >= deadline_seconds:
                break
            self._handle_next(min(deadline_seconds, hang_at) - now)
        self._drain()
        return self._reading()

    def _reading(self) -> AcceleratorReading:
        now = self._clock()
        samples, faults = self._results.samples, self._results.faults
        stuck = self._library_hang(now)
        if stuck is not None:
            self.health.failed(stuck)
        general = (
            stuck or self._error or (_released_error() if self._state in (State.RELEASING, State.RELEASED) else None)
        )
        if general is not None:
            for gpu in self._gpus:
                faults[gpu.uuid] = GpuFault(gpu.uuid, now, general.reason, general.detail)
        for uuid, since in self._reader.hung.items():
            if now - since < self._down_seconds:
                continue
            detail = f"{uuid}: a driver call has not returned for {now - since:.0f} s"
            faults[uuid] = GpuFault(uuid, now, Reason.TIMEOUT, detail)
        for uuid in samples:
            faults.pop(uuid, None)
        self._log_transitions(faults)
        self._results = _Results()
        return AcceleratorReading(self._gpus, tuple(samples.values()), tuple(faults.values()))

    def _library_hang(self, now: float) -> SourceError | None:
        """The error while a call of the meter as a whole hangs. No second call is made then."""
        call = self._worker.call if self._worker is not None else None
        if self._read is None or call is None or call.kind is not CallKind.LIBRARY or self._state is not State.OPEN:
            return None
        waited = now - call.since_seconds
        if waited < max(self._hang_seconds, USUAL_FACTOR * self._reader.usual_library_seconds):
            return None
        return SourceError(Reason.TIMEOUT, f"{self._reader.meter.name}: the driver has not answered for {waited:.0f} s")

    # ----------------------------------------------------------------------------------------------------------- sharing

    def request_holders(self) -> None:
        """Queue a read of processes and sharing, which takes milliseconds per GPU."""
        if self._sharing_requested or self._state is not State.OPEN:
            return
        self._sharing_requested = True
        self._queue(self._reader.sharing_task(deque(gpu.uuid for gpu in self._gpus)))

    def holders(self) -> Mapping[str, frozenset[int] | None] | None:
        """Process ids by GPU as last read; None for a GPU without a process list. None before the first read."""
        self._drain()
        read = self._sharing
        return None if read is None else {uuid: sharing.pids for uuid, sharing in read.items()}

    def sharing(self) -> Mapping[str, Sharing]:
        """How each GPU is shared, as last read; empty where the meter does not know."""
        return self._sharing or {}

    # --------------------------------------------------------------------------------------------------------- releasing

    def release(self, deadline_seconds: float) -> bool:
        """Release the driver, so that a GPU can be reset or partitioned. Returns whether that is done; while a call hangs
        in the driver it is not, and is done later when the call has returned."""
        if self._state not in (State.RELEASING, State.RELEASED):
            self.health.failed(_released_error())
        return self._release(deadline_seconds)

    def resume(self) -> None:
        """Open the driver again at the next read."""
        self._state = self._state.after(Event.RESUME)
        self._back_off.retry_now()

    def close(self, deadline_seconds: float = 0.0) -> None:
        """Release the driver for good and end the thread, waiting at most until the given instant."""
        self._release(deadline_seconds)
        if self._worker is not None:
            workers = (self._worker, *self._reader.helpers)
            self._worker, self._reader.helpers = None, ()
            for worker in workers:
                worker.tasks.put(None)
            for worker in workers:
                worker.thread.join(max(0.0, deadline_seconds - self._clock()))

    def _release(self, deadline_seconds: float) -> bool:
        if self._state in (State.CLOSED, State.OPEN):
            self._state = self._state.after(Event.RELEASE)
            if self._worker is None:
                self._state = self._state.after(Event.CLOSED)  # it was never opened
            else:
                self._queue(self._reader.close)
        while self._state is State.RELEASING and not self._reader.hung:
            if not self._handle_next(deadline_seconds - self._clock()):
                break
        return self._state in (State.RELEASED, State.FAILED)

    # ----------------------------------------------------------------------------------------------------------- worker

    def _queue(self, task: Task) -> None:
        if self._worker is None:
            self._worker = self._reader.worker()
        self._worker.tasks.put(task)

    @property
    def _down_seconds(self) -> float:
        """How long a call for a GPU may take until the GPU is a fault."""
        return DOWN_FACTOR * max(self._hang_seconds, USUAL_FACTOR * self._reader.usual_seconds)

    def _limit_seconds(self) -> float:
        """How long a call for a GPU may take until the GPU is set aside. Several that do not return mean a slow driver
        rather than broken GPUs: each one doubles the time."""
        usual = USUAL_FACTOR * self._reader.usual_seconds
        return max(self._hang_seconds, usual) * 2.0 ** min(len(self._reader.hung), 6)

    def _set_aside(self, now: float) -> float:
        """Abandon the workers that hang in a GPU, and continue with fresh ones. Returns when to check again."""
        if self._worker is not None:
            self._worker = self._continued(self._worker, now, self._reader.worker)
        helpers = self._reader.helpers
        if helpers:
            self._reader.helpers = tuple(self._continued(helper, now, self._reader.helper) for helper in helpers)
        limit = self._limit_seconds()
        calls = [worker.call for worker in (self._worker, *self._reader.helpers) if worker is not None]
        return min((now if call is None else max(now, call.since_seconds) for call in calls), default=now) + limit

    def _continued(self, worker: Worker, now: float, fresh: Callable[[], Worker]) -> Worker:
        """The same worker, or another one in its place if its call hangs."""
        hung = worker.abandon_if_hung(now, self._limit_seconds())
        if hung is None:
            return worker
        self._reader.hung[hung.uuid] = hung.since_seconds
        successor, whole = fresh(), worker.round
        if hung.kind is CallKind.SHARING:
            self._sharing_requested = False
        elif hung.kind is CallKind.READ and whole is not None:
            if whole.set_aside():
                successor.tasks.put(lambda other: self._reader.end_round(other, whole))
            else:
                successor.tasks.put(lambda other: self._reader.read_round(other, whole))
        while True:  # the tasks behind the call that hangs
            try:
                successor.tasks.put(worker.tasks.get_nowait())
            except Empty:
                return successor

    def _spread_reads(self, effort: Effort) -> None:
        """Choose when the next round begins, and how many threads it has."""
        if not self._reader.parallel:
            return
        if any(gpu.energy_method in (EnergyMethod.AVERAGE_POWER, EnergyMethod.INSTANT_POWER) for gpu in self._gpus):
            self._spread.rest(effort, self._clock(), self._reader.random())
        self._spread.after(effort, len(self._gpus), self._clock())
        helpers = self._reader.helpers
        wanted = self._spread.threads - 1
        for helper in helpers[wanted:]:
            helper.tasks.put(None)
        self._reader.helpers = (*helpers[:wanted], *(self._reader.helper() for _ in range(wanted - len(helpers))))

    # ---------------------------------------------------------------------------------------------------------- messages

    def _drain(self) -> None:
        messages = self._reader.messages
        while not messages.empty():
            self._handle(messages.get_nowait())

    def _handle_next(self, timeout_seconds: float) -> bool:
        """Handle one message. False when none has come in time."""
        try:
            message = self._reader.messages.get(timeout=max(0.0, timeout_seconds))
        except Empty:
            return False
        self._handle(message)
        return True

    def _handle(self, message: Message) -> None:
        match message:
            case GpuSample() if self._state in (State.RELEASING, State.RELEASED):
                pass  # of a call that returned after the release was requested
            case GpuSample():
                if self._read is not None:
                    self._read.any_sample = True
                self._results.samples[message.uuid] = message
                self._results.faults.pop(message.uuid, None)
            case GpuFailed(uuid, error):
                self._results.faults[uuid] = GpuFault(uuid, self._clock(), error.reason, error.detail)
                self._results.samples.pop(uuid, None)
                self._log_down(uuid, error)
                self.health.count(error.reason)
            case tuple():
                if message != self._gpus:
                    self._log_found(message)
                    self._gpus = message
            case CallReturned(uuid):
                self._reader.hung.pop(uuid, None)
                if self._state is State.RELEASING and not self._reader.hung:
                    self._queue(self._reader.close)
            case SharingRead(sharing):
                self._sharing = sharing
                self._sharing_requested = False
            case LibraryLost(error):
                self._lost(error)
            case ReadDone():
                self._read_done(message)
            case Event.CLOSED:
                self._sharing_requested = False
                if not (self._state is State.RELEASING and self._reader.hung):
                    self._state = self._state.after(message)
            case Event():
                self._state = self._state.after(message)

    def _read_done(self, done: ReadDone) -> None:
        """A read is complete: the meter works, even if some of its GPUs do not."""
        duration, any_sample = self._end_read(done.at_seconds)
        self._error = None
        self._back_off.reset()
        if done.effort is not None:
            self._spread_reads(done.effort)
        since = min(self._reader.hung.values(), default=float("-inf"))
        if self._gpus and not any_sample and not self._results.faults and self._clock() - since < self._down_seconds:
            return  # only late
        if self._gpus and not any_sample:
            fault = next(iter(self._results.faults.values()), None)
            reason, detail = (Reason.TIMEOUT, "driver calls hang") if fault is None else (fault.reason, fault.detail)
            self.health.failed(SourceError(reason, f"no GPU can be read; {detail}"), duration)
        else:
            self.health.succeeded(duration)

    def _end_read(self, at_seconds: float) -> tuple[float, bool]:
        """Duration of the read in seconds, and whether it gave any sample."""
        read = self._read or _Read(at_seconds)
        self._read = None
        return at_seconds - read.began_seconds, read.any_sample

    def _lost(self, error: SourceError) -> None:
        duration, _ = self._end_read(self._clock())
        self._sharing_requested = False
        self._error = error
        self._back_off.failed(self._clock())
        self.health.failed(error, duration)
        self._state = self._state.after(Event.LOST_FOR_GOOD if error.fatal else Event.LOST)

    # --------------------------------------------------------------------------------------------------------------- log

    def _log_found(self, gpus: tuple[Gpu, ...]) -> None:
        known = {gpu.uuid: gpu for gpu in self._gpus}
        for gpu in gpus:
            before = known.get(gpu.uuid)
            if before is None or (before.energy_method, before.power_scope) != (gpu.energy_method, gpu.power_scope):
                log.info(
                    "gpu_found" if before is None else "gpu_method_changed",
                    gpu=gpu.index,
                    uuid=gpu.uuid,
                    name=gpu.name,
                    energy_method=gpu.energy_method.value,
                    power_scope=gpu.power_scope.value,
                    note=gpu.method_note,
                )

    def _log_down(self, uuid: str, error: SourceError) -> None:
        if self._down.get(uuid) is not error.reason:
            log.warning("gpu_down", uuid=uuid, reason=error.reason.value, detail=error.detail, hint=error.hint)
            self._down[uuid] = error.reason

    def _log_transitions(self, faults: Mapping[str, GpuFault]) -> None:
        for uuid in self._reader.hung:
            if uuid in faults and uuid not in self._down:
                hint = "The GPU is read again when the call returns. Check the kernel log for Xid messages."
                self._log_down(uuid, SourceError(Reason.TIMEOUT, f"{uuid}: a driver call does not return", hint))
                self.health.count(Reason.TIMEOUT)
        if self._down:
            for uuid in self._results.samples:
                if self._down.pop(uuid, None) is not None:
                    log.info("gpu_up", uuid=uuid)


def _released_error() -> SourceError:
    return SourceError(
        Reason.DISABLED,
        "the driver was released on request",
        "Send SIGUSR2 (or POST /-/resume) when the maintenance is done.",
    )
