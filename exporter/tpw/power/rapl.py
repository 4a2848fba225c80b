"""CPU and DRAM energy from the kernel's powercap tree (RAPL), on Intel and AMD.

Package and DRAM zones are summed, and no others: a package contains its cores and graphics, and ``psys`` contains the
packages. Counters wrap every few minutes under load and are unwrapped at every read.

While one zone of a component is not readable, the component is withheld, since the sum of the other zones would be too low;
:attr:`RaplMeter.notes` names the zone and the reason. The first read with all zones contains what they counted meanwhile.

Sources, all of Linux: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c (zone names,
units, mode 0400 of energy_uj since the fix of CVE-2020-8694).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tpw.model import HostReading, HostSample, Reason, SourceError
from tpw.power import Clock

CPU = "cpu"
DRAM = "dram"

_MAX_WATTS = {CPU: 1000.0, DRAM: 500.0}
"""Upper bound of a zone's power: limits how long a wrapping counter may stay unread. Chosen, not
stated by any source."""
_MIRROR_JOULES = 5.0
"""Dies of one package with counters that differ by less have the same counter (observed on multi-die AMD CPUs). Chosen: one
die uses this much in about 50 ms, the time between two reads of one pass."""
RETRY_SECONDS = 60.0
"""Between two attempts to open a zone. Chosen: CPUs are rarely taken offline."""
_APART_READS = 2
"""Two counters must differ in this many reads in a row to count as two: the machine may pause between two reads of one
pass."""

_PACKAGE = re.compile(r"package-(\d+)(-die-\d+)?$")
_ZONE = re.compile(r"(intel-rapl|intel-rapl-mmio)((?::\d+)+)$")

_PERMISSION_HINT = (
    "energy_uj is readable by root only: give the exporter CAP_DAC_READ_SEARCH, or its group the files (chgrp and "
    "chmod g+r on /sys/class/powercap/*/energy_uj by a udev or tmpfiles rule)."
)
_ABSENT_HINT = (
    "Virtual machines have no RAPL; a container needs /sys/class/powercap mounted read-only (Docker hides it); "
    "otherwise load the kernel module intel_rapl_msr."
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
    """An earlier zone with the same counter: this zone is not counted while that holds."""
    answered: bool = False
    unread_since: float | None = None
    apart: int = 0
    """Reads in a row in which it differed from the zone that it mirrors."""
    shared_joules: float = 0.0
    """The part of ``joules`` that the mirrored zone counted too, up to the last read in which they were equal."""

    def read(self, at: float) -> None:
        """Read and count. Raises OSError or ValueError where it is not readable."""
        raw = _microjoules(os.pread(self.fd, 64, 0)) / 1e6
        elapsed = at - self.at_seconds
        rise = raw - self.raw_joules
        if rise < 0:
            rise += self.range_joules
        # Longer than half a wrap at full power: the counter may have wrapped more than once.
        blind = self.range_joules > 0 and elapsed * _MAX_WATTS[self.component] > self.range_joules / 2
        if self.answered and not blind and 0 <= rise <= max(1.0, elapsed) * _MAX_WATTS[self.component]:
            self.joules += rise
        self.raw_joules, self.at_seconds, self.answered = raw, at, True
        self.unread_since = None


class RaplMeter:
    """A :class:`tpw.power.HostMeter` with the components ``cpu`` (all packages) and ``dram``.

    Args:
        clock: monotonic seconds.
        sysfs_root: where sysfs is mounted; the host's tree in a container.
    """

    name = "rapl"
    every_seconds = 0.0

    def __init__(self, clock: Clock = time.monotonic, *, sysfs_root: str | Path = "/sys") -> None:
        self._root = Path(sysfs_root) / "class" / "powercap"
        self._clock = clock
        self._zones: list[_Zone] = []
        self._base: dict[str, float] = {}
        self._known: dict[str, str] = {}
        """Component of every zone ever found: a sum needs all of them."""
        self._unopened: dict[str, str] = {}
        """Zones that could not be opened, and the reason."""
        self._retry_at = 0.0
        self._missing: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        """Which components are withheld, and why."""

    def open(self) -> None:
        """Find the zones. Raises SourceError: ABSENT where there are none, PERMISSION where they are not readable."""
        self.close()
        self._open_zones()
        self._note(self._unopened)
        if self._complete():
            return
        denied = [name for name, why in self._unopened.items() if _DENIED in why]
        self.close()
        if denied:
            detail = f"{self._unopened[denied[0]]} ({len(denied)} of {len(self._known)} zones)"
            raise SourceError(Reason.PERMISSION, detail, _PERMISSION_HINT)
        detail = " ".join(self.notes) or f"no RAPL package zone under {self._root}"
        raise SourceError(Reason.ABSENT, detail, _ABSENT_HINT)

    def read(self) -> HostReading:
        """Joules since the first open, of the components with all zones readable. Raises SourceError where there is
        none."""
        now = self._clock()
        if self._unopened and now >= self._retry_at:
            self._open_zones()
        unread: dict[str, str] = {}
        for zone in self._zones:
            try:
                zone.read(now)
            except (OSError, ValueError) as error:
                # What it counts meanwhile is included if it is readable again before it wraps.
                unread[zone.name] = f"{zone.name}{_why(error)}"
                zone.unread_since = now if zone.unread_since is None else zone.unread_since
        self._close_unread(now)
        unread = {**self._unopened, **unread}
        for zone in self._zones:
            _check_mirror(zone, unread)
        self._note(unread)
        samples = tuple(
            HostSample(
                component,
                now,
                energy_joules=self._base.get(component, 0.0) + self._counted(component),
                max_power_watts=_MAX_WATTS[component] * list(self._known.values()).count(component),
            )
            for component in self._complete()
        )
        if not samples:
            raise SourceError(
                Reason.LOST,
                " ".join(self.notes) or f"no RAPL zone under {self._root} is readable any more",
                _ABSENT_HINT,
            )
        return HostReading(samples)

    def close(self) -> None:
        """Close the files. The joules continue from here after another open."""
        for component in _MAX_WATTS:
            self._base[component] = self._base.get(component, 0.0) + self._counted(component)
        for zone in self._zones:
            os.close(zone.fd)
        self._zones = []

    def _close_unread(self, now: float) -> None:
        """Close zones that were not readable for long: a package that was offline comes back with another file."""
        for zone in list(self._zones):
            if zone.unread_since is not None and now - zone.unread_since >= RETRY_SECONDS:
                if zone.mirrors is None:
                    self._base[zone.component] = self._base.get(zone.component, 0.0) + zone.joules
                self._unopened[zone.name] = f"{zone.name} is not readable"
                self._zones.remove(zone)
                os.close(zone.fd)

    def _open_zones(self) -> None:
        """Open the zones that are not open yet."""
        now = self._clock()
        self._retry_at = now + RETRY_SECONDS
        opened = {zone.name for zone in self._zones}
        self._unopened = {name: f"{name} no longer exists" for name in self._known if name not in opened}
        for component, name, package, path in _find(self._root):
            self._known[name] = component
            if name in opened:
                continue
            try:
                zone = _opened(name, component, package, path, now)
            except (OSError, ValueError) as error:  # EINVAL, ENODATA: registered, but not readable
                self._unopened[name] = f"{path}{_why(error)}"
                continue
            self._unopened.pop(name, None)
            for other in self._zones:
                if other.mirrors is not None and other.mirrors.name == name:
                    other.mirrors = zone  # the zone has been reopened
            zone.mirrors = next((earlier for earlier in self._zones if _is_mirrored(zone, earlier)), None)
            self._zones.append(zone)

    def _note(self, unread: Mapping[str, str]) -> None:
        """Record which zones are missing from the sums. A zone that mirrors another is contained in that one."""
        mirrors = {zone.name for zone in self._zones if zone.mirrors is not None}
        missing = {name: why for name, why in unread.items() if name not in mirrors}
        if missing == self._missing:
            return
        self._missing = missing
        self.notes = tuple(_notes(missing, self._known))

    def _complete(self) -> list[str]:
        """Components with all zones readable."""
        broken = {self._known[name] for name in self._missing}
        return [component for component in _MAX_WATTS if component in self._known.values() and component not in broken]

    def _counted(self, component: str) -> float:
        return sum(zone.joules for zone in self._zones if zone.component == component and zone.mirrors is None)


def _notes(missing: Mapping[str, str], known: Mapping[str, str]) -> Iterator[str]:
    for component in _MAX_WATTS:
        names = sorted(name for name in missing if known[name] == component)
        if names:
            why = missing[names[0]]
            yield (
                f"rapl reports no {component} energy: {len(names)} of its {list(known.values()).count(component)} zones"
                f" ({', '.join(names)}) are not readable, and the sum of the others would be too low."
                f" {why}. {_PERMISSION_HINT if _DENIED in why else ''}".rstrip()
            )


def _is_mirrored(zone: _Zone, earlier: _Zone) -> bool:
    same_package = earlier.package == zone.package and earlier.component == zone.component
    return same_package and earlier.mirrors is None and _apart(zone, earlier) < _MIRROR_JOULES


def _check_mirror(zone: _Zone, unread: Mapping[str, str]) -> None:
    """Check whether a zone still has the counter of another, in reads where both are readable."""
    if zone.mirrors is None or zone.name in unread or zone.mirrors.name in unread:
        return
    if _apart(zone, zone.mirrors) <= _MIRROR_JOULES:
        zone.apart, zone.shared_joules = 0, zone.joules
        return
    zone.apart += 1
    if zone.apart >= _APART_READS:  # a counter of its own: counted from where they diverged
        zone.mirrors = None
        zone.joules -= zone.shared_joules


_DENIED = "/energy_uj is not readable: permission denied"


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return _DENIED
    return f"/energy_uj is not readable: {(isinstance(error, OSError) and error.strerror) or error}"


def _opened(name: str, component: str, package: str, path: Path, at: float) -> _Zone:
    """A zone after its first read. Raises OSError or ValueError where it is not readable."""
    largest = _number(path / "max_energy_range_uj") / 1e6
    zone = _Zone(name, component, package, largest, os.open(path / "energy_uj", os.O_RDONLY | os.O_CLOEXEC))
    try:
        zone.read(at)
    except (OSError, ValueError):
        os.close(zone.fd)
        raise
    return zone


def _find(root: Path) -> list[tuple[str, str, str, Path]]:
    """(component, name, package, directory) of every zone to count. A zone can appear twice, as intel-rapl and as
    intel-rapl-mmio; the second is used only where it is the only one."""
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
    """Difference of two counters, modulo their range."""
    distance = abs(one.raw_joules - other.raw_joules)
    return min(distance, abs(one.range_joules - distance)) if one.range_joules > 0 else distance


def _number(path: Path) -> int:
    return int(path.read_text())


def _microjoules(text: bytes) -> int:
    return int(text)
