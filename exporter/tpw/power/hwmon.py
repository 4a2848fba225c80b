"""Accelerators that the kernel's hardware monitoring shows: Intel GPUs, AMD GPUs without amdsmi, Jetson modules.

Sources: Documentation/ABI/testing/sysfs-driver-intel-{xe,i915}-hwmon and Documentation/gpu/amdgpu/thermal.rst and
Documentation/hwmon/ina3221.rst of Linux. Units there: microjoules, microwatts, millivolts, milliamperes, millidegrees.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tpw.model import Die, EnergyMethod, Gpu, GpuSample, PowerScope, Reason, SourceError
from tpw.power import Clock

DRIVERS = ("xe", "i915", "ina3221")
"""Chips looked for unless told otherwise. ``amdgpu`` is not among them: those GPUs are the amdsmi meter's."""

_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9]$", re.IGNORECASE)
_INTEL = "0x8086"
_TWO_DIES = frozenset({"0x7408", "0x740c"})
"""AMD Instinct MI250X and MI250 (pci.ids): a board of two dies, each a PCI device of its own, of which the first tells the
power of both and the second tells 0 or nothing."""


@dataclass(slots=True)
class _Board:
    """One accelerator and the files it is read from."""

    gpu: Gpu
    energy: Path | None = None
    power: Path | None = None
    rails: list[tuple[Path, Path]] = field(default_factory=list)
    """(voltage, current): Jetson."""
    limit: Path | None = None
    temperature: Path | None = None
    busy: Path | None = None
    memory_used: Path | None = None
    memory_total: Path | None = None
    device_id: str = ""
    second: _Board | None = None
    """The other die of its board, whose power this one tells."""

    def files(self, name: str) -> list[Path | None]:
        """The file of each die."""
        own: Path | None = getattr(self, name)
        return [own] if self.second is None else [own, getattr(self.second, name)]


