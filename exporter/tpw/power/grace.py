"""CPU power of NVIDIA Grace from the kernel's ACPI power meters.

Each rail is a power meter, named in ``power1_oem_info``: "CPU Power Socket n", "SysIO Power Socket n", "Module Power Socket
n", "Grace Power Socket n". CPU and SysIO are summed. The module's rail contains the GPU, and Grace's rail contains CPU and
SysIO, so neither is added.

Sources: Documentation/hwmon/acpi_power_meter.rst of Linux (power1_average: microwatts, a mean over an interval); the rail
names are those in modules/sysmon of NVIDIA/DCGM.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from tpw.model import HostReading, HostSample, Reason, SourceError
from tpw.power import Clock

_COUNTED = re.compile(r"(CPU|SysIO) Power Socket (\d+)", re.IGNORECASE)
_WHOLE = re.compile(r"Grace Power Socket (\d+)", re.IGNORECASE)
MAX_WATTS_PER_SOCKET = 700.0
"""Upper bound of plausible power: above the 500 W of a Grace superchip socket."""


class GraceMeter:
    """A :class:`tpw.power.HostMeter` with the component ``cpu``.

    Args:
        clock: monotonic seconds.
        sysfs_root: where sysfs is mounted.
    """

    name = "grace"
    every_seconds = 0.0

    def __init__(self, clock: Clock = time.monotonic, *, sysfs_root: str | Path = "/sys") -> None:
        self._root = Path(sysfs_root) / "class" / "hwmon"
        self._clock = clock
        self._rails: list[Path] = []
        self._sockets = 1

    def open(self) -> None:
        """Find the rails. Raises SourceError (ABSENT) where the CPU is not a Grace."""
        named: dict[str, Path] = {}
        for chip in sorted(self._root.glob("hwmon*")):
            for directory in (chip / "device", chip):
                name, value = directory / "power1_oem_info", directory / "power1_average"
                if name.exists() and value.exists():
                    named[_text(name)] = value
                    break
        counted = {name: path for name, path in named.items() if _COUNTED.search(name)}
        # Without separate rails, Grace's own rail is CPU and SysIO together.
        rails = counted or {name: path for name, path in named.items() if _WHOLE.search(name)}
        if not rails:
            raise SourceError(
                Reason.ABSENT,
                f"no power1_oem_info of a Grace CPU under {self._root}",
                "Load the kernel module acpi_power_meter (with force_cap_on=0).",
            )
        self._rails = list(rails.values())
        self._sockets = len({name.rsplit(" ", 1)[-1] for name in rails})

    def read(self) -> HostReading:
        """Power now. Raises SourceError when a rail is not readable: the sum without it would be too low."""
        watts = 0.0
        for rail in self._rails:
            try:
                microwatts = int(rail.read_text())
                if microwatts <= 0:
                    raise ValueError(f"reports {microwatts} microwatts; a running socket draws more than 0")
                watts += microwatts / 1e6
            except PermissionError:
                raise SourceError(
                    Reason.PERMISSION, f"{rail} is not readable", "Give the exporter's user read permission."
                ) from None
            except (OSError, ValueError) as error:
                raise SourceError(Reason.BROKEN, f"{rail}: {error}") from None
        sample = HostSample(
            "cpu", self._clock(), power_watts=watts, max_power_watts=MAX_WATTS_PER_SOCKET * self._sockets
        )
        return HostReading((sample,))

    def close(self) -> None:
        """No file stays open."""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
