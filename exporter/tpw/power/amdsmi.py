"""AMD GPUs through amdsmi, the Python binding that comes with ROCm.

It is imported when the meter is opened and never before: it belongs to the ROCm installation, and without its library the
import fails with whatever error comes first, and prints.

Facts from amd_smi.h and py-interface/amdsmi_interface.py of ROCm/amdsmi; differences between generations as found in the
field: MI200 reports average_socket_power and "N/A" for the current one, MI300 the reverse; of an MI250's two dies only the
first reports, for both. So such a pair is one GPU here, with the energy of both, and its second die is named in
:attr:`tpw.model.Gpu.dies`: two GPUs would be one with too much energy and one with none.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tpw.model import Die, EnergyMethod, Gpu, GpuSample, Reason, Sharing, SourceError
from tpw.power import Clock, MeterLost

REDISCOVERY_SECONDS = 60.0
"""How often new GPUs are looked for."""
SLOW_EVERY = 5
"""Memory, temperature and limit are read at every so many-th look."""

NOMINAL_MICROJOULES = 1e6 / 2**16
"""The accumulator counts 2^-16 J; the binding rounds that to 15.3 microjoules."""

NOT_SUPPORTED = 2
API_FAILED = 7
TIMEOUT = 8
NO_PERMISSION = 10
NOT_FOUND = 31
_UNSUPPORTED = frozenset({NOT_SUPPORTED, 3, 40})
_LIBRARY = frozenset({18, 32, 34})
"""Initialisation failed, not initialised, driver not loaded."""

_REASONS = {TIMEOUT: Reason.TIMEOUT, NO_PERMISSION: Reason.PERMISSION, NOT_FOUND: Reason.LOST, 2: Reason.UNSUPPORTED}
_BOTH = "Power and energy are those of both dies of the board."
_PERMISSION_HINT = "Put the exporter's user into the groups video and render."


@dataclass(slots=True)
class _Board:
    """One GPU."""

    gpu: Gpu
    handle: Any
    power_key: str = ""
    fault: SourceError | None = None
    """Why it could not be probed."""
    looks: int = 0
    limit_watts: float | None = None
    used_bytes: float | None = None
    total_bytes: float | None = None
    temperature_celsius: float | None = None
    second: _Board | None = None
    """The other die of an MI250, whose energy this one tells."""

    def dies(self) -> tuple[_Board, ...]:
        return (self,) if self.second is None else (self, self.second)


class AmdsmiMeter:
    """An :class:`tpw.power.AcceleratorMeter` over amdsmi.

    Args:
        clock: monotonic seconds.
        load: gives the binding's module.
    """

    name = "amdsmi"

    def __init__(
        self, clock: Clock = time.monotonic, load: Callable[[], Any] = lambda: importlib.import_module("amdsmi")
    ) -> None:
        self._clock = clock
        self._load = load
        self._smi: Any = None
        self._boards: dict[str, _Board] = {}
        self._open = False
        self._discover_at = 0.0
        self._reading: set[str] = set()
        """GPUs with a call in the driver: while one hangs, none is asked who it is."""

    # ------------------------------------------------------------------------------------------------- opening, closing

    def open(self) -> None:
        """Load the binding, initialise the library, find the GPUs. Raises SourceError."""
        if self._smi is None:
            self._smi = self._loaded()
        code, _ = self._try(self._smi.amdsmi_init)
        if code is not None:
            raise MeterLost(
                Reason.ABSENT if code in _LIBRARY else Reason.BROKEN,
                f"amdsmi cannot be initialised ({code})",
                "Load the kernel module amdgpu (rocminfo tells whether it works).",
            )
        self._open = True
        for board in self._boards.values():
            board.handle = None  # of an earlier initialisation
        self._discover()

    def _loaded(self) -> Any:
        hint = "Install amdsmi (part of ROCm) for this Python, or read these GPUs with hwmon and drivers: [amdgpu]."
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return self._load()
        except Exception as error:  # noqa: BLE001 - KeyError without the library, OSError, AttributeError ...
            raise SourceError(
                Reason.ABSENT, f"amdsmi cannot be loaded: {type(error).__name__}: {error}", hint
            ) from None

    def close(self) -> None:
        """Let go of the library."""
        if self._open:
            self._open = False
            self._try(self._smi.amdsmi_shut_down)

    # ---------------------------------------------------------------------------------------------------------- looking

    def sweep(self) -> None:
        """Once a minute, look for GPUs that are new or could not be probed. Raises SourceError."""
        if self._clock() >= self._discover_at and not self._reading:
            self._discover()

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs ever found, by index."""
        return tuple(sorted((board.gpu for board in self._boards.values()), key=lambda gpu: (gpu.index, gpu.uuid)))

    def read(self, uuid: str) -> GpuSample:
        """One look. Raises SourceError, or MeterLost where the library is gone."""
        board = self._boards.get(uuid)
        if board is None or board.handle is None:
            raise SourceError(Reason.LOST, f"{uuid}: the GPU is no longer there")
        if board.fault is not None:
            raise SourceError(board.fault.reason, board.fault.detail, board.fault.hint)
        self._reading.add(uuid)
        try:
            return self._look(board)
        finally:
            self._reading.discard(uuid)

    def _look(self, board: _Board) -> GpuSample:
        uuid = board.gpu.uuid
        counter = board.gpu.energy_method is EnergyMethod.COUNTER
        energy = joules_of(self._ask(board, "amdsmi_get_energy_count")) if counter else None
        if counter and energy is None:
            raise SourceError(Reason.BROKEN, f"{uuid}: amdsmi gave no energy count in this look")
        at = self._clock()
        watts = (
            number((self._ask(board, "amdsmi_get_power_info") or {}).get(board.power_key)) if board.power_key else None
        )
        activity = self._activity(board)
        if board.looks % SLOW_EVERY == 0:
            self._slow_look(board)
        board.looks += 1
        return GpuSample(
            uuid=uuid,
            at_seconds=at,
            energy_joules=energy,
            power_watts=watts or None,
            power_limit_watts=board.limit_watts,
            utilization_ratio=activity,
            memory_used_bytes=board.used_bytes,
            memory_total_bytes=board.total_bytes,
            temperature_celsius=board.temperature_celsius,
        )

    def sharing(self, uuid: str) -> Sharing:
        """Process ids with memory on this GPU (amdsmi_get_gpu_process_list), unknown where a die does not list them."""
        board = self._boards.get(uuid)
        if board is None or board.handle is None:
            return Sharing()
        found = [self._processes(die) for die in board.dies()]
        known = [pids for pids in found if pids is not None]
        return Sharing(frozenset[int]().union(*known) if len(known) == len(found) else None)

    def _processes(self, board: _Board) -> set[int] | None:
        code, processes = self._try(partial(self._smi.amdsmi_get_gpu_process_list, board.handle))
        if code is not None or processes is None:
            return None
        pids: set[int] = set()
        for process in processes:
            row = process
            if not isinstance(row, dict):  # ROCm before 6.0 gives a handle that must be asked
                _, row = self._try(partial(self._smi.amdsmi_get_gpu_process_info, board.handle, process))
            pid = number(row.get("pid")) if isinstance(row, dict) else None
            if pid and _has_memory(row):
                pids.add(int(pid))
        return pids

    def _of_dies(self, board: _Board, name: str) -> list[dict[str, Any]]:
        """What each die answers. A second die that fails costs the board nothing but what is not known without it."""
        answers = [self._ask(board, name) or {}]
        if board.second is not None:
            code, answer = self._try(partial(getattr(self._smi, name, dict), board.second.handle))
            answers.append(answer or {} if code is None else {})
        return answers

    def _activity(self, board: _Board) -> float | None:
        """How busy the board is: the mean of its dies."""
        busy = [number(of.get("gfx_activity")) for of in self._of_dies(board, "amdsmi_get_gpu_activity")]
        known = [min(percent, 100.0) / 100.0 for percent in busy if percent is not None]
        return sum(known) / len(known) if len(known) == len(busy) else None

    def _slow_look(self, board: _Board) -> None:
        memory = self._of_dies(board, "amdsmi_get_gpu_vram_usage")
        board.used_bytes = _mebibytes(of.get("vram_used") for of in memory)
        board.total_bytes = _mebibytes(of.get("vram_total") for of in memory)
        caps = self._ask(board, "amdsmi_get_power_cap_info") or {}
        board.limit_watts = _cap_watts(caps.get("power_cap"))
        board.temperature_celsius = self._temperature(board)

    def _temperature(self, board: _Board) -> float | None:
        """Edge where it is reported; accelerators in OAM form have only the hot spot."""
        kinds = getattr(self._smi, "AmdSmiTemperatureType", None)
        current = getattr(getattr(self._smi, "AmdSmiTemperatureMetric", None), "CURRENT", None)
        for kind in ("EDGE", "HOTSPOT", "JUNCTION"):
            sensor = getattr(kinds, kind, None)
            if sensor is not None:
                celsius = number(self._ask(board, "amdsmi_get_temp_metric", sensor, current))
                if celsius:
                    return celsius
        return None

    # -------------------------------------------------------------------------------------------------------- discovery

    def _discover(self) -> None:
        code, handles = self._try(self._smi.amdsmi_get_processor_handles)
        if code is not None:
            raise MeterLost(
                _REASONS.get(code, Reason.BROKEN), f"amdsmi cannot list the GPUs ({code})", _PERMISSION_HINT
            )
        self._discover_at = self._clock() + REDISCOVERY_SECONDS
        seen: set[str] = set()
        first: _Board | None = None
        """The MI250 met last that tells energy and whose other die was not met yet."""
        for index, handle in enumerate(handles or []):
            probe = _Board(Gpu(uuid="", index=index, vendor="amd", energy_method=EnergyMethod.NONE), handle)
            bdf = str(self._ask(probe, "amdsmi_get_gpu_device_bdf") or "")
            uuid = str(self._ask(probe, "amdsmi_get_gpu_device_uuid") or "") or f"PCI-{bdf or index}"
            seen.add(uuid)
            known = self._boards.get(uuid)
            if known is not None and known.handle is not None and known.gpu.energy_method is EnergyMethod.COUNTER:
                known.handle = handle
                known.gpu = replace(known.gpu, index=index, dies=(), remarks=())
                known.second = None
                first = known if _has_two_dies(known) else None
                continue
            probe.gpu = replace(probe.gpu, uuid=uuid, pci_bus_id=bdf)
            try:
                self._probe(probe)
            except MeterLost:
                raise
            except SourceError as error:
                probe.fault = error
            if first is not None and probe.fault is None and _is_second_die(probe):
                first.second = probe
                first.gpu = replace(first.gpu, dies=(Die(uuid, index, bdf),), remarks=(_BOTH,))
                self._boards.pop(uuid, None)
                first = None
                continue
            self._boards[uuid] = probe
            first = probe if _has_two_dies(probe) else None
        for uuid, board in self._boards.items():
            if uuid not in seen:
                board.handle = None
        if not self._boards:
            raise SourceError(Reason.ABSENT, "amdsmi finds no GPU", _PERMISSION_HINT)

    def _probe(self, board: _Board) -> None:
        """Ask a GPU what it can tell. Raises SourceError."""
        asic = self._ask(board, "amdsmi_get_gpu_asic_info") or {}
        driver = self._ask(board, "amdsmi_get_gpu_driver_info") or {}
        caps = self._ask(board, "amdsmi_get_power_cap_info") or {}
        power = self._ask(board, "amdsmi_get_power_info") or {}
        energy = joules_of(self._ask(board, "amdsmi_get_energy_count"))
        name = str(asic.get("market_name") or "AMD GPU")
        board.power_key = next(
            (
                key
                for key in ("current_socket_power", "average_socket_power", "socket_power")
                if (number(power.get(key)) or 0.0) > 0.0
            ),
            "",
        )
        method, note = _method(energy, board.power_key)
        board.gpu = replace(
            board.gpu,
            name=name,
            architecture=str(asic.get("target_graphics_version") or ""),
            driver_version=str(driver.get("driver_version") or ""),
            energy_method=method,
            method_note=note,
            power_averaged=board.power_key == "average_socket_power",
            max_power_watts=max(_cap_watts(caps.get("max_power_cap")) or 0.0, _cap_watts(caps.get("power_cap")) or 0.0)
            or None,
        )

    # ------------------------------------------------------------------------------------------------------------ calls

    def _ask(self, board: _Board, name: str, *arguments: Any) -> Any:
        """What the GPU answers; None where it does not offer that. Raises SourceError for every other failure."""
        call = getattr(self._smi, name, None)
        if call is None:
            return None
        code, answer = self._try(partial(call, board.handle, *arguments))
        if code is None:
            return answer
        if code in _UNSUPPORTED:
            return None
        where = board.gpu.uuid or f"GPU {board.gpu.index}"
        if code in _LIBRARY:
            raise MeterLost(Reason.ABSENT, f"{where}: amdsmi is not initialised any more ({code})")
        reason = _REASONS.get(code, Reason.BROKEN)
        hint = _PERMISSION_HINT if reason is Reason.PERMISSION else ""
        raise SourceError(reason, f"{where}: {name} failed ({code})", hint)

    def _try(self, call: Callable[[], Any]) -> tuple[int | None, Any]:
        """(None, answer), or (status code, None). The binding's exceptions have changed their names over time."""
        try:
            return None, call()
        except Exception as error:  # noqa: BLE001
            told = getattr(error, "get_error_code", None)
            code = told() if callable(told) else getattr(error, "err_code", API_FAILED)
            return (code if isinstance(code, int) else API_FAILED), None


