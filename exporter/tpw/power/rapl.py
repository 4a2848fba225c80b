"""CPU and DRAM energy from the kernel's powercap tree (RAPL), Intel and AMD.

Package and DRAM zones are summed, nothing else: a package contains its cores and graphics, and ``psys`` contains the
packages. Counters wrap every few minutes under load, so each is unwrapped here at every look.

A sum over some of the packages is no figure of the machine: while one zone of a component does not answer, the component is
withheld and :attr:`RaplMeter.notes` says which zone and why. What its zones counted meanwhile comes with the first look at
which all of them answer again.

Sources: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of Linux (zone names, units,
mode 0400 of energy_uj since the fix of CVE-2020-8694).
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
"""No zone draws more: bounds how long a wrapping counter may go unread."""
_MIRROR_JOULES = 5.0
"""Dies of one package whose counters differ by less show the same counter (seen on multi-die AMD parts)."""
RETRY_SECONDS = 60.0
"""How often a zone that could not be opened is tried again."""
_APART_LOOKS = 2
"""So many looks in a row must differ before two counters are two: between the reads of one look the machine may pause."""

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
    silent_since: float | None = None
    apart: int = 0
    """Looks in a row at which it did not show the counter that it mirrors."""
    shared_joules: float = 0.0
    """What of ``joules`` the mirrored zone counted too: up to the last look at which they were one."""

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
        self.silent_since = None


class RaplMeter:
    """A :class:`tpw.power.HostMeter` with the components ``cpu`` (all packages) and ``dram``.

    Args:
        sysfs_root: where sysfs is mounted; a fixture tree in tests, the host's tree in a container.
        clock: monotonic seconds.
    """

    name = "rapl"
    every_seconds = 0.0

    def __init__(self, clock: Clock = time.monotonic, *, sysfs_root: str | Path = "/sys") -> None:
        self._root = Path(sysfs_root) / "class" / "powercap"
        self._clock = clock
        self._zones: list[_Zone] = []
        self._base: dict[str, float] = {}
        self._known: dict[str, str] = {}
        """Every zone ever found, and its component: what a sum is not whole without."""
        self._unopened: dict[str, str] = {}
        """Zones that could not be opened, and why."""
        self._retry_at = 0.0
        self._missing: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        """Which components are withheld, and why, in sentences."""

    def open(self) -> None:
        """Find the zones. Raises SourceError: ABSENT where there are none, PERMISSION where too few may be read."""
        self.close()
        self._open_zones()
        self._note(self._unopened)
        if self._whole():
            return
        refused = [name for name, why in self._unopened.items() if _REFUSED in why]
        self.close()
        if refused:
            detail = f"{self._unopened[refused[0]]} ({len(refused)} of {len(self._known)} zones)"
            raise SourceError(Reason.PERMISSION, detail, _PERMISSION_HINT)
        detail = " ".join(self.notes) or f"no RAPL package zone under {self._root}"
        raise SourceError(Reason.ABSENT, detail, _ABSENT_HINT)

    def read(self) -> HostReading:
        """Joules by component since the first open, of the components whose zones all answer. Raises SourceError when
        there is none."""
        now = self._clock()
        if self._unopened and now >= self._retry_at:
            self._open_zones()
        silent: dict[str, str] = {}
        for zone in self._zones:
            try:
                zone.look(now)
            except (OSError, ValueError) as error:
                # What it counts meanwhile is caught up if it comes back in time.
                silent[zone.name] = f"{zone.name}{_why(error)}"
                zone.silent_since = now if zone.silent_since is None else zone.silent_since
        self._let_go(now)
        silent = {**self._unopened, **silent}
        for zone in self._zones:
            _tell_apart(zone, silent)
        self._note(silent)
        samples = tuple(
            HostSample(
                component,
                now,
                energy_joules=self._base.get(component, 0.0) + self._counted(component),
                max_power_watts=_MAX_WATTS[component] * list(self._known.values()).count(component),
            )
            for component in self._whole()
        )
        if not samples:
            raise SourceError(
                Reason.LOST, " ".join(self.notes) or f"no RAPL zone under {self._root} answers any more", _ABSENT_HINT
            )
        return HostReading(samples)

    def close(self) -> None:
        """Close the files. What was counted stays counted, so the joules go on after another open."""
        for component in _MAX_WATTS:
            self._base[component] = self._base.get(component, 0.0) + self._counted(component)
        for zone in self._zones:
            os.close(zone.fd)
        self._zones = []

    def _let_go(self, now: float) -> None:
        """Close zones that were silent for long: a package that was taken offline comes back as another file."""
        for zone in list(self._zones):
            if zone.silent_since is not None and now - zone.silent_since >= RETRY_SECONDS:
                if zone.mirrors is None:
                    self._base[zone.component] = self._base.get(zone.component, 0.0) + zone.joules
                self._unopened[zone.name] = f"{zone.name} does not answer"
                self._zones.remove(zone)
                os.close(zone.fd)

    def _open_zones(self) -> None:
        """Open those that are not open yet."""
        now = self._clock()
        self._retry_at = now + RETRY_SECONDS
        opened = {zone.name for zone in self._zones}
        self._unopened = {name: f"{name} is not there any more" for name in self._known if name not in opened}
        for component, name, package, path in _find(self._root):
            self._known[name] = component
            if name in opened:
                continue
            try:
                zone = _opened(name, component, package, path, now)
            except (OSError, ValueError) as error:  # EINVAL, ENODATA: registered, but cannot be read
                self._unopened[name] = f"{path}{_why(error)}"
                continue
            self._unopened.pop(name, None)
            for other in self._zones:
                if other.mirrors is not None and other.mirrors.name == name:
                    other.mirrors = zone  # of an earlier file
            zone.mirrors = next((earlier for earlier in self._zones if _is_mirrored(zone, earlier)), None)
            self._zones.append(zone)

    def _note(self, silent: Mapping[str, str]) -> None:
        """Take down without which zones the sums are not whole. One that mirrors another is in the other."""
        mirrors = {zone.name for zone in self._zones if zone.mirrors is not None}
        missing = {name: why for name, why in silent.items() if name not in mirrors}
        if missing == self._missing:
            return
        self._missing = missing
        self.notes = tuple(_notes(missing, self._known))

    def _whole(self) -> list[str]:
        """Components all of whose zones answer."""
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
                f"No {component} energy is told by rapl: {len(names)} of its {list(known.values()).count(component)} zones"
                f" ({', '.join(names)}) cannot be read, and the sum of the others would be too low."
                f" {why}. {_PERMISSION_HINT if _REFUSED in why else ''}".rstrip()
            )


def _is_mirrored(zone: _Zone, earlier: _Zone) -> bool:
    same_package = earlier.package == zone.package and earlier.component == zone.component
    return same_package and earlier.mirrors is None and _apart(zone, earlier) < _MIRROR_JOULES


def _tell_apart(zone: _Zone, silent: Mapping[str, str]) -> None:
    """Whether a zone still shows the counter of another. Judged only by looks at which both answered."""
    if zone.mirrors is None or zone.name in silent or zone.mirrors.name in silent:
        return
    if _apart(zone, zone.mirrors) <= _MIRROR_JOULES:
        zone.apart, zone.shared_joules = 0, zone.joules
        return
    zone.apart += 1
    if zone.apart >= _APART_LOOKS:  # a counter of its own after all: counted from where they parted
        zone.mirrors = None
        zone.joules -= zone.shared_joules


_REFUSED = "/energy_uj may not be read"


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return _REFUSED
    return f"/energy_uj cannot be read: {(isinstance(error, OSError) and error.strerror) or error}"


def _opened(name: str, component: str, package: str, path: Path, at: float) -> _Zone:
    """A zone with its first look. Raises OSError or ValueError where it cannot be read."""
    largest = _number(path / "max_energy_range_uj") / 1e6
    zone = _Zone(name, component, package, largest, os.open(path / "energy_uj", os.O_RDONLY | os.O_CLOEXEC))
    try:
        zone.look(at)
    except (OSError, ValueError):
        os.close(zone.fd)
        raise
    return zone


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