class HwmonMeter:
    """An :class:`tpw.power.AcceleratorMeter` over sysfs.

    Args:
        sysfs_root: where sysfs is mounted.
        clock: monotonic seconds.
        drivers: hwmon chips to take: ``xe``, ``i915``, ``amdgpu``, ``ina3221``.
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
        self._boards: dict[str, _Board] = {}
        self._count = 0
        self._discover_at = 0.0

    def open(self) -> None:
        """Find the accelerators. Raises SourceError where there are none."""
        self._discover()
        if not self._boards:
            raise SourceError(
                Reason.ABSENT,
                f"no accelerator of {', '.join(sorted(self._drivers))} under {self._root}/class/hwmon",
                "Intel GPUs need the xe or i915 driver of a recent kernel; a container must have sysfs mounted.",
            )

    def sweep(self) -> None:
        """Look for new boards once a minute."""
        if self._clock() >= self._discover_at:
            self._discover()

    def gpus(self) -> tuple[Gpu, ...]:
        """All accelerators ever found, by index."""
        return tuple(sorted((board.gpu for board in self._boards.values()), key=lambda gpu: (gpu.index, gpu.uuid)))

    def read(self, uuid: str) -> GpuSample:
        """One look. Raises SourceError."""
        board = self._boards.get(uuid)
        if board is None:
            raise SourceError(Reason.LOST, f"{uuid}: no such accelerator was ever found")
        energy = None if board.energy is None else _required(board.energy) / 1e6
        watts = _watts(board)
        used, total = _sum(board.files("memory_used")), _sum(board.files("memory_total"))
        limit = _optional(board.limit)
        temperature = _optional(board.temperature)
        busy = [_optional(path) for path in board.files("busy")]
        known = [min(percent, 100.0) / 100.0 for percent in busy if percent is not None]
        return GpuSample(
            uuid=uuid,
            at_seconds=self._clock(),
            energy_joules=energy,
            power_watts=watts or None,
            power_limit_watts=limit / 1e6 if limit else None,
            utilization_ratio=sum(known) / len(known) if len(known) == len(busy) else None,
            memory_used_bytes=used,
            memory_total_bytes=total,
            temperature_celsius=None if temperature is None else temperature / 1000.0,
        )

    def close(self) -> None:
        """Nothing is kept open: a device that is unplugged must not be held."""

    def _discover(self) -> None:
        self._discover_at = self._clock() + 60.0
        found: list[_Board] = []
        for chip in sorted((self._root / "class" / "hwmon").glob("hwmon*"), key=_natural):
            name = _text(chip / "name")
            if name not in self._drivers:
                continue  # i915_gt0 and the like are parts of i915
            board = _jetson(self._root, chip) if name == "ina3221" else _graphics(chip, name)
            if board is not None:
                found.append(board)
        seconds = {die.uuid for board in self._boards.values() for die in board.gpu.dies}
        for board in _one_jetson(found):
            if board.gpu.uuid in seconds:
                continue
            known = self._boards.get(board.gpu.uuid)
            if known is not None and _is_still_good(known, board):
                continue
            board.gpu = replace(board.gpu, index=self._count if known is None else known.gpu.index)
            if known is None:
                self._count += 1
            self._boards[board.gpu.uuid] = board
        self._pair_dies()

    def _pair_dies(self) -> None:
        """Make one GPU of the two dies of a board: two would be one with too much energy and one with none."""
        first: _Board | None = None
        for board in sorted(self._boards.values(), key=lambda board: board.gpu.pci_bus_id):
            if board.device_id not in _TWO_DIES:
                continue
            if board.gpu.energy_method is not EnergyMethod.NONE:
                first = board if board.second is None else None
            elif first is not None:
                gpu = board.gpu
                first.second = board
                first.gpu = replace(
                    first.gpu,
                    dies=(Die(gpu.uuid, gpu.index, gpu.pci_bus_id),),
                    remarks=("Power is that of both dies of the board.",),
                )
                del self._boards[gpu.uuid]
                first = None


def _is_still_good(known: _Board, found: _Board) -> bool:
    """Whether a board goes on being read as it is: a file that could not be read at this moment is no reason to take
    another counter, whose number is another."""
    source = known.energy or known.power
    if source is None or not source.exists():
        return False
    methods = list(EnergyMethod)  # best first
    return methods.index(known.gpu.energy_method) <= methods.index(found.gpu.energy_method)


def _graphics(chip: Path, driver: str) -> _Board | None:
    """An Intel or AMD GPU. Integrated Intel graphics (no energy counter of their own) are passed over."""
    device = (chip / "device").resolve()
    if not _PCI.search(device.name):
        return None
    board = _Board(
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
    board.device_id = _text(device / "device")
    note, method = "", EnergyMethod.COUNTER
    channel = 1
    card, package = chip / "energy1_input", chip / "energy2_input"
    if _value(card):
        board.energy = card
    elif _value(package):
        # Arc B580 was reported with a card counter that stays 0 (igcl issue 138).
        board.energy, channel = package, 2
        note = "the card's counter is missing or zero: the package's is used, without the board's memory"
    else:
        board.energy = None
        average, instant = chip / "power1_average", chip / "power1_input"
        if _value(average):
            board.power, method = average, EnergyMethod.AVERAGE_POWER
            note = "no energy counter: the driver's mean of power is integrated"
        elif _value(instant):
            board.power, method = instant, EnergyMethod.INSTANT_POWER
            note = "no energy counter and no mean of power: instants are integrated"
        elif average.exists() or instant.exists() or board.device_id in _TWO_DIES:
            method = EnergyMethod.NONE
            note = "reports 0 W or cannot be read: looked at again every minute"
        else:
            return None
    board.limit = _first(chip, f"power{channel}_max", "power1_cap", "power1_rated_max")
    board.temperature = _first(chip, "temp2_input", "temp1_input")
    board.busy = _first(device, "gpu_busy_percent")
    board.memory_used = _first(device, "mem_info_vram_used")
    board.memory_total = _first(device, "mem_info_vram_total")
    names = ("power1_cap_max", f"power{channel}_max", f"power{channel}_rated_max", f"power{channel}_cap")
    # The burst limit (PL2, power1_cap on xe) may be above the sustained one; a limit of 0 is one that is switched off.
    highest = max((_value(chip / name) or 0.0 for name in names), default=0.0)
    board.gpu = replace(
        board.gpu,
        energy_method=method,
        method_note=note,
        power_averaged=method is EnergyMethod.AVERAGE_POWER,
        max_power_watts=highest / 1e6 or None,
    )
    return board


def _jetson(root: Path, chip: Path) -> _Board | None:
    """A Jetson module by its INA3221. The rail that feeds the module (VDD_IN and its like) contains the others; without
    one, the rail of the GPU stands for the GPU alone."""
    rails: dict[str, tuple[Path, Path]] = {}
    for channel in (1, 2, 3):  # 4 to 7 are shunt voltages and their sum
        label = _text(chip / f"in{channel}_label")
        voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        if label and _value(chip / f"in{channel}_enable") != 0 and voltage.exists() and current.exists():
            rails[label] = (voltage, current)
    total = next((label for label in rails if re.search(r"(^|_)(IN|SYS|TOTAL)$", label.upper())), None)
    gpu = next((label for label in rails if "GPU" in label.upper()), None)
    feeding = total or gpu
    if feeding is None:
        return None
    tree = root / "firmware" / "devicetree" / "base"
    serial = _text(tree / "serial-number") or "0"
    scope = PowerScope.MODULE if total else PowerScope.GPU
    return _Board(
        Gpu(
            uuid=f"JETSON-{serial}",
            index=0,
            name=_text(tree / "model") or "NVIDIA Jetson",
            vendor="nvidia",
            power_scope=scope,
            energy_method=EnergyMethod.INSTANT_POWER,
            method_note=f"Jetson modules have no energy counter: voltage times current of the rail {feeding} is integrated",
        ),
        rails=[rails[feeding]],
    )


def _one_jetson(boards: list[_Board]) -> list[_Board]:
    """A module may have two INA3221: the one with the rail of the whole module stands for it."""
    module = [board for board in boards if board.rails]
    if len(module) < 2:
        return boards
    best = next((board for board in module if board.gpu.power_scope is PowerScope.MODULE), module[0])
    return [board for board in boards if not board.rails or board is best]


def _watts(board: _Board) -> float | None:
    if board.rails:
        return sum(_required(voltage) * _required(current) for voltage, current in board.rails) / 1e6
    return None if board.power is None else _required(board.power) / 1e6


def _identity(device: Path) -> str:
    """What identifies a GPU across reboots: AMD's unique id where there is one, else where it is plugged in."""
    unique = _text(device / "unique_id")
    return f"AMD-{unique}" if unique else f"PCI-{device.name}"


def _required(path: Path) -> float:
    try:
        return _number(path)
    except PermissionError:
        raise SourceError(Reason.PERMISSION, f"{path} may not be read", "Let the exporter's user read it.") from None
    except FileNotFoundError:
        raise SourceError(Reason.LOST, f"{path} is gone", "The device was removed or its driver unloaded.") from None
    except (OSError, ValueError) as error:
        raise SourceError(Reason.BROKEN, f"{path}: {error}") from None


def _sum(paths: Sequence[Path | None]) -> float | None:
    known = [value for value in map(_optional, paths) if value is not None]
    return sum(known) if known and len(known) == len(paths) else None


def _optional(path: Path | None) -> float | None:
    return None if path is None else _value(path)


def _value(path: Path) -> float | None:
    try:
        return _number(path)
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float:
    """Kernels write integers, so a word that Python takes for a number is none."""
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
