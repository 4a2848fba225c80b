"""Pods of real processes: network namespaces on a bridge, cgroups named as the kubelet names them, users, mounts.

A node is a network namespace of its own with a bridge; pods and the exporter are connected to it. Everything is removed at
the end, processes by their pid. It needs root, ``ip``, ``unshare``, ``setpriv`` and a writable cgroup hierarchy.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from support.servers import Child

CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"))
_COMMANDS = ("ip", "unshare", "setpriv", "nsenter", "mount")
_EXPORTER_USER = 10101

ENGINE = '''
"""Named like vLLM: serves a page, and has its GPU processes below itself as vLLM has them."""
import os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path == "/metrics"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(open(os.environ["PAGE"], "rb").read() if known else b"")

    def log_message(self, *what):
        pass

if os.environ.get("WORKER"):
    hold = "import sys; sys.stdin.read()"
    worker = subprocess.Popen([sys.executable, "-c", hold, os.environ["WORKER"]], stdin=subprocess.PIPE)
port = int(sys.argv[sys.argv.index("--port") + 1]) if "--port" in sys.argv else 8000
HTTPServer((os.environ.get("HOST", "0.0.0.0"), port), Handler).serve_forever()
'''

RAYLET = '''
"""Ray: a daemon in a session of its own, with a worker that holds the GPU under the title that Ray gives it."""
import os, subprocess, sys

HOLD = "import sys; open('/proc/self/comm', 'w').write('ray::RayWorkerW'); sys.stdin.read()"
worker = subprocess.Popen([sys.executable, "-c", HOLD, os.environ["WORKER"]], stdin=subprocess.PIPE)
open("/proc/self/comm", "w").write("raylet")
worker.wait()
'''

RELAY = '''
"""A sidecar: answers on a port of its own, with no argument, what another port of the pod answers."""
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen
from urllib.error import HTTPError

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with urlopen("http://127.0.0.1:8000" + self.path) as answer:
                status, body = 200, answer.read()
        except HTTPError as error:
            status, body = error.code, b""
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *what):
        pass

HTTPServer(("0.0.0.0", 9443), Handler).serve_forever()
'''


def missing() -> str:
    """What this machine lacks for it; "" if it has everything."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [command for command in _COMMANDS if shutil.which(command) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    if _cgroup_root() is None:
        return "needs a writable cgroup hierarchy"
    if subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        return "needs network namespaces"
    return ""


def _cgroup_root() -> Path | None:
    """Of the hierarchies, the first in which a process can be placed."""
    for root in CGROUPS:
        trial = root / f"tpw-trial-{os.getpid()}"
        try:
            trial.mkdir()
            trial.rmdir()
        except OSError:
            continue
        if (root / "cgroup.procs").exists():
            return root
    return None


