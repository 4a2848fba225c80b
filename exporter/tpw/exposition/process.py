"""``process_*`` of this process: the standard families of every Prometheus client, with the library's names and texts.

The library's own collector makes objects of them first and reads one file more, which costs a third of a scrape; a test
holds the two together.
(The library counts the descriptor it opens to count; here it is left out.) Reads /proc/self, which is the kernel's
memory: no device, no network.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from tpw.exposition.catalogue import Kind, Metric
from tpw.exposition.render import Format, header, number

_FAMILIES = tuple(
    Metric(f"process_{name}", (), text)
    for name, kind, text in (
        ("virtual_memory_bytes", Kind.GAUGE, "Virtual memory size in bytes."),
        ("resident_memory_bytes", Kind.GAUGE, "Resident memory size in bytes."),
        ("start_time_seconds", Kind.GAUGE, "Start time of the process since unix epoch in seconds."),
        ("cpu_seconds_total", Kind.COUNTER, "Total user and system CPU time spent in seconds."),
        ("open_fds", Kind.GAUGE, "Number of open file descriptors."),
        ("max_fds", Kind.GAUGE, "Maximum number of open file descriptors."),
    )
)


class ProcessTail:
    """The process families as the tail of a page. What cannot be read is left out; nothing is raised.

    Args:
        proc: the proc file system, elsewhere in tests.
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
        """The families in a format, filtered by name, without the end mark of OpenMetrics."""
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
            # proc(5): the command, in parentheses, may hold anything; the fields are counted from behind it.
            fields = text[text.rindex(b")") + 2 :].split()
            virtual = float(fields[20])
            resident = float(fields[21]) * self._page_bytes
            cpu = (int(fields[11]) + int(fields[12])) * self._tick_seconds
            if self._boot_seconds is not None:
                start = self._boot_seconds + int(fields[19]) * self._tick_seconds
        except (OSError, ValueError, IndexError):
            pass
        with suppress(OSError):
            # Without the one that the listing itself opens.
            descriptors = float(len(os.listdir(self._descriptors)) - 1)  # noqa: PTH208 (no object per descriptor)
        return virtual, resident, start, cpu, descriptors, float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _boot_seconds(path: str) -> float | None:
    """When the machine was started, Unix time."""
    try:
        for line in Path(path).read_bytes().splitlines():
            if line.startswith(b"btime "):
                return float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
