"""A procfs on disk, as much of it as discovery reads."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

BOOT_SECONDS = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Tcp:
    """One row of a network namespace's table."""

    port: int
    inode: int
    address: str = "0.0.0.0"
    uid: int = 0
    listening: bool = True


class FakeProcFs:
    """Written row by row. Network namespaces are named; ``host`` is that of the exporter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir(exist_ok=True)
        (root / "stat").write_text(f"cpu 1 2\nbtime {BOOT_SECONDS}\n")
        self._tables: dict[str, list[Tcp]] = {"host": []}
        self._addresses: dict[str, tuple[str, ...]] = {"host": ("10.0.0.1",)}
        self._networks: dict[str, str] = {"self": "host"}
        self._unix: dict[str, dict[str, int]] = {}
        (root / "self").mkdir()
        self._write("self")

    def process(
        self,
        pid: int,
        argv: str | list[str],
        *,
        parent: int = 1,
        session: int | None = None,
        comm: str = "",
        started: int = 100,
        sockets: tuple[int, ...] = (),
        network: str = "host",
        cgroup: str = "0::/user.slice",
        environment: dict[str, str] | None = None,
    ) -> int:
        """Add a process, or write it anew. Returns its pid."""
        words = argv.split() if isinstance(argv, str) else argv
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        name = comm or (words[0].rpartition("/")[2][:15] if words else "kthread")
        fields = ["S", parent, pid, session if session is not None else pid, 0, -1, *([0] * 13), started, 0, 0]
        (folder / "stat").write_text(f"{pid} ({name}) {' '.join(str(field) for field in fields)}\n")
        (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0" if words else b"")
        (folder / "cgroup").write_text(cgroup + "\n")
        (folder / "environ").write_text("".join(f"{key}={value}\0" for key, value in (environment or {}).items()))
        for number, inode in enumerate(sockets, 3):
            link = folder / "fd" / str(number)
            link.unlink(missing_ok=True)
            link.symlink_to(f"socket:[{inode}]")
        (folder / "fd" / "0").unlink(missing_ok=True)
        (folder / "fd" / "0").symlink_to("/dev/null")
        self._tables.setdefault(network, [])
        self._networks[str(pid)] = network
        self._write(str(pid))
        return pid

    def network(self, name: str, addresses: tuple[str, ...], rows: list[Tcp]) -> None:
        """Set a namespace's addresses and listening sockets."""
        self._tables[name] = rows
        self._addresses[name] = addresses
        for pid, network in self._networks.items():
            if network == name:
                self._write(pid)

    def unix_sockets(self, name: str, sockets: dict[str, int]) -> None:
        """Set the listening Unix sockets of a namespace: inode by path."""
        self._unix[name] = sockets
        self.network(name, self._addresses.get(name, ()), self._tables.get(name, []))

    def end(self, pid: int) -> None:
        """A process that is gone."""
        folder = self.root / str(pid)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()
        self._networks.pop(str(pid))

    def _write(self, pid: str) -> None:
        network = self._networks[pid]
        net = self.root / f".net-{network}"  # the kernel too has these files once for each namespace
        net.mkdir(exist_ok=True)
        own = self.root / pid / "net"
        own.unlink(missing_ok=True)
        own.symlink_to(net)
        namespaces = self.root / pid / "ns"
        namespaces.mkdir(exist_ok=True)
        link = namespaces / "net"
        link.unlink(missing_ok=True)
        link.symlink_to(
            f"net:[{4026531840 + sorted(self._tables).index(network) if network != 'host' else 4026531840}]"
        )
        header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        four, six = header, header
        for row in self._tables[network]:
            address = ipaddress.ip_address(row.address)
            text = _hex(address.packed)
            line = (
                f"   0: {text}:{row.port:04X} {'0' * len(text)}:0000 {'0A' if row.listening else '01'} 00000000:00000000"
                f" 00:00000000 00000000 {row.uid:5d}        0 {row.inode} 1 0000000000000000 100 0 0 10 0\n"
            )
            if address.version == 4:
                four += line
            else:
                six += line
        unix = [f"0000000000000000: 00000003 00000000 00000000 0001 03 {900 + n}\n" for n in range(2)]
        unix += [
            f"0000000000000000: 00000002 00000000 00010000 0001 01 {inode} {path}\n"
            for path, inode in self._unix.get(network, {}).items()
        ]
        (net / "unix").write_text("Num       RefCount Protocol Flags    Type St Inode Path\n" + "".join(unix))
        (net / "tcp").write_text(four)
        (net / "tcp6").write_text(six)
        trie = "".join(
            f"     |-- {address}\n        /32 host LOCAL\n"
            for address in ("127.0.0.1", *self._addresses.get(network, ()))
            if ":" not in address
        )
        (net / "fib_trie").write_text("Main:\n  +-- 0.0.0.0/0 3 0 5\n" + trie)
        sixes = [ipaddress.IPv6Address(address) for address in self._addresses.get(network, ()) if ":" in address]
        (net / "if_inet6").write_text(
            "00000000000000000000000000000001 01 80 10 80       lo\n"
            + "".join(f"{int(address):032x} 02 40 00 80     eth0\n" for address in sixes)
        )


def _hex(packed: bytes) -> str:
    return "".join(packed[at : at + 4][::-1].hex().upper() for at in range(0, len(packed), 4))
