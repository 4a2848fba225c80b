"""Calls one accelerator meter, in a worker's thread, and posts the results to the tick's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from tpw.model import Gpu, GpuSample, Sharing, SourceError
from tpw.polling.health import Jitter, attempt
from tpw.polling.round import Effort, Round
from tpw.polling.state import Event
from tpw.polling.worker import Abandoned, Call, CallKind, Task, Worker
from tpw.power import AcceleratorMeter, Clock, MeterLost, NotingMeter, ParallelMeter, SamplingMeter, SharingMeter

_T = TypeVar("_T")

_FADING = 0.98
"""Weight of an older duration at each call: a driver that has recovered is trusted again after some hundred calls."""


@dataclass(frozen=True, slots=True)
class ReadDone:
    """Every GPU has been read or has failed. The tick's thread may see that much later."""

    at_seconds: float
    effort: Effort | None
    """None where the round is no measure of the driver: a GPU was set aside, or none was read."""


@dataclass(frozen=True, slots=True)
class GpuFailed:
    """One GPU was not read."""

    uuid: str
    error: SourceError


@dataclass(frozen=True, slots=True)
class LibraryLost:
    """The meter as a whole failed and was closed. The read is over."""

    error: SourceError


@dataclass(frozen=True, slots=True)
class CallReturned:
    """A call that had been abandoned has returned; its result, if it was a read, is the message before. Its thread ends."""

    uuid: str


@dataclass(frozen=True, slots=True)
class SharingRead:
    """Processes and sharing of every GPU that answered."""

    sharing: Mapping[str, Sharing]


Message = Event | tuple[Gpu, ...] | GpuSample | GpuFailed | LibraryLost | ReadDone | CallReturned | SharingRead
"""A tuple holds all GPUs that the meter has found."""


class _ReadTimes:
    """When each GPU was last read or sampled, and so when it is to be sampled next."""

    __slots__ = ("_gaps", "_read_at", "_sampled_at")

    def __init__(self) -> None:
        self._sampled_at: dict[str, float] = {}
        """When a GPU was last read or sampled."""
        self._read_at: dict[str, float] = {}
        self._gaps: dict[str, float] = {}
        """Time between the last two reads of a GPU."""

    def read(self, uuid: str, now: float) -> None:
        """A GPU has been read."""
        self._gaps[uuid] = now - self._read_at.get(uuid, now)
        self._read_at[uuid] = self._sampled_at[uuid] = now

    def sampled(self, uuid: str, now: float) -> None:
        """A GPU has been sampled."""
        self._sampled_at[uuid] = now

    def due_at(self, uuid: str, every_seconds: float) -> float:
        """A GPU that is read often enough needs no samples: the next read comes first."""
        wait = every_seconds if self._gaps.get(uuid, 0.0) > _OFTEN * every_seconds else _LATE * every_seconds
        return self._sampled_at.get(uuid, float("-inf")) + wait


