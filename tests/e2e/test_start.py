"""Start and end of the process while feeds, the driver or the scan do not answer: nothing of that may delay it."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from fakenvml import FakeNvml
from support.scraped import parse
from support.servers import Child, HttpStatusError, clean_environment, exporter_command, free_port, http_get, wait_until

HEALTHY_SECONDS = 1.0
READING_SECONDS = 2.0
END_SECONDS = 3.0


@contextmanager
def feed(answer: bytes, every_seconds: float) -> Iterator[str]:
    """A server that accepts every connection and sends its answer byte by byte, however long that takes."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def drip(client: socket.socket) -> None:
        with client:
            try:
                for byte in answer:
                    client.sendall(bytes([byte]))
                    if is_over.wait(every_seconds):
                        return
                is_over.wait(600)
            except OSError:
                return

    def accept() -> None:
        while not is_over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        is_over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def silent() -> Iterator[str]:
    with feed(b"", 0.0) as url:
        yield url


@contextmanager
def dripping() -> Iterator[str]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    with feed(head + b"[" + b" " * 1000, 0.2) as url:
        yield url


@contextmanager
def refusing() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


FEEDS = {"silent": silent, "dripping": dripping, "refusing": refusing}


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 2) as fake:
        yield fake


class Run:
    """One process from its start."""

    def __init__(
        self, name: str, directory: Path, nvml: FakeNvml, config: dict[str, object], **environment: str
    ) -> None:
        self.port = free_port()
        file = directory / f"exporter-{self.port}.yaml"
        file.write_text(yaml.safe_dump({"host": {"meters": []}, **config}))
        command = exporter_command(
            "run",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--state.dir={directory / f'state-{self.port}'}",
            f"--config.file={file}",
        )
        self._queued_before = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
        self.began = time.monotonic()
        self.child = Child(f"{name}-{self.port}", command, clean_environment(**nvml.env(), **environment))
        self.url = f"http://127.0.0.1:{self.port}"

    def first(self, answers: Callable[[], object], what: str) -> float:
        """Seconds from the start until something holds for the first time, without those in the queue of a busy machine."""
        wait_until(answers, what, every=0.01)
        return time.monotonic() - self.began - self._queued_seconds()

    def _queued_seconds(self) -> float:
        tasks = [Path("/proc/self"), *Path(f"/proc/{self.child.process.pid}/task").iterdir()]
        queued = 0.0
        for task in tasks:
            with suppress(OSError):  # a thread that has ended
                queued += int((task / "schedstat").read_text().split()[1]) / 1e9
        return queued - self._queued_before

    def is_healthy(self) -> bool:
        return http_get(f"{self.url}/-/healthy", timeout=1.0) == b"healthy\n"

    def has_readings(self) -> bool:
        return parse(http_get(f"{self.url}/metrics", timeout=1.0).decode()).sum("tpw_gpu_up") == 2.0

    def not_ready(self) -> str:
        """What ``/-/ready`` lists; empty where it is ready."""
        try:
            http_get(f"{self.url}/-/ready", timeout=1.0)
        except HttpStatusError as error:
            return f"{error.status}\n{error.body}"
        return ""

    def end(self) -> tuple[float, int]:
        """Seconds from SIGTERM to the end, and the exit status."""
        asked = time.monotonic()
        self.child.process.send_signal(signal.SIGTERM)
        try:
            status = self.child.process.wait(20)
        except subprocess.TimeoutExpired:
            status = 1000
        return time.monotonic() - asked, status


Start = Callable[..., Run]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path, nvml: FakeNvml) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(config: dict[str, object], **environment: str) -> Run:
            run = Run(request.node.name, tmp_path, nvml, config, **environment)
            stack.callback(run.child.stop)
            return run

        yield start


def all_feeds(url: str) -> dict[str, object]:
    """A configuration with price, carbon intensity and PUE from one address."""
    rows = {"time": "t", "time_format": "unix", "resolution": "1h"}
    return {
        "tariff": {"currency": "EUR", "energy": {"kind": "intervals", "url": f"{url}/p", "price": "v", **rows}},
        "carbon": {"kind": "intervals", "url": f"{url}/g", "value": "v", "basis": "average_direct", **rows},
        "facility": {"pue": {"url": url, "query": "pue", "fallback": 1.3}},
    }


