"""A Kubernetes node in a test, on a clock that the test moves.

Pods of one Deployment on loopback ports, processes in a procfs on disk, and the exporter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from support.pageserver import PageServer, answer
from support.procfs import FakeProcFs, Tcp
from support.scraped import Page as Scraped
from support.scraped import parse
from tpw.config.load import load
from tpw.daemon.daemon import Daemon
from tpw.discovery.processes import HostProcesses
from tpw.exposition.render import Format, Page
from tpw.power.simulated import SimulatedMeter
from tpw.store.sqlite import BooksFile

GPUS = 4


@dataclass
class Pod:
    """One replica, on one GPU."""

    number: int
    gpu: int
    server: PageServer
    tokens: int = 0
    is_ready: bool = False
    is_away: bool = False


@dataclass
class Node:
    """A node with the pods of one Deployment, and the exporter."""

    directory: Path
    monkeypatch: pytest.MonkeyPatch
    discovery: str = ""
    """Further settings of `discovery`."""
    config: str = ""
    """Further sections."""
    host: str = "meters: []"
    """Settings of `host`."""
    sees_host: bool = True
    """Whether the exporter is in the host's pid namespace."""
    now: float = 1000.0
    pods: list[Pod] = field(default_factory=list)
    made: int = 0
    ended_tokens: int = 0

    def __post_init__(self) -> None:
        self.proc = FakeProcFs(self.directory / "proc")
        # Discovery compares the start of processes with the clock of the machine.
        self.boot_seconds = int(time.time()) - 2000
        (self.proc.root / "stat").write_text(f"cpu 1 2\nbtime {self.boot_seconds}\n")
        self.proc.process(1, "/sbin/init", comm="systemd", parent=0)
        if self.sees_host:
            self.proc.process(2, "", comm="kthreadd", parent=0)
        self.logs = self.directory / "pods"
        self.monkeypatch.setattr(
            "tpw.daemon.ownership.HostProcesses",
            partial(HostProcesses, str(self.proc.root), clock=lambda: self.now),
        )
        self.start()

    def start(self) -> None:
        """The exporter, with the books that are there."""
        settings = f"pod_logs: '{self.logs}'" if "pod_logs" not in self.discovery else ""
        discovery = ", ".join(part for part in (settings, self.discovery) if part)
        config = load(f"host: {{{self.host}}}\ndiscovery: {{{discovery}}}\n{self.config}")
        self.daemon = Daemon(
            config,
            BooksFile(self.directory / "state"),
            clock=lambda: self.now,
            wall=lambda: self.boot_seconds + self.now,
            accelerators=[SimulatedMeter(gpus=GPUS, clock=lambda: self.now, holders=self.holders)],
        )

    def holders(self) -> dict[int, frozenset[int]]:
        by_gpu: dict[int, set[int]] = {gpu: set() for gpu in range(GPUS)}
        for pod in self.pods:
            by_gpu[pod.gpu].add((1000 if self.sees_host else 90_000) + pod.number)
        return {gpu: frozenset(pids) for gpu, pids in by_gpu.items()}

    def begin(self) -> Pod:
        """A pod that holds its GPU and loads its model."""
        self.made += 1
        number, gpu = self.made, next(one for one in range(GPUS) if one not in {pod.gpu for pod in self.pods})

        def page(pod: Pod, path: str) -> bytes | None:
            if pod.is_away:
                return None
            known = pod.is_ready and path == "/metrics"
            text = f'vllm:generation_tokens_total{{model_name="m",engine="0"}} {pod.tokens}\n'
            return answer(text) if known else answer(status=404 if pod.is_ready else 503)

        server = PageServer(lambda asked: page(pod, asked.path))
        server.__enter__()
        pod = Pod(number, gpu, server)
        self.pods.append(pod)
        uid = f"0b5a2f4e-6b1c-4a5e-9c1d-{number:012d}"
        (self.logs / f"chat_llama-7d9f8c6b5-{'bcdfg'[number % 5] * 5}_{uid}").mkdir(parents=True)
        self.proc.process(
            1000 + number,
            f"vllm serve m --port {server.port}",
            started=int(self.now * 100),
            sockets=(5000 + number,),
            cgroup=f"0::/kubepods/burstable/pod{uid}/{'a' * 64}",
        )
        self._listen()
        return pod

    def close(self) -> None:
        """Stop everything."""
        self.daemon.stop()
        for pod in list(self.pods):
            self.end(pod)

    def end(self, pod: Pod) -> None:
        self.pods.remove(pod)
        self.proc.end(1000 + pod.number)
        self.ended_tokens += pod.tokens
        pod.server.__exit__(None, None, None)
        self._listen()

    def _listen(self) -> None:
        self.proc.network("host", ("10.0.0.1",), [Tcp(pod.server.port, 5000 + pod.number) for pod in self.pods])

    def ready(self, pod: Pod) -> None:
        pod.is_ready = True

    def scan(self) -> None:
        self.now += 15.0
        self.daemon.poll_all()

    def tick(self, tokens: int = 0) -> None:
        """One tick in which every replica that is ready makes tokens."""
        self.now += 1.0
        for pod in self.pods:
            if pod.is_ready:
                pod.tokens += tokens
        self.daemon.tick()

    @property
    def truth(self) -> int:
        return self.ended_tokens + sum(pod.tokens for pod in self.pods)

    def page(self) -> Scraped:
        return parse(Page().body(self.daemon.snapshot, Format.TEXT).decode())

    def counted(self) -> float:
        return self.page().sum("tpw_server_tokens_total", kind="output")

    def servers(self) -> set[str]:
        """Without those of no server: ``(idle)``, ``(other)``."""
        found = {dict(labels)["server"] for _, labels in self.page() if "server" in dict(labels)}
        return {name for name in found if not name.startswith("(")}