class MeterReader:
    """The tasks of a worker over one meter. The tick's thread reads ``messages`` and writes ``hung``; nothing else is
    shared.

    Args:
        meter: what to read.
        clock: monotonic seconds.
        random: jitter of the pauses between samples.
        sampling_seconds: between two samples, on average; 0: none.
    """

    def __init__(self, meter: AcceleratorMeter, clock: Clock, random: Jitter, sampling_seconds: float) -> None:
        self.meter = meter
        self.noting = meter if isinstance(meter, NotingMeter) else None
        self._clock = clock
        self.random = random
        self._sampling_seconds = sampling_seconds
        self._sampling = meter if isinstance(meter, SamplingMeter) and sampling_seconds > 0.0 else None
        self._sharing = meter if isinstance(meter, SharingMeter) else None
        self.parallel = isinstance(meter, ParallelMeter) and meter.reads_in_parallel
        self._times = _ReadTimes()
        self.messages: SimpleQueue[Message] = SimpleQueue()
        self.helpers: tuple[Worker, ...] = ()
        """Further threads that read GPUs. Set by the tick's thread."""
        self.usual_seconds = 0.0
        """The longest of the recent calls for a GPU that returned; an older one counts less."""
        self.usual_library_seconds = 0.0
        """The same for calls of the library as a whole, without opening it."""
        self.hung: dict[str, float] = {}
        """GPUs with an abandoned call that has not returned, and since when (monotonic): no further call is made for
        them."""

    def worker(self) -> Worker:
        """A new thread for these tasks."""
        return Worker(f"{self.meter.name}-poller", self.sample, self.pause)

    def helper(self) -> Worker:
        """A new thread that only reads GPUs."""
        return Worker(f"{self.meter.name}-poller")

    def read_all(self, worker: Worker, *, open_first: bool) -> None:
        """Sweep and read every GPU."""

        def sweep() -> tuple[Gpu, ...]:
            if open_first:
                self.meter.open()
                self.messages.put(Event.OPENED)
            self.meter.sweep()
            return self.meter.gpus()

        began = self._clock()
        worker.enter(Call(CallKind.LIBRARY, "", began))
        gpus = attempt(sweep)
        if isinstance(gpus, SourceError):
            self.meter.close()
            worker.leave()
            self.messages.put(self.meter.gpus())
            self.messages.put(LibraryLost(gpus))
            return
        worker.leave()
        if not open_first:
            self.usual_library_seconds = max(self._clock() - began, _FADING * self.usual_library_seconds)
        self.messages.put(gpus)
        waiting = [gpu.uuid for gpu in gpus if gpu.uuid not in self.hung]
        if not waiting:
            self.messages.put(ReadDone(self._clock(), None))
            return
        whole = Round(waiting, 1 + len(self.helpers), self._clock())
        for helper in self.helpers:
            helper.tasks.put(partial(self.read_round, whole=whole))
        self.read_round(worker, whole)

    def read_round(self, worker: Worker, whole: Round) -> None:
        """Read GPUs of a round until none waits. Whoever reads the last one ends it."""
        worker.round = whole
        while (uuid := whole.take()) is not None:
            began = self._clock()
            lost = None if uuid in self.hung else self._read(worker, uuid)
            if whole.done(self._clock() - began, lost):
                self.end_round(worker, whole)

    def end_round(self, worker: Worker, whole: Round) -> None:
        """All GPUs of a round were read, or the library is lost."""
        if whole.lost is None:
            now = self._clock()
            self.messages.put(ReadDone(now, whole.effort(now)))
        else:
            self._close(worker)
            self.messages.put(LibraryLost(whole.lost))

    def _read(self, worker: Worker, uuid: str) -> MeterLost | None:
        """Read one GPU. Returns the failure of the library, if that is the outcome."""
        outcome = self._call(worker, CallKind.READ, uuid, self.meter.read)
        if isinstance(outcome, MeterLost):
            return outcome
        if self._sampling is not None:
            self._times.read(uuid, self._clock())
        self.messages.put(_message(uuid, outcome))
        return None

    def sharing_task(self, uuids: deque[str]) -> Task:
        """Reads the sharing of one GPU, and queues the next GPU as a new task, so that a read never waits for all of
        them."""
        found: dict[str, Sharing] = {}

        def task(worker: Worker) -> None:
            if not uuids:
                self.messages.put(SharingRead(found))
                return
            uuid = uuids.popleft()
            if uuid not in self.hung:
                outcome = self._call(worker, CallKind.SHARING, uuid, self._sharing_of)
                if isinstance(outcome, Sharing):  # a failure shows at the next read
                    found[uuid] = outcome
            worker.tasks.put(task)

        return task

    def _sharing_of(self, uuid: str) -> Sharing:
        return Sharing() if self._sharing is None else self._sharing.sharing(uuid)

    def pause(self) -> float | None:
        """Seconds until the next samples: of instants at random times, so that they cannot stay in phase with the load, of
        means when they are due. None: no GPU needs any."""
        meter = {} if self._sampling is None else self._sampling.sampling()
        sampled = {uuid: every for uuid, every in meter.items() if uuid not in self.hung}
        if not sampled:
            return None
        if None in sampled.values():
            return self._sampling_seconds * (0.5 + self.random())
        now = self._clock()
        return max(0.0, min(self._times.due_at(uuid, every or 0.0) for uuid, every in sampled.items()) - now)

    def sample(self, worker: Worker) -> None:
        """Take one sample of each GPU that needs it now."""
        meter, now = self._sampling, self._clock()
        for uuid, every in {} if meter is None else meter.sampling().items():
            if (
                meter is not None
                and uuid not in self.hung
                and (every is None or now >= self._times.due_at(uuid, every))
            ):
                self._call(worker, CallKind.SAMPLE, uuid, meter.sample)  # a failure shows at the next read
                self._times.sampled(uuid, self._clock())

    def close(self, worker: Worker) -> None:
        """Close the meter."""
        self._close(worker)
        self.messages.put(Event.CLOSED)

    def _close(self, worker: Worker) -> None:
        worker.enter(Call(CallKind.LIBRARY, "", self._clock()))
        self.meter.close()
        worker.leave()

    def _call(self, worker: Worker, kind: CallKind, uuid: str, call: Callable[[str], _T]) -> _T | SourceError:
        """The outcome of one call for one GPU. Raises Abandoned; the outcome of a read is used even then."""
        began = self._clock()
        worker.enter(Call(kind, uuid, began))
        outcome = attempt(partial(call, uuid))
        if not isinstance(outcome, SourceError):
            self.usual_seconds = max(self._clock() - began, _FADING * self.usual_seconds)
        try:
            worker.leave()
        except Abandoned:
            if isinstance(outcome, GpuSample):
                self.messages.put(outcome)
            self.messages.put(CallReturned(uuid))
            raise
        return outcome


_OFTEN, _LATE = 1.2, 1.4
"""A GPU with reads at most ``_OFTEN`` times the time of its mean apart is sampled only if a read is late by ``_LATE``."""


def _message(uuid: str, outcome: GpuSample | SourceError) -> GpuSample | GpuFailed:
    return GpuFailed(uuid, outcome) if isinstance(outcome, SourceError) else outcome