def number(value: Any) -> float | None:
    """A number of the binding; None for "N/A" and for the all-ones that stand for it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return None if value < 0 or value in (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else float(value)


def joules_of(count: Any) -> float | None:
    """Joules of amdsmi_get_energy_count: accumulator (called "power" before ROCm 6.4) times resolution. None for 0: a
    GPU that has been powered on has used something, so 0 is a counter that is not there."""
    if not isinstance(count, dict):
        return None
    ticks = number(count.get("energy_accumulator", count.get("power")))
    resolution = number(count.get("counter_resolution"))
    if not ticks or not resolution:
        return None
    if abs(resolution / NOMINAL_MICROJOULES - 1.0) < 0.01:
        resolution = NOMINAL_MICROJOULES
    return ticks * resolution / 1e6


def _method(energy: float | None, power_key: str) -> tuple[EnergyMethod, str]:
    if energy is not None:
        return EnergyMethod.COUNTER, ""
    without = "no energy counter (virtual machines have none)"
    if power_key == "average_socket_power":
        return EnergyMethod.AVERAGE_POWER, f"{without}: the driver's mean of power is integrated"
    if power_key:
        return EnergyMethod.INSTANT_POWER, f"{without}: instants of power are integrated"
    return EnergyMethod.NONE, (
        "reports neither energy nor power: where it is a partition, the first of its package reports for all of them"
    )


def _has_two_dies(board: _Board) -> bool:
    return "MI250" in board.gpu.name and board.gpu.energy_method is not EnergyMethod.NONE


def _is_second_die(board: _Board) -> bool:
    return "MI250" in board.gpu.name and board.gpu.energy_method is EnergyMethod.NONE


def _mebibytes(amounts: Iterable[Any]) -> float | None:
    """Their sum in bytes; None where one is not known."""
    known = [number(amount) for amount in amounts]
    return None if None in known else sum(amount for amount in known if amount is not None) * 2**20


def _cap_watts(value: Any) -> float | None:
    """A limit in watts. The binding gives microwatts, some of its versions watts."""
    cap = number(value)
    if not cap:
        return None
    return cap / 1e6 if cap >= 1e5 else cap


def _has_memory(row: dict[str, Any]) -> bool:
    """Processes that have merely opened the device are listed with no memory on it."""
    usage = row.get("memory_usage")
    amounts = [number(row.get("mem"))] + ([number(usage.get("vram_mem"))] if isinstance(usage, dict) else [])
    known = [amount for amount in amounts if amount is not None]
    return not known or any(amount > 0 for amount in known)
