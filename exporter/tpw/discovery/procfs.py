"""Processes and listening sockets as /proc shows them. Linux only; the root of procfs is an argument.

Read without a library to keep it cheap: the table is read four times a minute on every node of a fleet, and needs one
``stat`` per process. Command lines are read once per process and title, those of Python programs at every read; file
descriptors and socket tables only of the few processes that need them.

Facts: proc(5). ``stat``, ``status``, ``cmdline``, ``cgroup`` and ``net`` are world-readable (unless procfs is mounted with
``hidepid``); ``fd`` and ``environ`` of another user's process need ptrace rights, and root without CAP_DAC_READ_SEARCH
cannot list ``fd`` even with CAP_SYS_PTRACE. ``net/tcp`` is of the process's own network namespace and lists listening
sockets first. The kernel makes the files of ``net`` once for each namespace, so their inode numbers identify it; the link
``ns/net``, which does so too, needs ptrace rights.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTEN = b"0A"
_ACCEPTS = 0x10000
"""Flag of a listening Unix socket: __SO_ACCEPTCON of the kernel."""
_NOWHERE = ipaddress.IPv4Address(0)
_INTERPRETERS = ("python", "pypy")


@dataclass(frozen=True, slots=True)
class Process:
    """One process. ``(pid, started_ticks)`` identifies it; the pid alone may be reused."""

    pid: int
    parent: int
    session: int
    started_ticks: int
    """Since boot."""
    comm: str
    """At most 15 characters."""
    argv: tuple[str, ...]
    """Empty for kernel threads and processes that are exiting. A process that set its title has the title alone."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket, or a Unix socket with its path, no address and no port."""

    address: Address
    port: int
    inode: int
    uid: int
    path: str = ""


