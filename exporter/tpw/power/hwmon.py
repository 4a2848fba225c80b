"""Accelerators in the kernel's hwmon tree: Intel GPUs, AMD GPUs without amdsmi, Jetson modules.

Sources, all of Linux: Documentation/ABI/testing/sysfs-driver-intel-{xe,i915}-hwmon, Documentation/gpu/amdgpu/thermal.rst,
Documentation/hwmon/ina3221.rst. Units there: microjoules, microwatts, millivolts, milliamperes, millidegrees.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tpw.model import Die, EnergyMethod, Gpu, GpuSample, PowerScope, Reason, SourceError
from tpw.power import Clock
from tpw.power.gpus import by_index, mean_ratio, total

DRIVERS = ("xe", "i915", "ina3221")
"""Default chips. ``amdgpu`` is not among them, since the amdsmi meter reads those GPUs."""

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9]$", re.IGNORECASE)
_INTEL = "0x8086"
_TWO_DIES = frozenset({"0x7408", "0x740c"})
"""AMD Instinct MI250X and MI250 (pci.ids): two dies, each a PCI device, of which the first reports the power of both, and
the second 0 or nothing."""


@dataclass(slots=True)
class _SysfsGpu:
    """One accelerator and its files."""

    info: Gpu
    energy: Path | None = None
    power: Path | None = None
    rails: list[tuple[Path, Path]] = field(default_factory=list)
    """(voltage, current), on Jetson modules."""
    limit: Path | None = None
    temperature: Path | None = None
    busy: Path | None = None
    memory_used: Path | None = None
    memory_total: Path | None = None
    device_id: str = ""
    second: _SysfsGpu | None = None
    """The other die, with its power in this one."""

    def files(self, name: str) -> list[Path | None]:
        """The file of each die."""
        own: Path | None = getattr(self, name)
        return [own] if self.second is None else [own, getattr(self.second, name)]


class HwmonMeter:
    """An :class:`tpw.power.AcceleratorMeter` over sysfs.

    Args:
        clock: monotonic seconds.
        sysfs_root: where sysfs is mounted.
        drivers: hwmon chips to read: ``xe``, ``i915``, ``amdgpu``, ``ina3221``.
    """

    name = "hwmon"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        sysfs_root: str | Path = "/sys",
        drivers: Sequence[str] = DRIVERS,
    ) -> None:
        self._root = Path(sysfs_root)
        self._clock = clock
        self._drivers = frozenset(drivers)
        unknown = self._drivers - {*DRIVERS, "amdgpu"}
        if unknown:
            raise ValueError(f"unknown hwmon drivers: {', '.join(sorted(unknown))}")
        self._devices: dict[str, _SysfsGpu] = {}
        self._count = 0
        self._discover_at = 0.0

    def open(self) -> None:
        """Find the accelerators. Raises SourceError where there are none."""
        self._discover()
        if not self._devices:
            raise SourceError(
                Reason.ABSENT,
                f"no accelerator with driver {', '.join(sorted(self._drivers))} under {self._root}/class/hwmon",
                "Intel GPUs need the xe or i915 driver of a recent kernel; a container needs sysfs mounted.",
            )

    def sweep(self) -> None:
        """Find new GPUs, once a minute."""
        if self._clock() >= self._discover_at:
            self._discover()

    def gpus(self) -> tuple[Gpu, ...]:
        """All accelerators found since the first open, by index."""
        return by_index(gpu.info for gpu in self._devices.values())

    def read(self, uuid: str) -> GpuSample:
        """Read one accelerator. Raises SourceError."""
        gpu = self._devices.get(uuid)
        if gpu is None:
            raise SourceError(Reason.LOST, f"{uuid}: this accelerator was never found")
        energy = None if gpu.energy is None else _required(gpu.energy) / 1e6
        watts = _watts(gpu)
        limit = _optional(gpu.limit)
        temperature = _optional(gpu.temperature)
        return GpuSample(
            uuid=uuid,
            at_seconds=self._clock(),
            energy_joules=energy,
            power_watts=watts or None,
            power_limit_watts=limit / 1e6 if limit else None,
            utilization_ratio=mean_ratio(map(_optional, gpu.files("busy"))),
            memory_used_bytes=total(map(_optional, gpu.files("memory_used"))),
            memory_total_bytes=total(map(_optional, gpu.files("memory_total"))),
            temperature_celsius=None if temperature is None else temperature / 1000.0,
        )

    def close(self) -> None:
        """No file stays open, so that a device can be removed."""

    def _discover(self) -> None:
        self._discover_at = self._clock() + 60.0
        found: list[_SysfsGpu] = []
        for chip in sorted((self._root / "class" / "hwmon").glob("hwmon*"), key=_natural):
            name = _text(chip / "name")
            if name not in self._drivers:
                continue  # i915_gt0 and the like are parts of i915
            gpu = _jetson(self._root, chip) if name == "ina3221" else _graphics(chip, name)
            if gpu is not None:
                found.append(gpu)
        seconds = {die.uuid for gpu in self._devices.values() for die in gpu.info.dies}
        for gpu in _one_jetson(found):
            if gpu.info.uuid in seconds:
                continue
            known = self._devices.get(gpu.info.uuid)
            if known is not None and _is_still_good(known, gpu):
                continue
            gpu.info = replace(gpu.info, index=self._count if known is None else known.info.index)
            if known is None:
                self._count += 1
            self._devices[gpu.info.uuid] = gpu
        self._pair_dies()

    def _pair_dies(self) -> None:
        """Make one GPU of two dies: as two GPUs, one would have too much energy and one none."""
        first: _SysfsGpu | None = None
        for gpu in sorted(self._devices.values(), key=lambda gpu: gpu.info.pci_bus_id):
            if gpu.device_id not in _TWO_DIES:
                continue
            if gpu.info.energy_method is not EnergyMethod.NONE:
                first = gpu if gpu.second is None else None
            elif first is not None:
                die = gpu.info
                first.second = gpu
                first.info = replace(
                    first.info,
                    dies=(Die(die.uuid, die.index, die.pci_bus_id),),
                    remarks=("Power is that of both dies of the GPU.",),
                )
                del self._devices[die.uuid]
                first = None


def _is_still_good(known: _SysfsGpu, found: _SysfsGpu) -> bool:
    """Whether to keep reading a GPU as before: one failed read is no reason to switch to a counter with another epoch."""
    source = known.energy or known.power
    if source is None or not source.exists():
        return False
    methods = list(EnergyMethod)  # best first
    return methods.index(known.info.energy_method) <= methods.index(found.info.energy_method)


def _graphics(chip: Path, driver: str) -> _SysfsGpu | None:
    """An Intel or AMD GPU. None for integrated Intel graphics, which have no energy counter."""
    device = (chip / "device").resolve()
    if not _PCI.search(device.name):
        return None
    gpu = _SysfsGpu(
        Gpu(
            uuid=_identity(device),
            index=0,
            name=_text(device / "label") or f"{driver} {_text(device / 'device')}".strip(),
            vendor="intel" if driver in ("xe", "i915") or _text(device / "vendor") == _INTEL else "amd",
            architecture=driver,
            driver_version=_text(device / "driver" / "module" / "version"),
            pci_bus_id=device.name,
        )
    )
    gpu.device_id = _text(device / "device")
    note, method = "", EnergyMethod.COUNTER
    channel = 1
    whole, package = chip / "energy1_input", chip / "energy2_input"
    if _value(whole):
        gpu.energy = whole
    elif _value(package):
        # Reported for Arc B580: energy1_input stays 0 (igcl issue 138).
        gpu.energy, channel = package, 2
        note = "energy1_input (the whole GPU) is missing or 0: energy2_input (the package, without memory) is used"
    else:
        gpu.energy = None
        average, instant = chip / "power1_average", chip / "power1_input"
        if _value(average):
            gpu.power, method = average, EnergyMethod.AVERAGE_POWER
            note = "no energy counter: the mean power of the driver (power1_average) is integrated"
        elif _value(instant):
            gpu.power, method = instant, EnergyMethod.INSTANT_POWER
            note = "no energy counter and no power1_average: instantaneous power (power1_input) is integrated"
        elif average.exists() or instant.exists() or gpu.device_id in _TWO_DIES:
            method = EnergyMethod.NONE
            note = "power1_average and power1_input are 0 or not readable: retried every minute"
        else:
            return None
    gpu.limit = _first(chip, f"power{channel}_max", "power1_cap", "power1_rated_max")
    gpu.temperature = _first(chip, "temp2_input", "temp1_input")
    gpu.busy = _first(device, "gpu_busy_percent")
    gpu.memory_used = _first(device, "mem_info_vram_used")
    gpu.memory_total = _first(device, "mem_info_vram_total")
    names = ("power1_cap_max", f"power{channel}_max", f"power{channel}_rated_max", f"power{channel}_cap")
    # The burst limit (PL2, power1_cap on xe) can be above the sustained one; 0 means that a limit is off.
    highest = max((_value(chip / name) or 0.0 for name in names), default=0.0)
    gpu.info = replace(
        gpu.info,
        energy_method=method,
        method_note=note,
        power_averaged=method is EnergyMethod.AVERAGE_POWER,
        max_power_watts=highest / 1e6 or None,
    )
    return gpu


def _jetson(root: Path, chip: Path) -> _SysfsGpu | None:
    """A Jetson module by its INA3221. The rail that feeds the module (such as VDD_IN) contains the others; without one, the
    GPU's rail is read, for the GPU alone."""
    rails: dict[str, tuple[Path, Path]] = {}
    for channel in (1, 2, 3):  # channels 4 to 7 are shunt voltages and their sum
        label = _text(chip / f"in{channel}_label")
        voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        if label and _value(chip / f"in{channel}_enable") != 0 and voltage.exists() and current.exists():
            rails[label] = (voltage, current)
    module = next((label for label in rails if re.search(r"(^|_)(IN|SYS|TOTAL)$", label.upper())), None)
    gpu_rail = next((label for label in rails if "GPU" in label.upper()), None)
    feeding = module or gpu_rail
    if feeding is None:
        return None
    tree = root / "firmware" / "devicetree" / "base"
    serial = _text(tree / "serial-number") or "0"
    scope = PowerScope.MODULE if module else PowerScope.GPU
    return _SysfsGpu(
        Gpu(
            uuid=f"JETSON-{serial}",
            index=0,
            name=_text(tree / "model") or "NVIDIA Jetson",
            vendor="nvidia",
            power_scope=scope,
            energy_method=EnergyMethod.INSTANT_POWER,
            method_note=f"no energy counter: voltage times current of rail {feeding} (ina3221) is integrated",
        ),
        rails=[rails[feeding]],
    )


