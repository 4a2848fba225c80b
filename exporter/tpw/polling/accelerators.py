"""Looks at the GPUs of one meter in a worker thread, and sets aside a GPU whose driver call does not return.

A hung driver call cannot be cancelled: its thread is abandoned, its GPU is a fault until the call returns, and a fresh
thread goes on with the others. There is never more than one call per GPU in the driver.

All methods are called from one thread (the tick). The worker tells what it saw through one queue; beside it they share
the worker's note of what it is doing and the GPUs that are set aside, which the worker looks at before every call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

import structlog

from tpw.model import AcceleratorReading, Gpu, GpuFault, GpuSample, Reason, Sharing, SourceError
from tpw.polling.health import JITTER, BackOff, Jitter, SourceHealth, outcome_of
from tpw.polling.worker import LIBRARY, Doing, Worker
from tpw.power import AcceleratorMeter, Clock, MeterLost, SamplingMeter, SharingMeter

HANG_SECONDS = 0.3
"""A call that has not returned after so long is taken to hang. One that was only slow is taken back when it returns. Less
than a tick waits for its looks (half a second of a second), so that the other GPUs are read in the same tick."""

SAMPLING_SECONDS = 0.1
"""Between two samples at a board that tells instants only, on average."""

log = structlog.get_logger("tpw.source")


@dataclass(frozen=True, slots=True)
class _Opened:
    pass


@dataclass(frozen=True, slots=True)
class _Found:
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True)
class _Failed:
    uuid: str
    error: SourceError


@dataclass(frozen=True, slots=True)
class _Lost:
    error: SourceError


@dataclass(frozen=True, slots=True)
class _Returned:
    """A call that was given up has come back; its thread ends."""

    uuid: str


@dataclass(frozen=True, slots=True)
class _Done:
    """The look is over."""


@dataclass(frozen=True, slots=True)
class _Held:
    holders: dict[str, frozenset[int] | None]
    sharing: dict[str, Sharing]
    at_seconds: float


@dataclass(frozen=True, slots=True)
class _Closed:
    pass


_Message = GpuSample | _Opened | _Found | _Failed | _Lost | _Returned | _Done | _Held | _Closed


class AcceleratorPoller:
    """Polls one accelerator meter.

    Args:
        meter: what to poll. Opened by the first look, in the worker.
        clock: monotonic seconds; ``finish`` really waits, so it must advance by itself where a call can hang.
        health: bookkeeping of the source; made from the meter's name where it is left out.
        hang_seconds: after how long a call counts as hung.
        random: jitter of the back-off and of the samples.
        sampling_seconds: between two samples, where the meter has boards that want them; 0: none.
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
        self._meter = meter
        self._sampling = meter if isinstance(meter, SamplingMeter) and sampling_seconds > 0.0 else None
        self._sampling_seconds = sampling_seconds
        self._random = random
        self._clock = clock
        self._hang_seconds = hang_seconds
        self._back_off = BackOff(1.0, 60.0, random)
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        self._worker: Worker | None = None
        self._looking = False
        self._look_began = clock()
        self._opened = False
        self._released = False
        self._close_again = False
        self._retry_at = 0.0
        self._error: SourceError | None = None
        self._gpus: tuple[Gpu, ...] = ()
        self._samples: dict[str, GpuSample] = {}
        self._faults: dict[str, GpuFault] = {}
        self._sampled = False
        self._hung: dict[str, float] = {}
        self._down: dict[str, Reason] = {}
        self._holders: _Held | None = None
        self._holders_wanted = False
        self.health = health or SourceHealth(meter.name, clock=clock)
        self.fatal: SourceError | None = None
        """Set once only a new process can mend the meter: the daemon is to exit with 1."""
        self.skipped = 0
        """Looks that were not begun because one was still running."""

    # ----------------------------------------------------------------------------------------------------------- looking

    def begin(self) -> None:
        """Start a look, unless one is running, the meter is released, or it is not yet time to open it again."""
        self._drain()
        self._set_aside(self._clock())
        if self._close_again and not self._hung:
            self._close_again = False
            self._give(self._close_task)
        if self.fatal is not None or self._released:
            return
        if self._looking:
            self.skipped += 1
            return
        if not self._opened and self._clock() < self._retry_at:
            return
        self._looking = True
        self._sampled = False
        self._look_began = self._clock()
        open_first = not self._opened
        self._give(lambda worker: self._look(worker, open_first=open_first))

    def finish(self, deadline_seconds: float) -> AcceleratorReading:
        """What has come by this monotonic instant. Returns earlier when the look is complete."""
        while self._looking:
            now = self._clock()
            hang_at = self._set_aside(now)
            if now >= deadline_seconds:
                break
            try:
                message = self._messages.get(timeout=max(0.0, min(deadline_seconds, hang_at) - now))
            except Empty:
                continue
            self._take(message)
        self._drain()
        return self._reading()

    def _reading(self) -> AcceleratorReading:
        now = self._clock()
        stuck = self._stuck(now)
        if stuck is not None:
            self.health.failed(stuck)
        general = stuck or self._error or (_released_error() if self._released else None)
        if general is not None:
            for gpu in self._gpus:
                if gpu.uuid not in self._samples:
                    self._faults[gpu.uuid] = GpuFault(gpu.uuid, now, general.reason, general.detail)
        for uuid, since in self._hung.items():
            detail = f"{uuid}: a driver call has not returned for {now - since:.0f} s"
            self._faults[uuid] = GpuFault(uuid, now, Reason.TIMEOUT, detail)
        for uuid in self._samples:
            self._faults.pop(uuid, None)
        reading = AcceleratorReading(self._gpus, tuple(self._samples.values()), tuple(self._faults.values()))
        self._note_transitions(reading)
        self._samples = {}
        self._faults = {}
        return reading

    def _stuck(self, now: float) -> SourceError | None:
        """The meter as a whole does not return: nothing can be read, and nobody else is sent after it."""
        doing = self._worker.doing if self._worker is not None else None
        if not self._looking or doing is None or doing.uuid != LIBRARY or not self._opened:
            return None
        waited = now - doing.since_seconds
        if waited < self._hang_seconds:
            return None
        return SourceError(Reason.TIMEOUT, f"{self._meter.name}: the driver has not answered for {waited:.0f} s")

    # ----------------------------------------------------------------------------------------------------------- holders

    def request_holders(self) -> None:
        """Have the process lists read when the worker has time: they take milliseconds each."""
        if self._holders_wanted or not self._opened or self._released:
            return
        self._holders_wanted = True
        remaining = deque(gpu.uuid for gpu in self._gpus)
        self._give(self._holders_task(remaining, _Held({}, {}, 0.0)))

    def holders(self, max_age_seconds: float | None = None) -> Mapping[str, frozenset[int] | None] | None:
        """Process ids by GPU as last read; None for a GPU whose driver will not say. None before the first time, or when
        the last time is longer ago than asked for."""
        self._drain()
        held = self._holders
        if held is None or (max_age_seconds is not None and self._clock() - held.at_seconds > max_age_seconds):
            return None
        return held.holders

    def sharing(self) -> Mapping[str, Sharing]:
        """How each GPU is shared, as last read with the process lists; empty where the meter does not know."""
        return {} if self._holders is None else self._holders.sharing

    # ---------------------------------------------------------------------------------------------------- letting it go

    def release(self, deadline_seconds: float) -> bool:
        """Let go of the driver, so that somebody else can reset or partition a GPU. True once that is done; while a call
        hangs in the driver it cannot be, and is done when the call has returned."""
        if not self._released:
            self.health.failed(_released_error())
        return self._let_go(deadline_seconds)

    def _let_go(self, deadline_seconds: float) -> bool:
        self._released = True
        self._opened = False
        if self._worker is not None:
            self._give(self._close_task)
            if not self._await_close(deadline_seconds):
                return False
        self._close_again = bool(self._hung)
        return not self._hung

    def resume(self) -> None:
        """Take the driver up again at the next look."""
        self._released = self._close_again = False
        self._retry_at = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the meter noticed and the operator should know, where it notices anything."""
        return tuple(getattr(self._meter, "notes", ()))

    def close(self, deadline_seconds: float = 0.0) -> None:
        """Let go of the driver for good and end the thread, waiting no longer than to the given instant."""
        self._let_go(deadline_seconds)
        if self._worker is not None:
            self._worker.tasks.put(None)
            self._worker.thread.join(max(0.0, deadline_seconds - self._clock()))
            self._worker = None

    def _await_close(self, deadline_seconds: float) -> bool:
        while True:
            try:
                message = self._messages.get(timeout=max(0.0, deadline_seconds - self._clock()))
            except Empty:
                return False
            self._take(message)
            if isinstance(message, _Closed):
                return True

    # ------------------------------------------------------------------------------------------ in the caller's thread

    def _give(self, task: Callable[[Worker], bool]) -> None:
        if self._worker is None:
            self._worker = self._new_worker()
        self._worker.tasks.put(task)

    def _new_worker(self) -> Worker:
        return Worker(f"{self._meter.name}-poller", self._sample, self._pause)

    def _set_aside(self, now: float) -> float:
        """Give up a worker that hangs in a GPU, and let a fresh one go on. Returns when to look again."""
        worker = self._worker
        if worker is None:
            return now + self._hang_seconds
        hung = worker.abandon_if_hung(now, self._hang_seconds)
        if hung is None:
            doing = worker.doing
            return (now if doing is None else max(now, doing.since_seconds)) + self._hang_seconds
        self._hung[hung.uuid] = hung.since_seconds
        remaining = worker.remaining
        self._worker = self._new_worker()
        if hung.holders:
            self._holders_wanted = False
        elif not hung.sampling:
            self._worker.tasks.put(lambda fresh: self._read_all(fresh, remaining))
        while True:  # what was queued behind the call that hangs
            try:
                task = worker.tasks.get_nowait()
            except Empty:
                break
            self._worker.tasks.put(task)
        return now + self._hang_seconds

    def _drain(self) -> None:
        while True:
            try:
                self._take(self._messages.get_nowait())
            except Empty:
                return

    def _take(self, message: _Message) -> None:
        match message:
            case GpuSample():
                self._sampled = True
                self._samples[message.uuid] = message
                self._faults.pop(message.uuid, None)
            case _Failed(uuid, error):
                self._faults[uuid] = GpuFault(uuid, self._clock(), error.reason, error.detail)
                self._samples.pop(uuid, None)
                self._note_down(uuid, error)
                self.health.counted(error.reason)
            case _Found(gpus):
                if gpus != self._gpus:
                    self._note_found(gpus)
                    self._gpus = gpus
            case _Done():
                self._looking = False
                self._looked()
            case _Opened():
                self._opened = True
            case _Lost(error):
                self._looking = False
                self._lose(error)
            case _Returned(uuid):
                self._hung.pop(uuid, None)
            case _Held():
                self._holders = message
                self._holders_wanted = False
            case _Closed():
                self._opened = False
                self._holders_wanted = False

    def _looked(self) -> None:
        """A look is complete: the meter works, even if some of its GPUs do not."""
        self._error = None
        self._back_off.reset()
        duration = self._clock() - self._look_began
        if self._gpus and not self._sampled:
            fault = next(iter(self._faults.values()), None)
            reason, detail = (Reason.TIMEOUT, "driver calls hang") if fault is None else (fault.reason, fault.detail)
            self.health.failed(SourceError(reason, f"no GPU can be read; {detail}"), duration)
        else:
            self.health.succeeded(duration)

    def _lose(self, error: SourceError) -> None:
        self._opened = False
        self._holders_wanted = False
        self._error = error
        self._retry_at = self._clock() + self._back_off.next_seconds()
        self.health.failed(error, self._clock() - self._look_began)
        if error.fatal:
            self.fatal = error

    def _note_found(self, gpus: tuple[Gpu, ...]) -> None:
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

    def _note_down(self, uuid: str, error: SourceError) -> None:
        if self._down.get(uuid) is not error.reason:
            log.warning("gpu_down", uuid=uuid, reason=error.reason.value, detail=error.detail, hint=error.hint)
            self._down[uuid] = error.reason

    def _note_transitions(self, reading: AcceleratorReading) -> None:
        for uuid in self._hung:
            if uuid not in self._down:
                hint = "It is read again when the call returns. See the kernel log for Xid messages."
                self._note_down(uuid, SourceError(Reason.TIMEOUT, f"{uuid}: a driver call does not return", hint))
                self.health.counted(Reason.TIMEOUT)
        if self._down:
            for sample in reading.samples:
                if self._down.pop(sample.uuid, None) is not None:
                    log.info("gpu_up", uuid=sample.uuid)

    # ------------------------------------------------------------------------------------------- in the worker's thread

    def _look(self, worker: Worker, *, open_first: bool) -> bool:
        worker.enter(Doing(LIBRARY, self._clock()))
        gpus = outcome_of(lambda: self._sweep(open_first=open_first))
        if isinstance(gpus, SourceError):
            self._meter.close()
            worker.leave()
            self._messages.put(_Found(self._meter.gpus()))
            self._messages.put(_Lost(gpus))
            return True
        worker.leave()
        self._messages.put(_Found(gpus))
        return self._read_all(worker, deque(gpu.uuid for gpu in gpus))

    def _sweep(self, *, open_first: bool) -> tuple[Gpu, ...]:
        if open_first:
            self._meter.open()
            self._messages.put(_Opened())
        self._meter.sweep()
        return self._meter.gpus()

    def _read_all(self, worker: Worker, remaining: deque[str]) -> bool:
        worker.remaining = remaining
        while remaining:
            uuid = remaining.popleft()
            if uuid in self._hung:
                continue
            worker.enter(Doing(uuid, self._clock()))
            outcome = outcome_of(partial(self._meter.read, uuid))
            if not worker.leave():
                self._messages.put(_Returned(uuid))
                return False
            if isinstance(outcome, MeterLost):
                worker.enter(Doing(LIBRARY, self._clock()))
                self._meter.close()
                worker.leave()
                self._messages.put(_Lost(outcome))
                return True
            self._messages.put(_Failed(uuid, outcome) if isinstance(outcome, SourceError) else outcome)
        self._messages.put(_Done())
        return True

    def _pause(self) -> float | None:
        """Seconds to the next samples, never the same twice, or they would keep step with the load; None without any."""
        if self._sampling is None or not self._sampling.sampled_gpus():
            return None
        return self._sampling_seconds * (0.5 + self._random())

    def _sample(self, worker: Worker) -> bool:
        meter = self._sampling
        if meter is None:
            return True
        for uuid in meter.sampled_gpus():
            if uuid in self._hung:
                continue
            worker.enter(Doing(uuid, self._clock(), sampling=True))
            outcome_of(partial(meter.sample, uuid))  # a failure is told by the looks
            if not worker.leave():
                self._messages.put(_Returned(uuid))
                return False
        return True

    def _holders_task(self, remaining: deque[str], found: _Held) -> Callable[[Worker], bool]:
        """One GPU's process lists, and then the next as a new task, so that a look never waits for all of them."""

        def task(worker: Worker) -> bool:
            if not remaining:
                self._messages.put(_Held(found.holders, found.sharing, self._clock()))
                return True
            uuid = remaining.popleft()
            if uuid in self._hung:
                worker.tasks.put(task)
                return True
            worker.enter(Doing(uuid, self._clock(), holders=True))
            outcome = outcome_of(partial(self._ask, uuid))
            if not worker.leave():
                self._messages.put(_Returned(uuid))
                return False
            if isinstance(outcome, Sharing):  # a failure is told by the looks
                found.sharing[uuid] = outcome
                found.holders[uuid] = outcome.pids
            worker.tasks.put(task)
            return True

        return task

    def _ask(self, uuid: str) -> Sharing:
        return self._meter.sharing(uuid) if isinstance(self._meter, SharingMeter) else Sharing()

    def _close_task(self, worker: Worker) -> bool:
        worker.enter(Doing(LIBRARY, self._clock()))
        self._meter.close()
        worker.leave()
        self._messages.put(_Closed())
        return True


def _released_error() -> SourceError:
    return SourceError(
        Reason.DISABLED, "the driver was let go of on request", "POST /-/resume (or SIGUSR2) when the work is done."
    )
