"""``process_*`` metrics, with the names and texts of the Prometheus client library.

The library's own collector takes a third of the time of a scrape; a test compares the two. The library also counts the
descriptor that it opens for counting; this module does not. Reads only /proc/self: no device, no network.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from tpw.exposition.catalogue import Metric
from tpw.exposition.render import Format, header, number

_FAMILIES = (
    Metric("process_virtual_memory_bytes", (), "Virtual memory size in bytes."),
    Metric("process_resident_memory_bytes", (), "Resident memory size in bytes."),
    Metric("process_start_time_seconds", (), "Start time of the process since unix epoch in seconds."),
    Metric("process_cpu_seconds_total", (), "Total user and system CPU time spent in seconds."),
    Metric("process_open_fds", (), "Number of open file descriptors."),
    Metric("process_max_fds", (), "Maximum number of open file descriptors."),
)


class ProcessTail:
    """Renders the process families for the end of a page. A value that cannot be read is omitted. Never raises.

    Args:
        proc: root of the proc file system.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._stat = f"{proc}/self/stat"
        self._descriptors = f"{proc}/self/fd"
        self._tick_seconds = 1.0 / os.sysconf("SC_CLK_TCK")
        self._page_bytes = resource.getpagesize()
        self._boot_seconds = _boot_seconds(f"{proc}/stat")
        self._prefixes = {
            form: tuple(f"{header(metric, form)}{metric.name} " for metric in _FAMILIES) for form in Format
        }

    def __call__(self, form: Format, names: Container[str] | None) -> bytes:
        """The families in a format, filtered by name, without ``# EOF``."""
        out = [
            f"{prefix}{number(value)}\n"
            for metric, prefix, value in zip(_FAMILIES, self._prefixes[form], self._read(), strict=True)
            if value is not None and (names is None or metric.name in names)
        ]
        return "".join(out).encode()

    def _read(self) -> tuple[float | None, ...]:
        """The values, in the order of the families."""
        virtual = resident = start = cpu = descriptors = None
        try:
            file = os.open(self._stat, os.O_RDONLY)
            try:
                text = os.read(file, 4096)
            finally:
                os.close(file)
            # proc(5): the command, in parentheses, can contain any character; the fields are counted from its end.
            fields = text[text.rindex(b")") + 2 :].split()
            virtual = float(fields[20])
            resident = float(fields[21]) * self._page_bytes
            cpu = (int(fields[11]) + int(fields[12])) * self._tick_seconds
            if self._boot_seconds is not None:
                start = self._boot_seconds + int(fields[19]) * self._tick_seconds
        except (OSError, ValueError, IndexError):
            pass
        with suppress(OSError):
            # Minus the descriptor that listdir itself opens.
            descriptors = float(len(os.listdir(self._descriptors)) - 1)  # noqa: PTH208 (no object per descriptor)
        return virtual, resident, start, cpu, descriptors, float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _boot_seconds(path: str) -> float | None:
    """Boot time of the machine, Unix time."""
    try:
        for line in Path(path).read_bytes().splitlines():
            if line.startswith(b"btime "):
                return float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