class ProcFs:
    """Reads one mounted procfs."""

    def __init__(self, root: str | Path = "/proc") -> None:
        self.root = str(root)
        self._argv: dict[tuple[int, int, str], tuple[str, ...]] = {}
        self._boot_seconds: float | None = None
        self._ticks = os.sysconf("SC_CLK_TCK")

    def processes(self) -> dict[int, Process]:
        """All processes by pid, without those that exit during the read."""
        table: dict[int, Process] = {}
        argv: dict[tuple[int, int, str], tuple[str, ...]] = {}
        for name in _names(self.root):
            if not name.isdecimal():
                continue
            stat = self._read(name, "stat")
            # "pid (comm) state ppid pgrp session ..." where comm may itself hold blanks and brackets.
            opening, closing = stat.find(b"("), stat.rfind(b")")
            fields = stat[closing + 2 :].split(None, 20)
            if closing < 0 or len(fields) < 20:
                continue
            pid = int(name)
            comm = stat[opening + 1 : closing].decode("utf-8", "replace")
            started = int(fields[19])
            key = (pid, started, comm)
            words = self._argv.get(key)
            # An interpreter may have become another program by exec under the same name.
            if not words or comm.startswith(_INTERPRETERS):
                words = _words(self._read(name, "cmdline"))
            argv[key] = words
            table[pid] = Process(pid, int(fields[1]), int(fields[3]), started, comm, words)
        self._argv = argv
        return table

    def started_wall_seconds(self, process: Process) -> float:
        """When a process started, Unix time."""
        if self._boot_seconds is None:
            line = next((row for row in self._read("stat").split(b"\n") if row.startswith(b"btime ")), b"btime 0")
            self._boot_seconds = float(line.split()[1])
        return self._boot_seconds + process.started_ticks / self._ticks

    def cgroup(self, pid: int) -> bytes:
        """The cgroups of a process, as one opaque text; empty if it has exited."""
        return self._read(str(pid), "cgroup")

    def environment(self, pid: int) -> dict[str, str]:
        """The environment a process was started with; empty without permission."""
        pairs = (entry.partition(b"=") for entry in self._read(str(pid), "environ").split(b"\0") if entry)
        return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, _, value in pairs}

    def network(self, pid: int | str = "self") -> str | None:
        """Identity of a process's network namespace, for any user. None if the process has exited."""
        try:
            return str(os.stat(f"{self.root}/{pid}/net/tcp").st_ino)  # noqa: PTH116 - as below
        except OSError:
            return None

    def listeners(self, pid: int | str = "self") -> list[Listener]:
        """All listening TCP sockets of a process's network namespace, of any process."""
        return [*self._table(pid, "tcp"), *self._table(pid, "tcp6")]

    def unix_listeners(self, pid: int | str = "self") -> list[Listener]:
        """All listening Unix sockets with a path, of a process's network namespace. Their user is unknown."""
        found = []
        for line in self._read(str(pid), "net", "unix").splitlines()[1:]:
            # "address: count protocol flags type state inode path" where the path may have blanks.
            fields = line.split(None, 7)
            if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS and fields[7].startswith(b"/"):
                found.append(Listener(_NOWHERE, 0, int(fields[6]), 0, fields[7].decode("utf-8", "replace")))
        return found

    def addresses(self, pid: int | str = "self") -> frozenset[Address]:
        """Interface addresses of a process's network namespace, without loopback and link-local."""
        found: set[Address] = set()
        previous = ""
        for line in self._read(str(pid), "net", "fib_trie").decode("ascii", "replace").splitlines():
            if "host LOCAL" in line and previous:
                found.add(ipaddress.IPv4Address(previous))
            previous = line.rpartition("-- ")[2].strip() if "|-- " in line else ""
        for line in self._read(str(pid), "net", "if_inet6").decode("ascii", "replace").splitlines():
            found.add(ipaddress.IPv6Address(int(line.split()[0], 16)))
        return frozenset(address for address in found if not address.is_loopback and not address.is_link_local)

    def sockets(self, pid: int) -> frozenset[int] | None:
        """Inodes of the sockets a process holds. None without permission; empty if it has exited."""
        folder = f"{self.root}/{pid}/fd"
        inodes = set()
        try:
            names = os.listdir(folder)  # noqa: PTH208 - names only, and often
        except PermissionError:
            return None
        except OSError:
            return frozenset()
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - as above
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
        return frozenset(inodes)

    def owner(self, pid: int) -> int | None:
        """The user a process runs as; None if it has exited. The folder of a process that dumps no core is root's."""
        for line in self._read(str(pid), "status").split(b"\n"):
            if line.startswith(b"Uid:"):
                return int(line.split()[2])
        try:
            return os.stat(f"{self.root}/{pid}").st_uid  # noqa: PTH116 - as above
        except OSError:
            return None

    def _table(self, pid: int | str, name: str) -> Iterator[Listener]:
        try:
            with open(f"{self.root}/{pid}/net/{name}", "rb") as table:  # noqa: PTH123 - as above
                next(table, None)
                for line in table:
                    fields = line.split(None, 10)
                    if fields[3] != _LISTEN:
                        return
                    address, _, port = fields[1].partition(b":")
                    yield Listener(_address(address), int(port, 16), int(fields[9]), int(fields[7]))
        except (OSError, IndexError, ValueError):
            return

    def _read(self, *parts: str) -> bytes:
        try:
            with open("/".join((self.root, *parts)), "rb", buffering=0) as file:  # noqa: PTH123 - as above
                return file.read() or b""
        except OSError:
            return b""


def _names(root: str) -> Iterable[str]:
    try:
        return os.listdir(root)  # noqa: PTH208
    except OSError:
        return ()


def _words(cmdline: bytes) -> tuple[str, ...]:
    return tuple(word.decode("utf-8", "replace") for word in cmdline.rstrip(b"\0 ").split(b"\0") if word)


def _address(text: bytes) -> Address:
    """The kernel prints words of four bytes in the byte order of the machine."""
    raw = bytes.fromhex(text.decode("ascii"))
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
