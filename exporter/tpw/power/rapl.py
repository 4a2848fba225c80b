"""CPU and DRAM energy from the kernel's powercap tree (RAPL), Intel and AMD.

Package and DRAM zones are summed, nothing else: a package contains its cores and graphics, and ``psys`` contains the
packages. Counters wrap every few minutes under load, so each is unwrapped here at every look.

Sources: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of Linux (zone names, units,
mode 0400 of energy_uj since the fix of CVE-2020-8694).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from tpw.model import HostReading, HostSample, Reason, SourceError
from tpw.power import Clock

CPU = "cpu"
DRAM = "dram"

_MAX_WATTS = {CPU: 1000.0, DRAM: 500.0}
"""No zone draws more: bounds how long a wrapping counter may go unread."""
_MIRROR_JOULES = 5.0
"""Dies of one package whose counters differ by less show the same counter (seen on multi-die AMD parts)."""

_PACKAGE = re.compile(r"package-(\d+)(-die-\d+)?$")
_ZONE = re.compile(r"(intel-rapl|intel-rapl-mmio)((?::\d+)+)$")

_PERMISSION_HINT = (
    "energy_uj may be read by root only: give the exporter CAP_DAC_READ_SEARCH, or its group the files (chgrp and "
    "chmod g+r on /sys/class/powercap/*/energy_uj by a udev or tmpfiles rule)."
)
_ABSENT_HINT = (
    "Virtual machines have no RAPL; a container needs /sys/class/powercap mounted read-only (Docker hides it); "
    "otherwise load the module intel_rapl_msr."
)


@dataclass(slots=True)
class _Zone:
    """One counter, unwrapped."""

    name: str
    component: str
    package: str
    range_joules: float
    fd: int
    raw_joules: float = 0.0
    at_seconds: float = 0.0
    joules: float = 0.0
    """Counted since the meter was opened."""
    mirrors: _Zone | None = field(default=None, repr=False)
    """An earlier zone that seems to show the same counter: not counted while it does."""
    answered: bool = False

    def look(self, at: float) -> None:
        """Read and count. Raises OSError where the zone is gone."""
        raw = _microjoules(os.pread(self.fd, 64, 0)) / 1e6
        elapsed = at - self.at_seconds
        rise = raw - self.raw_joules
        if rise < 0:
            rise += self.range_joules
        # Longer than half a turn at full power: the counter may have gone round unseen, so nothing is known.
        blind = self.range_joules > 0 and elapsed * _MAX_WATTS[self.component] > self.range_joules / 2
        if self.answered and not blind and 0 <= rise <= max(1.0, elapsed) * _MAX_WATTS[self.component]:
            self.joules += rise
        self.raw_joules, self.at_seconds, self.answered = raw, at, True


class RaplMeter:
    """A :class:`tpw.power.HostMeter` with the components ``cpu`` (all packages) and ``dram``.

    Args:
        sysfs_root: where sysfs is mounted; a fixture tree in tests, the host's tree in a container.
        clock: monotonic seconds.
    """

    name = "rapl"
    every_seconds = 0.0

    def __init__(self, sysfs_root: str | Path = "/sys", clock: Clock = time.monotonic) -> None:
        self._root = Path(sysfs_root) / "class" / "powercap"
        self._clock = clock
        self._zones: list[_Zone] = []
        self._base: dict[str, float] = {}

    def open(self) -> None:
        """Find the zones. Raises SourceError: ABSENT where there are none, PERMISSION where none may be read."""
        self.close()
        refused: list[Path] = []
        for component, name, package, path in _find(self._root):
            try:
                largest = _number(path / "max_energy_range_uj") / 1e6
                fd = os.open(path / "energy_uj", os.O_RDONLY | os.O_CLOEXEC)
            except PermissionError:
                refused.append(path)
                continue
            except (OSError, ValueError):
                continue  # a zone that is registered but cannot be read (EINVAL, ENODATA)
            zone = _Zone(name, component, package, largest, fd)
            try:
                zone.look(self._clock())
            except PermissionError:
                refused.append(path)
                os.close(fd)
            except (OSError, ValueError):
                os.close(fd)
            else:
                self._zones.append(zone)
        if not self._zones:
            if refused:
                raise SourceError(Reason.PERMISSION, f"{refused[0]}/energy_uj may not be read", _PERMISSION_HINT)
            raise SourceError(Reason.ABSENT, f"no RAPL package zone under {self._root}", _ABSENT_HINT)
        self._mark_mirrors()

    def read(self) -> HostReading:
        """Joules by component since the first open. Raises SourceError when no zone answers any more."""
        now = self._clock()
        answering: set[str] = set()
        for zone in self._zones:
            try:
                zone.look(now)
            except (OSError, ValueError):
                continue  # gone for now; what it counts meanwhile is caught up if it comes back in time
            answering.add(zone.component)
        if not answering:
            raise SourceError(Reason.LOST, f"no RAPL zone under {self._root} answers any more", _ABSENT_HINT)
        for zone in self._zones:
            if zone.mirrors is not None and _apart(zone, zone.mirrors) > _MIRROR_JOULES:
                zone.mirrors, zone.joules = None, 0.0  # a counter of its own after all: counted from here on
        samples = tuple(
            HostSample(component, now, energy_joules=self._base.get(component, 0.0) + self._counted(component))
            for component in (CPU, DRAM)
            if component in answering
        )
        return HostReading(samples)

    def close(self) -> None:
        """Close the files. What was counted stays counted, so the joules go on after another open."""
        for component in _MAX_WATTS:
            self._base[component] = self._base.get(component, 0.0) + self._counted(component)
        for zone in self._zones:
            os.close(zone.fd)
        self._zones = []

    def _counted(self, component: str) -> float:
        return sum(zone.joules for zone in self._zones if zone.component == component and zone.mirrors is None)

    def _mark_mirrors(self) -> None:
        for i, zone in enumerate(self._zones):
            for earlier in self._zones[:i]:
                same_package = earlier.package == zone.package and earlier.component == zone.component
                if same_package and earlier.mirrors is None and _apart(zone, earlier) < _MIRROR_JOULES:
                    zone.mirrors = earlier
                    break


def _find(root: Path) -> list[tuple[str, str, str, Path]]:
    """(component, name, package, directory) of every zone to count. Each package once: the same zone appears again under
    the memory-mapped interface (intel-rapl-mmio), which is used only where it is the only one."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return []
    names: dict[str, str] = {}
    for entry in entries:
        if _ZONE.match(entry.name):
            try:
                names[entry.name] = (entry / "name").read_text().strip()
            except OSError:
                continue
    found: dict[tuple[str, str], tuple[str, str, str, Path]] = {}
    for zone_id, name in sorted(names.items(), key=lambda item: ("mmio" in item[0], item[0])):
        if match := _PACKAGE.match(name):
            found.setdefault((CPU, name), (CPU, name, match[1], root / zone_id))
        elif name == DRAM:
            parent = names.get(zone_id.rpartition(":")[0], zone_id)
            match = _PACKAGE.match(parent)
            found.setdefault((DRAM, parent), (DRAM, f"{parent} dram", match[1] if match else parent, root / zone_id))
    return list(found.values())


def _apart(one: _Zone, other: _Zone) -> float:
    """How far two counters are apart, the short way round."""
    distance = abs(one.raw_joules - other.raw_joules)
    return min(distance, abs(one.range_joules - distance)) if one.range_joules > 0 else distance


def _number(path: Path) -> int:
    return int(path.read_text())


def _microjoules(text: bytes) -> int:
    return int(text)
