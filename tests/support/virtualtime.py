"""Threads on a clock that jumps: time passes only when every thread waits, and then at once to the first that is due.

Replaces the queues and threads of :mod:`tpw.polling`, and the sleeping of a slow driver. Minutes take a moment, and every
run has the same result, whatever else the machine does.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any, Generic, TypeVar

import pytest

_T = TypeVar("_T")
FOREVER = float("inf")


class VirtualTime:
    """The clock, and who waits for it. The thread that makes it is the first that runs."""

    def __init__(self, start_seconds: float = 1000.0) -> None:
        self._now = start_seconds
        self._lock = threading.Lock()
        self._running = 1
        self._waiting: list[_Waiter] = []
        self.on_advance: Callable[[float], object] = lambda now: None

    def now(self) -> float:
        return self._now

    def sleep_until(self, at_seconds: float) -> None:
        with self._lock:
            waiter = _Waiter(max(at_seconds, self._now))
            self._block(waiter)
        waiter.event.wait()

    def _block(self, waiter: _Waiter) -> None:
        """With the lock: this thread waits from now on."""
        self._waiting.append(waiter)
        self._running -= 1
        self._advance()

    def _wake(self, waiter: _Waiter) -> None:
        """With the lock."""
        self._waiting.remove(waiter)
        self._running += 1
        waiter.event.set()

    def _advance(self) -> None:
        if self._running or not self._waiting:
            return
        first = min(self._waiting, key=lambda waiter: waiter.until)
        if first.until == FOREVER:
            return
        if first.until > self._now:
            self._now = first.until
            self.on_advance(self._now)
        self._wake(first)

    def queue(self) -> VirtualQueue[Any]:
        return VirtualQueue(self)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the pollers' threads and queues those of this clock."""
        clock = self

        class Thread(threading.Thread):
            def start(self) -> None:
                with clock._lock:
                    clock._running += 1
                super().start()

            def run(self) -> None:
                try:
                    super().run()
                finally:
                    with clock._lock:
                        clock._running -= 1
                        clock._advance()

            def join(self, timeout: float | None = None) -> None:
                """The thread ends by itself: the test does not wait for it, as time would have to pass."""

        monkeypatch.setattr("tpw.polling.worker.SimpleQueue", self.queue)
        monkeypatch.setattr("tpw.polling.reader.SimpleQueue", self.queue)
        monkeypatch.setattr("tpw.polling.worker.threading.Thread", Thread)


class _Waiter:
    __slots__ = ("event", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.event = threading.Event()


class VirtualQueue(Generic[_T]):
    """A queue with waits of virtual time."""

    def __init__(self, clock: VirtualTime) -> None:
        self._clock = clock
        self._items: deque[_T] = deque()
        self._getters: deque[_Waiter] = deque()

    def put(self, item: _T) -> None:
        with self._clock._lock:
            self._items.append(item)
            while self._getters:
                getter = self._getters.popleft()
                if getter in self._clock._waiting:
                    self._clock._wake(getter)
                    return

    def get(self, timeout: float | None = None) -> _T:
        clock = self._clock
        until = FOREVER if timeout is None else clock.now() + timeout
        while True:
            with clock._lock:
                if self._items:
                    return self._items.popleft()
                if clock.now() >= until:
                    raise Empty
                waiter = _Waiter(until)
                self._getters.append(waiter)
                clock._block(waiter)
            waiter.event.wait()
            with clock._lock:
                if waiter in self._getters:
                    self._getters.remove(waiter)

    def get_nowait(self) -> _T:
        with self._clock._lock:
            if not self._items:
                raise Empty
            return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


class SlowDriver:
    """NVML's functions with calls that take time on a virtual clock.

    Args:
        nvml: the binding.
        clock: the clock.
        call_seconds: of every call for a GPU.
        serialised: whether the driver has one lock for all calls, or one for each GPU.
    """

    def __init__(self, nvml: Any, clock: VirtualTime, call_seconds: float, *, serialised: bool = True) -> None:
        self._nvml = nvml
        self._clock = clock
        self.call_seconds = call_seconds
        self._serialised = serialised
        self._free_at: dict[int, float] = {}
        self._lock = threading.Lock()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._nvml, name)
        if not name.startswith("nvmlDevice"):
            return found

        def call(*arguments: Any) -> Any:
            key = 0 if self._serialised else _gpu(arguments)
            with self._lock:
                self.calls += 1
                begin = max(self._clock.now(), self._free_at.get(key, 0.0))
                end = self._free_at[key] = begin + self.call_seconds
            self._clock.sleep_until(end)
            return found(*arguments)

        return call


def _gpu(arguments: Sequence[Any]) -> int:
    """The GPU that a call is for, by its handle; 0 for other calls."""
    handle = arguments[0] if arguments else None
    return ctypes.cast(handle, ctypes.c_void_p).value or 0 if isinstance(handle, ctypes._Pointer) else 0