def _one_jetson(gpus: list[_SysfsGpu]) -> list[_SysfsGpu]:
    """A module can have two INA3221: only the one with the rail of the whole module is read."""
    module = [gpu for gpu in gpus if gpu.rails]
    if len(module) < 2:
        return gpus
    best = next((gpu for gpu in module if gpu.info.power_scope is PowerScope.MODULE), module[0])
    return [gpu for gpu in gpus if not gpu.rails or gpu is best]


def _watts(gpu: _SysfsGpu) -> float | None:
    if gpu.rails:
        return sum(_required(voltage) * _required(current) for voltage, current in gpu.rails) / 1e6
    return None if gpu.power is None else _required(gpu.power) / 1e6


def _identity(device: Path) -> str:
    """Identity of a GPU across reboots: AMD's unique_id where there is one, else its PCI address."""
    unique = _text(device / "unique_id")
    return f"AMD-{unique}" if unique else f"PCI-{device.name}"


def _required(path: Path) -> float:
    try:
        return _number(path)
    except PermissionError:
        raise SourceError(
            Reason.PERMISSION, f"{path} is not readable", "Give the exporter's user read permission."
        ) from None
    except FileNotFoundError:
        raise SourceError(
            Reason.LOST, f"{path} no longer exists", "The device was removed or its driver unloaded."
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(Reason.BROKEN, f"{path}: {error}") from None


def _optional(path: Path | None) -> float | None:
    return None if path is None else _value(path)


def _value(path: Path) -> float | None:
    try:
        return _number(path)
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float:
    """The kernel writes integers: ``nan`` or ``1e3`` are errors."""
    return float(int(path.read_text()))


def _first(directory: Path, *names: str) -> Path | None:
    return next((directory / name for name in names if _value(directory / name) is not None), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def _natural(path: Path) -> tuple[int, str]:
    digits = re.sub(r"\D", "", path.name)
    return (int(digits) if digits else 0, path.name)