class PodNode:
    """One node with its pods."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._tag = f"t{os.getpid() % 10000}{time.monotonic_ns() // 1_000_000 % 1000}"
        self._pods: dict[str, str] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="tpw-pods-"))
        self._cgroups = _cgroup_root() or Path()
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        self.directory.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        for name, text in (("vllm", ENGINE), ("raylet", RAYLET), ("relay", RELAY)):
            (self.directory / name).write_text(text)
        self._python = self._readable_python()
        self.address("node")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
        self._stack.close()

    def address(self, pod: str) -> str:
        """The address of a pod, which is connected to the node at the first call. ``node`` is the node itself."""
        if pod in self._pods:
            return self._pods[pod]
        namespace = self.namespace(pod)
        _run("ip", "netns", "add", namespace)
        self._stack.callback(_run, "ip", "netns", "del", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        host = self.namespace("node")
        address = f"10.77.0.{len(self._pods) + 1}"
        if pod == "node":
            _run("ip", "-n", host, "link", "add", "cni0", "type", "bridge")
            device = "cni0"
        else:
            device = "eth0"
            far = f"v{len(self._pods)}"
            _run("ip", "-n", host, "link", "add", far, "type", "veth", "peer", "name", device, "netns", namespace)
            _run("ip", "-n", host, "link", "set", far, "master", "cni0", "up")
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
        _run("ip", "-n", namespace, "link", "set", device, "up")
        self._pods[pod] = address
        return address

    def namespace(self, pod: str) -> str:
        """Name of its network namespace."""
        return f"{self._tag}-{pod}"

    def start(
        self,
        pod: str,
        program: Sequence[str],
        *,
        cgroup: str,
        user: int = 0,
        network: str = "",
        own_pids: bool = False,
        read_only: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a Python program in a pod. ``network`` is the pod that shares its network, ``cgroup`` the path it is in."""
        network = network or pod
        self.address(network)
        words = [self._python, str(self.directory / program[0]), *program[1:]]
        return self.launch(pod, words, cgroup, user, network, own_pids, read_only, environment or {})

    def exporter(self, code: str, *arguments: str, environment: Mapping[str, str]) -> Child:
        """Run Python code of the exporter's as uid 10101 without capabilities, in a network namespace of its own."""
        self.address("exporter")
        words = [self._python, "-c", code, *arguments]
        path = os.pathsep.join(sys.path)
        place = "/kubepods/besteffort/pod00000000-0000-4000-8000-000000010101/" + "e" * 64
        return self.launch(
            "exporter", words, place, _EXPORTER_USER, "exporter", False, False, {**environment, "PYTHONPATH": path}
        )

    def launch(
        self,
        name: str,
        words: Sequence[str],
        cgroup: str,
        user: int,
        network: str,
        own_pids: bool,
        read_only: bool,
        environment: Mapping[str, str],
    ) -> Child:
        """Start a process with all of its namespaces."""
        place = self._cgroups / cgroup.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        self._stack.callback(_remove_cgroup, self._cgroups, place)
        shell = [f"echo $$ > {place}/cgroup.procs"]
        inner = [self._mounts]
        if read_only:
            inner.append("mount --make-rprivate / && mount -o remount,ro,bind /")
        drop = ["setpriv"]
        if user:
            drop += [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        inner.append(f"exec {shlex.join([*drop, *words] if user else words)}")
        unshare = ["unshare", "--mount", *(["--pid", "--fork", "--kill-child"] if own_pids else [])]
        enter = ["nsenter", f"--net=/run/netns/{self.namespace(network)}", *unshare]
        shell.append("exec " + shlex.join([*enter, "sh", "-ec", "\n".join(inner)]))
        child = Child(
            f"pod-{name}",
            ["sh", "-ec", "\n".join(shell)],
            {"PATH": os.environ["PATH"], **environment},
            directory=self.directory,
        )
        self._children.append(child)
        return child

    def _readable_python(self) -> str:
        """The interpreter. If it is in a folder that only root can enter, the mounts of each pod make it readable."""
        base = Path(sys.base_prefix)
        closed = [folder for folder in reversed(base.parents) if not folder.stat().st_mode & 0o001]
        self._mounts = ":"
        if closed:
            kept = self.directory / "python"
            kept.mkdir()
            self._mounts = "\n".join(
                (
                    f"mount --bind {base} {kept}",
                    f"mount -t tmpfs -o mode=755 tmpfs {closed[0]}",
                    f"mkdir -p {base}",
                    f"mount --bind {kept} {base}",
                )
            )
        return sys.executable


def pid_with(word: str, timeout: float = 20.0) -> int:
    """The pid, on this machine, of the process that has this word on its command line."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if word.encode() in words[1:]:
                    return int(folder.name)
        time.sleep(0.05)
    raise AssertionError(f"no process with {word} on its command line within {timeout:g} s")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _remove_cgroup(root: Path, place: Path) -> None:
    deadline = time.monotonic() + 5.0
    while place != root:
        try:
            place.rmdir()
        except OSError:
            if any(place.glob("*/cgroup.procs")) or time.monotonic() > deadline or not place.exists():
                return
            time.sleep(0.02)
            continue
        place = place.parent
