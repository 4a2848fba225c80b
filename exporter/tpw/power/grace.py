"""CPU power of NVIDIA Grace from the kernel's ACPI power meters.

Each rail is a power meter, named in ``power1_oem_info``: "CPU Power Socket n", "SysIO Power Socket n", "Module Power Socket
n", "Grace Power Socket n". Grace's rail is everything on the CPU side: published readings are 98 to 109 W for it where CPU
shows 51 to 56 W and SysIO 6 W (NVIDIA/srt-slurm #453, #481). So it is read first: CPU and SysIO are the component ``cpu``,
its rest (memory and losses) is ``dram``. Without it CPU and SysIO are read alone, which is about half. The module's rail
contains the GPU and is not used.

Sources: Documentation/hwmon/acpi_power_meter.rst of Linux (power1_average: microwatts, a mean over an interval); the rail
names are those in modules/sysmon of NVIDIA/DCGM.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from tpw.model import HostReading, HostSample, Reason, SourceError
from tpw.power import Clock

_RAIL = re.compile(r"(CPU|SysIO|Grace) Power Socket (\d+)", re.IGNORECASE)
MAX_WATTS_PER_SOCKET = 700.0
"""Bound of plausible power. Chosen: several times the highest reading of a socket that was published."""


class GraceMeter:
    """A :class:`tpw.power.HostMeter` with the components ``cpu`` and, where Grace's own rail is there, ``dram``.

    Args:
        clock: monotonic seconds.
        sysfs_root: where sysfs is mounted.
    """

    name = "grace"
    every_seconds = 0.0

    def __init__(self, clock: Clock = time.monotonic, *, sysfs_root: str | Path = "/sys") -> None:
        self._root = Path(sysfs_root) / "class" / "hwmon"
        self._clock = clock
        self._sockets: dict[str, dict[str, Path]] = {}
        self.notes: tuple[str, ...] = ()
        """Sockets with a part of their power only."""

    def open(self) -> None:
        """Find the rails. Raises SourceError (ABSENT) where the CPU is not a Grace."""
        sockets: dict[str, dict[str, Path]] = {}
        for chip in sorted(self._root.glob("hwmon*")):
            for directory in (chip / "device", chip):
                name, value = directory / "power1_oem_info", directory / "power1_average"
                if name.exists() and value.exists():
                    rail = _RAIL.search(_text(name))
                    if rail is not None:
                        sockets.setdefault(rail[2], {})[rail[1].lower()] = value
                    break
        if not sockets:
            raise SourceError(
                Reason.ABSENT,
                f"no power1_oem_info of a Grace CPU under {self._root}",
                "Load the kernel module acpi_power_meter (with force_cap_on=0).",
            )
        self._sockets = sockets
        partial = sorted(socket for socket, rails in sockets.items() if "grace" not in rails)
        self.notes = tuple(
            f"grace: socket {socket} has no rail of its own, only {' and '.join(sorted(sockets[socket]))}: its power is"
            " partial, without memory and losses (about half in published readings)."
            for socket in partial
        )

    def read(self) -> HostReading:
        """Power now. Raises SourceError when a rail is not readable: the sum without it would be too low."""
        cpu = dram = 0.0
        has_rest = False
        for rails in self._sockets.values():
            watts = {name: _watts(path) for name, path in rails.items()}
            whole = watts.pop("grace", None)
            parts = sum(watts.values())
            if whole is None:
                cpu += parts
            elif len(watts) < 2:  # what the rest contains is not known
                cpu += whole
            else:
                # Each rail is a mean over its own interval: the parts can be above the whole for a moment.
                cpu += min(parts, whole)
                dram += max(0.0, whole - parts)
                has_rest = True
        at, most = self._clock(), MAX_WATTS_PER_SOCKET * len(self._sockets)
        samples = [HostSample("cpu", at, power_watts=cpu, max_power_watts=most)]
        if has_rest:
            samples.append(HostSample("dram", at, power_watts=dram, max_power_watts=most))
        return HostReading(tuple(samples))

    def close(self) -> None:
        """No file stays open."""


def _watts(rail: Path) -> float:
    """Power of one rail. Raises SourceError."""
    try:
        microwatts = int(rail.read_text())
        if microwatts <= 0:
            raise ValueError(f"reports {microwatts} microwatts; a running socket draws more than 0")
        return microwatts / 1e6
    except PermissionError:
        raise SourceError(
            Reason.PERMISSION, f"{rail} is not readable", "Give the exporter's user read permission."
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(Reason.BROKEN, f"{rail}: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
