"""What reaches the main thread of the daemon's process."""

from __future__ import annotations

import signal
import threading

import pytest

from tpw.cli.serving import _Events


def test_a_signal_that_arrives_on_another_thread_ends_the_wait_of_the_main_thread():
    events = _Events()
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)

    def send() -> None:
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, lambda *_: events.put(lambda: 7))
    wakeup = signal.set_wakeup_fd(-1)
    try:
        events.wake_by_signals()
        other.start()
        threading.Timer(0.05, send).start()
        event = None
        while event is None:  # the byte of the interpreter may come before the handler has run
            event = events.get(10.0)
        assert event() == 7
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR2, before)
        ended.set()
        other.join()


@pytest.mark.timeout(10)
def test_events_come_in_order_and_a_wait_without_one_ends_in_time():
    events = _Events()
    for number in range(70_000):  # more than a pipe holds
        events.put(lambda number=number: number)
    taken = []
    while (event := events.get(0.0)) is not None:
        taken.append(event())
    assert taken == list(range(70_000))
