"""The node of a chaos run: stand-in GPUs, servers, a price feed, the daemon, and a scraper that never stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
import yaml

from chaos.judge import Judge
from fakenvml import FakeNvml
from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from support.scraped import Page, parse
from support.servers import clean_environment, exporter_command, free_port, http_get
from wallclock import WallClock

GPUS = 4
INTERVAL_SECONDS = 0.25
RECOVERY_SECONDS = 5.0
TOKENS_PER_SECOND = 1000.0


@dataclass
class Server:
    """A server like vLLM that generates tokens at a constant rate, and can be made to answer something else."""

    name: str
    answers: bytes | None = None
    hangs_up: bool = False
    began: float = field(default_factory=time.monotonic)
    started_wall: float = field(default_factory=time.time)
    extra: str = ""
    base: float = 0.0

    def tokens(self, at_seconds: float | None = None) -> float:
        """Counted since its start until a monotonic instant; until now without one."""
        return self.base + TOKENS_PER_SECOND * ((time.monotonic() if at_seconds is None else at_seconds) - self.began)

    def restart(self) -> None:
        """All counters are 0 again."""
        self.began, self.started_wall = time.monotonic(), time.time()

    def __call__(self, asked: Asked) -> bytes | None:
        if self.hangs_up:
            return None
        if asked.path != "/metrics":
            return NOT_FOUND
        return self.answers or answer(
            f"process_start_time_seconds {self.started_wall!r}\n"
            f'vllm:num_requests_running{{model_name="m"}} 1\n'
            f'vllm:generation_tokens_total{{model_name="m"}} {self.tokens()!r}\n{self.extra}'
        )


@dataclass
class Feed:
    """A price feed with the API of a Prometheus."""

    answers: bytes | None = None
    hangs_up: bool = False

    def __call__(self, asked: Asked) -> bytes | None:
        if self.hangs_up:
            return None
        now = int(time.time())
        values = [[at, "0.25"] for at in range(now - 3600, now + 1, 60)]
        data = {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
        return self.answers or answer(json.dumps({"status": "success", "data": data}), content_type="application/json")


class Disk:
    """A file system of 96 MiB, which can be filled and made read-only. A context manager.

    Only in a mount namespace of this process (:func:`in_own_namespace`), so nothing of it is left behind.
    """

    MEBIBYTES = 96  # a backup needs 64 free ones

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @staticmethod
    def is_available() -> bool:
        """Whether this process may mount."""
        return os.environ.get(_NAMESPACE) == str(os.getpid())

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.MEBIBYTES}m,mode=700", "none", self.path], check=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)

    def fill(self) -> None:
        """Leave no byte."""
        with self._ballast.open("wb", buffering=0) as ballast:
            for block in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while ballast.write(bytes(block)) == block:
                        pass

    def free(self) -> None:
        """Delete what fills it."""
        self._ballast.unlink(missing_ok=True)

    def protect(self, *, is_read_only: bool) -> None:
        """Make it read-only, which needs that no process has a file in it open for writing; or end that."""
        subprocess.run(["mount", "-o", f"remount,{'ro' if is_read_only else 'rw'}", self.path], check=True)


_NAMESPACE = "CHAOS_NAMESPACE"


def in_own_namespace(arguments: list[str]) -> None:
    """Run this command anew where it may mount file systems that no other process sees. Returns where it does already, and
    where the kernel does not allow it."""
    if _NAMESPACE in os.environ:
        return
    enter = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
    try:
        subprocess.run([*enter, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return
    os.environ[_NAMESPACE] = str(os.getpid())  # exec keeps the process
    os.execvp(enter[0], [*enter, *arguments])  # noqa: S606 - no shell is wanted


class World:
    """Everything that runs. A context manager.

    Args:
        directory: of this run.
        judge: sees every page.
    """

    def __init__(self, directory: Path, judge: Judge) -> None:
        self.directory, self.judge = directory, judge
        self.state = directory / "state"
        self.disk = Disk(directory / "state") if Disk.is_available() else None
        """Of the books, with a size of its own. None where this user may mount nothing."""
        self.log = directory / "daemon.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.clock = WallClock(directory)
        self.servers = {name: Server(name) for name in ("chat", "embed", "bad")}
        self.feed = Feed()
        self.page = Page()
        """The last one."""
        self.exits: list[str] = []
        self.stalled = 0.0
        self._stack = ExitStack()
        self._over = threading.Event()
        self._scraping = threading.Lock()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        if self.disk is not None:
            enter(self.disk)
        self.nvml = enter(FakeNvml(self.directory, GPUS, refresh_seconds=0.02))
        for index in range(GPUS):
            self.nvml.gpu(index).set_square(150.0 + 10 * index, 500.0, 3.0 + index, 0.5)
            self.nvml.utilization(index, 80)
        self.hosts = {name: enter(PageServer(script)) for name, script in self.servers.items()}
        self.feed_host = enter(PageServer(self.feed))
        self.config = self.directory / "tpw.yaml"
        tariff = {
            "currency": "EUR",
            "energy": {"kind": "intervals", "format": "prometheus", "url": self.feed_host.url, "query": "price"},
        }
        servers = [
            {"name": name, "url": host.url, "engine": "vllm", "gpus": [index]}
            for index, (name, host) in enumerate(self.hosts.items())
        ]
        document = {
            "polling": {"interval": f"{INTERVAL_SECONDS}s"},
            "host": {"meters": []},
            "discovery": {"processes": False},
            "tariff": tariff,
            "servers": servers,
        }
        self.config.write_text(yaml.safe_dump(document))
        self.began = time.monotonic()
        self.start()
        self.await_ticks("start")
        self._scraper = threading.Thread(target=self._scrape_on, daemon=True)
        self._scraper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._scraper.join(5)
        self.process.kill()
        self.process.wait()
        self._stack.close()

    # ---------------------------------------------------------------------------------------------------- the daemon

    def start(self) -> None:
        """Start the daemon. Does not wait."""
        command = exporter_command(
            "run",
            f"--config.file={self.config}",
            f"--state.dir={self.state}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=info",
        )
        environment = clean_environment(**self.nvml.env(), **self.clock.env())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def ended_within(self, seconds: float) -> int | None:
        """The status with which the daemon ends within this time; None if it does not. Time in which processes waited for a
        CPU is not counted."""
        began, stalled = time.monotonic(), self.stalled_seconds()
        while time.monotonic() - began < seconds + self.stalled_seconds() - stalled:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.2)
        return None

    def weight(self) -> str:
        """Memory, threads and descriptors of the daemon now."""
        process = psutil.Process(self.process.pid)
        memory = process.memory_info().rss / 2**20
        return f"{memory:.0f} MiB, {process.num_threads()} threads, {process.num_fds()} descriptors"

    def books_destroyed(self) -> None:
        """The next page may show lower counters. Waits for a scrape that runs, which may still be one of before."""
        with self._scraping:
            self.judge.books_destroyed()

    def await_written(self) -> None:
        """Wait until the books are written again: a kill before that loses what is only in memory (at most 10 s)."""
        deadline = time.monotonic() + 12.0
        while time.monotonic() < deadline and self.process.poll() is None:
            page = self.scrape()
            if page is not None and page.values_of("tpw_books_writable") == [1.0]:
                return
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    # ----------------------------------------------------------------------------------------------------- the scraper

    def scrape(self) -> Page | None:
        """One scrape, shown to the judge; None where there is no answer."""
        with self._scraping:
            try:
                page = parse(http_get(f"{self.url}/metrics", timeout=1.0).decode())
            except (OSError, ValueError):
                return None
            if page.values_of("tpw_polls_total"):
                self.page = page
                self.judge.see(page)
            return page

    def _scrape_on(self) -> None:
        while not self._over.wait(0.2):
            with contextlib.suppress(Exception):
                self.scrape()

    @staticmethod
    def stalled_seconds() -> float:
        """For how long some process of this machine has waited for a CPU (PSI). 0 where it is not known."""
        try:
            return int(Path("/proc/pressure/cpu").read_text().partition("total=")[2].split()[0]) / 1e6
        except (OSError, IndexError, ValueError):
            return 0.0

    def await_ticks(self, what: str, seconds: float = 10.0) -> float:
        """Wait until the daemon is alive and ticks on. Returns how long that took; infinite if it did not.

        ``stalled`` is the part of it in which some process of this machine waited for a CPU.
        """
        began, stalled, self.stalled = time.monotonic(), self.stalled_seconds(), 0.0
        first: float | None = None
        while time.monotonic() - began < seconds + self.stalled:
            self.stalled = self.stalled_seconds() - stalled
            if self.process.poll() is not None:
                self.exits.append(f"{what}: the daemon ended with {self.process.returncode}")
                self.start()
            page = self.scrape()
            polls = page.values_of("tpw_polls_total") if page else []
            if polls:
                if first is None or polls[0] < first:
                    first = polls[0]
                elif polls[0] >= first + 2:
                    return time.monotonic() - began
            time.sleep(0.05)
        return float("inf")

    # ------------------------------------------------------------------------------------------------------- the truth

    def booked_joules(self, index: int) -> float:
        """Energy of a GPU on the last page."""
        return self.page.sum("tpw_gpu_energy_joules_total", uuid=self.nvml.uuid(index))

    def true_joules(self, index: int, start: float, end: float) -> float:
        """What it used between two monotonic instants."""
        return self.nvml.true_joules(index, start, end)