@pytest.mark.parametrize("kind", FEEDS)
def test_a_feed_that_does_not_answer_delays_neither_start_nor_readings_nor_end(start: Start, kind: str) -> None:
    attempts = []
    with FEEDS[kind]() as url:
        for _ in range(3):  # the best one counts: other processes may use the CPUs
            run = start(all_feeds(url))
            healthy = run.first(run.is_healthy, "healthy")
            reading = run.first(run.has_readings, "GPU readings")
            ready = run.first(lambda run=run: run.not_ready() == "", "ready")
            end, status = run.end()
            assert status == 0
            attempts.append((reading, healthy, ready, end))
            if healthy <= HEALTHY_SECONDS and reading <= READING_SECONDS:
                break

    reading, healthy, ready, end = min(attempts)
    assert healthy <= HEALTHY_SECONDS
    assert reading <= READING_SECONDS
    assert ready <= READING_SECONDS + 1.0, "feeds are not awaited"
    assert end <= END_SECONDS


@pytest.mark.parametrize("after_seconds", [0.0, 0.1, 0.3, 0.6, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("kind", FEEDS)
def test_sigterm_ends_the_process_at_any_moment_of_the_start(start: Start, kind: str, after_seconds: float) -> None:
    with FEEDS[kind]() as url:
        run = start(all_feeds(url))
        run.first(run.is_healthy, "healthy")
        time.sleep(after_seconds)
        end, status = run.end()

    assert (end <= END_SECONDS, status) == (True, 0), end
    assert "Traceback" not in run.child.log.read_text()


@pytest.mark.parametrize("after_seconds", [0.02, 0.1, 0.2, 0.3, 0.4])
def test_sigterm_ends_a_process_that_does_not_listen_yet(start: Start, after_seconds: float) -> None:
    run = start({})
    time.sleep(after_seconds)
    end, status = run.end()

    assert end <= END_SECONDS
    assert status in (0, -signal.SIGTERM), "Python itself ends by the signal until the exporter handles it"
    assert "Traceback" not in run.child.log.read_text()


def test_a_signal_that_reaches_another_thread_ends_the_process(start: Start) -> None:
    """The kernel chooses the thread, and the main one waits: nothing wakes it then. So it is with a signal that comes in
    the moment before it waits."""
    run = start({})
    run.first(lambda: run.not_ready() == "", "ready")
    pid = run.child.process.pid
    (other, *_) = (int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)
    asked = time.monotonic()
    assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
    assert run.child.process.wait(20) == 0
    assert time.monotonic() - asked <= END_SECONDS


def test_a_driver_that_hangs_delays_neither_health_nor_end(start: Start, nvml: FakeNvml) -> None:
    nvml.hang(0)
    nvml.hang(1)
    run = start({})
    healthy = run.first(run.is_healthy, "healthy")
    time.sleep(2.5)
    body = run.not_ready()
    still_healthy = run.is_healthy()
    end, status = run.end()

    assert healthy <= HEALTHY_SECONDS
    assert still_healthy
    assert body == "" or "meter nvml" in body
    assert (end <= END_SECONDS, status) == (True, 0), end


def test_a_scan_that_hangs_delays_neither_readings_nor_end(start: Start, tmp_path: Path) -> None:
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import time, tpw.discovery.scan\ntpw.discovery.scan.scan_host = lambda *_, **__: time.sleep(3600)\n"
    )
    import os

    run = start({}, PYTHONPATH=os.pathsep.join([str(patch), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
    healthy = run.first(run.is_healthy, "healthy")
    reading = run.first(run.has_readings, "GPU readings")
    body = run.not_ready()
    end, status = run.end()

    assert healthy <= HEALTHY_SECONDS
    assert reading <= READING_SECONDS
    assert "the scan of processes" in body
    assert (end <= END_SECONDS, status) == (True, 0), end


def test_a_reload_that_waits_for_a_silent_feed_delays_no_end(start: Start) -> None:
    with silent() as url:
        run = start(all_feeds(url))
        run.first(run.has_readings, "GPU readings")
        run.child.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        healthy = run.is_healthy()
        end, status = run.end()

    assert healthy
    assert (end <= END_SECONDS, status) == (True, 0), end


def test_ready_lists_what_is_awaited(start: Start) -> None:
    with silent() as url:
        server = {"name": "chat", "url": url, "timeout": "2s", "gpus": "none"}
        run = start({"servers": [server], "polling": {"interval": "1s"}})
        run.first(run.has_readings, "GPU readings")
        body = run.not_ready()
        ready = run.first(lambda: run.not_ready() == "", "ready")

    assert body.splitlines() == ["503", "not ready; awaited:", "server chat"]
    assert ready <= 6.0
