"""AMD GPUs through amdsmi, the Python binding that comes with ROCm.

The binding is imported when the meter is opened, never before: without its library the import fails with any exception, and
prints.

Facts from amd_smi.h and py-interface/amdsmi_interface.py of ROCm/amdsmi. Reported by users: MI200 has average_socket_power
and "N/A" for current_socket_power, MI300 the reverse. Of an MI250's two dies only the first reports energy, for both. So
both are one GPU here, with the second die in :attr:`tpw.model.Gpu.dies`.
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
from tpw.power.gpus import by_index, mean_ratio, total

REDISCOVERY_SECONDS = 60.0
"""Between two searches for new GPUs. Chosen as in the nvml meter."""
SLOW_EVERY = 5
"""Memory, temperature and limit are read at every n-th read. Chosen as in the nvml meter."""

NOMINAL_MICROJOULES = 1e6 / 2**16
"""Resolution of the energy accumulator, 2^-16 J, which the binding rounds to 15.3 microjoules."""

NOT_SUPPORTED = 2
API_FAILED = 7
TIMEOUT = 8
NO_PERMISSION = 10
NOT_FOUND = 31
_UNSUPPORTED = frozenset({NOT_SUPPORTED, 3, 40})
_LIBRARY = frozenset({18, 32, 34})
"""Initialisation failed, not initialised, driver not loaded."""

_REASONS = {TIMEOUT: Reason.TIMEOUT, NO_PERMISSION: Reason.PERMISSION, NOT_FOUND: Reason.LOST, 2: Reason.UNSUPPORTED}
_BOTH = "Power and energy are those of both dies of the GPU."
_PERMISSION_HINT = "Put the exporter's user into the groups video and render."


@dataclass(slots=True)
class _AmdGpu:
    """One GPU."""

    info: Gpu
    handle: Any
    power_key: str = ""
    fault: SourceError | None = None
    """Why it could not be probed."""
    reads: int = 0
    limit_watts: float | None = None
    used_bytes: float | None = None
    total_bytes: float | None = None
    temperature_celsius: float | None = None
    second: _AmdGpu | None = None
    """The other die of an MI250, with its energy in this one."""

    def dies(self) -> tuple[_AmdGpu, ...]:
        return (self,) if self.second is None else (self, self.second)


class AmdsmiMeter:
    """An :class:`tpw.power.AcceleratorMeter` over amdsmi.

    Args:
        clock: monotonic seconds.
        load: imports the binding.
    """

    name = "amdsmi"

    def __init__(
        self, clock: Clock = time.monotonic, load: Callable[[], Any] = lambda: importlib.import_module("amdsmi")
    ) -> None:
        self._clock = clock
        self._load = load
        self._smi: Any = None
        self._devices: dict[str, _AmdGpu] = {}
        self._open = False
        self._discover_at = 0.0
        self._reading: set[str] = set()
        """GPUs with a call in the driver: while one hangs, no discovery is made."""

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
                "Load the kernel module amdgpu (rocminfo shows whether it works).",
            )
        self._open = True
        for gpu in self._devices.values():
            gpu.handle = None  # of an earlier initialisation
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
        """Shut the library down."""
        if self._open:
            self._open = False
            self._try(self._smi.amdsmi_shut_down)

    # ---------------------------------------------------------------------------------------------------------- reading

    def sweep(self) -> None:
        """Once a minute, find GPUs that are new or could not be probed. Raises SourceError."""
        if self._clock() >= self._discover_at and not self._reading:
            self._discover()

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs found since the first open, by index."""
        return by_index(gpu.info for gpu in self._devices.values())

    def read(self, uuid: str) -> GpuSample:
        """Read one GPU. Raises SourceError, or MeterLost where the library failed."""
        gpu = self._devices.get(uuid)
        if gpu is None or gpu.handle is None:
            raise SourceError(Reason.LOST, f"{uuid}: the GPU is no longer listed by amdsmi")
        if gpu.fault is not None:
            raise SourceError(gpu.fault.reason, gpu.fault.detail, gpu.fault.hint)
        self._reading.add(uuid)
        try:
            return self._sample(gpu)
        finally:
            self._reading.discard(uuid)

    def _sample(self, gpu: _AmdGpu) -> GpuSample:
        uuid = gpu.info.uuid
        counter = gpu.info.energy_method is EnergyMethod.COUNTER
        energy = joules_of(self._ask(gpu, "amdsmi_get_energy_count")) if counter else None
        if counter and energy is None:
            raise SourceError(Reason.BROKEN, f"{uuid}: amdsmi returned no energy count")
        at = self._clock()
        watts = number((self._ask(gpu, "amdsmi_get_power_info") or {}).get(gpu.power_key)) if gpu.power_key else None
        activity = self._activity(gpu)
        if gpu.reads % SLOW_EVERY == 0:
            self._read_slow_values(gpu)
        gpu.reads += 1
        return GpuSample(
            uuid=uuid,
            at_seconds=at,
            energy_joules=energy,
            power_watts=watts or None,
            power_limit_watts=gpu.limit_watts,
            utilization_ratio=activity,
            memory_used_bytes=gpu.used_bytes,
            memory_total_bytes=gpu.total_bytes,
            temperature_celsius=gpu.temperature_celsius,
        )

    def sharing(self, uuid: str) -> Sharing:
        """Process ids with memory on this GPU (amdsmi_get_gpu_process_list), unknown where a die does not list them."""
        gpu = self._devices.get(uuid)
        if gpu is None or gpu.handle is None:
            return Sharing()
        found = [self._processes(die) for die in gpu.dies()]
        known = [pids for pids in found if pids is not None]
        return Sharing(frozenset[int]().union(*known) if len(known) == len(found) else None)

    def _processes(self, gpu: _AmdGpu) -> set[int] | None:
        code, processes = self._try(partial(self._smi.amdsmi_get_gpu_process_list, gpu.handle))
        if code is not None or processes is None:
            return None
        pids: set[int] = set()
        for process in processes:
            row = process
            if not isinstance(row, dict):  # ROCm before 6.0 returns a handle instead
                _, row = self._try(partial(self._smi.amdsmi_get_gpu_process_info, gpu.handle, process))
            pid = number(row.get("pid")) if isinstance(row, dict) else None
            if pid and _has_memory(row):
                pids.add(int(pid))
        return pids

    def _for_each_die(self, gpu: _AmdGpu, name: str) -> list[dict[str, Any]]:
        """The result for each die, empty for a second die that fails."""
        answers = [self._ask(gpu, name) or {}]
        if gpu.second is not None:
            code, answer = self._try(partial(getattr(self._smi, name, dict), gpu.second.handle))
            answers.append(answer or {} if code is None else {})
        return answers

    def _activity(self, gpu: _AmdGpu) -> float | None:
        """Utilisation: the mean of the dies."""
        return mean_ratio(number(die.get("gfx_activity")) for die in self._for_each_die(gpu, "amdsmi_get_gpu_activity"))

    def _read_slow_values(self, gpu: _AmdGpu) -> None:
        memory = self._for_each_die(gpu, "amdsmi_get_gpu_vram_usage")
        gpu.used_bytes = _bytes(die.get("vram_used") for die in memory)
        gpu.total_bytes = _bytes(die.get("vram_total") for die in memory)
        caps = self._ask(gpu, "amdsmi_get_power_cap_info") or {}
        gpu.limit_watts = _cap_watts(caps.get("power_cap"))
        gpu.temperature_celsius = self._temperature(gpu)

    def _temperature(self, gpu: _AmdGpu) -> float | None:
        """Edge temperature where it is reported; OAM modules have only the hot spot."""
        kinds = getattr(self._smi, "AmdSmiTemperatureType", None)
        current = getattr(getattr(self._smi, "AmdSmiTemperatureMetric", None), "CURRENT", None)
        for kind in ("EDGE", "HOTSPOT", "JUNCTION"):
            sensor = getattr(kinds, kind, None)
            if sensor is not None:
                celsius = number(self._ask(gpu, "amdsmi_get_temp_metric", sensor, current))
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
        present: set[str] = set()
        first: _AmdGpu | None = None
        """The last MI250 die with energy that has no second die yet."""
        for index, handle in enumerate(handles or []):
            probe = _AmdGpu(Gpu(uuid="", index=index, vendor="amd", energy_method=EnergyMethod.NONE), handle)
            bdf = str(self._ask(probe, "amdsmi_get_gpu_device_bdf") or "")
            uuid = str(self._ask(probe, "amdsmi_get_gpu_device_uuid") or "") or f"PCI-{bdf or index}"
            present.add(uuid)
            known = self._devices.get(uuid)
            if known is not None and known.handle is not None and known.info.energy_method is EnergyMethod.COUNTER:
                known.handle = handle
                known.info = replace(known.info, index=index, dies=(), remarks=())
                known.second = None
                first = known if _has_two_dies(known) else None
                continue
            probe.info = replace(probe.info, uuid=uuid, pci_bus_id=bdf)
            try:
                self._probe(probe)
            except MeterLost:
                raise
            except SourceError as error:
                probe.fault = error
            if first is not None and probe.fault is None and _is_second_die(probe):
                first.second = probe
                first.info = replace(first.info, dies=(Die(uuid, index, bdf),), remarks=(_BOTH,))
                self._devices.pop(uuid, None)
                first = None
                continue
            self._devices[uuid] = probe
            first = probe if _has_two_dies(probe) else None
        for uuid, gpu in self._devices.items():
            if uuid not in present:
                gpu.handle = None
        if not self._devices:
            raise SourceError(Reason.ABSENT, "amdsmi finds no GPU", _PERMISSION_HINT)

    def _probe(self, gpu: _AmdGpu) -> None:
        """Find out what a GPU reports. Raises SourceError."""
        asic = self._ask(gpu, "amdsmi_get_gpu_asic_info") or {}
        driver = self._ask(gpu, "amdsmi_get_gpu_driver_info") or {}
        caps = self._ask(gpu, "amdsmi_get_power_cap_info") or {}
        power = self._ask(gpu, "amdsmi_get_power_info") or {}
        energy = joules_of(self._ask(gpu, "amdsmi_get_energy_count"))
        name = str(asic.get("market_name") or "AMD GPU")
        gpu.power_key = next(
            (
                key
                for key in ("current_socket_power", "average_socket_power", "socket_power")
                if (number(power.get(key)) or 0.0) > 0.0
            ),
            "",
        )
        method, note = _method(energy, gpu.power_key)
        gpu.info = replace(
            gpu.info,
            name=name,
            architecture=str(asic.get("target_graphics_version") or ""),
            driver_version=str(driver.get("driver_version") or ""),
            energy_method=method,
            method_note=note,
            power_averaged=gpu.power_key == "average_socket_power",
            max_power_watts=max(_cap_watts(caps.get("max_power_cap")) or 0.0, _cap_watts(caps.get("power_cap")) or 0.0)
            or None,
        )

    # ------------------------------------------------------------------------------------------------------------ calls

    def _ask(self, gpu: _AmdGpu, name: str, *arguments: Any) -> Any:
        """The result of an amdsmi call, or None where it is unsupported. Raises SourceError for other failures."""
        call = getattr(self._smi, name, None)
        if call is None:
            return None
        code, answer = self._try(partial(call, gpu.handle, *arguments))
        if code is None:
            return answer
        if code in _UNSUPPORTED:
            return None
        where = gpu.info.uuid or f"GPU {gpu.info.index}"
        if code in _LIBRARY:
            raise MeterLost(Reason.ABSENT, f"{where}: amdsmi is no longer initialised ({code})")
        reason = _REASONS.get(code, Reason.BROKEN)
        hint = _PERMISSION_HINT if reason is Reason.PERMISSION else ""
        raise SourceError(reason, f"{where}: {name} failed ({code})", hint)

    def _try(self, call: Callable[[], Any]) -> tuple[int | None, Any]:
        """(None, result), or (status code, None). The names of the binding's exceptions differ between versions."""
        try:
            return None, call()
        except Exception as error:  # noqa: BLE001
            get_code = getattr(error, "get_error_code", None)
            code = get_code() if callable(get_code) else getattr(error, "err_code", API_FAILED)
            return (code if isinstance(code, int) else API_FAILED), None


def number(value: Any) -> float | None:
    """A number from the binding; None for "N/A" and for all bits set, which mean the same."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return None if value < 0 or value in (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else float(value)


def joules_of(count: Any) -> float | None:
    """Joules from amdsmi_get_energy_count: accumulator (called "power" before ROCm 6.4) times resolution. None for 0, which
    means that there is no counter."""
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
    without = "no energy counter (amdsmi_get_energy_count; virtual machines have none)"
    if power_key == "average_socket_power":
        return EnergyMethod.AVERAGE_POWER, f"{without}: the mean power of the driver is integrated"
    if power_key:
        return EnergyMethod.INSTANT_POWER, f"{without}: instantaneous power is integrated"
    return EnergyMethod.NONE, (
        "amdsmi reports neither energy nor power: of a partitioned package, only the first partition reports"
    )


def _has_two_dies(gpu: _AmdGpu) -> bool:
    return "MI250" in gpu.info.name and gpu.info.energy_method is not EnergyMethod.NONE


def _is_second_die(gpu: _AmdGpu) -> bool:
    return "MI250" in gpu.info.name and gpu.info.energy_method is EnergyMethod.NONE


def _bytes(mebibytes: Iterable[Any]) -> float | None:
    """Their sum in bytes. None where one is unknown."""
    amount = total(map(number, mebibytes))
    return None if amount is None else amount * 2**20


def _cap_watts(value: Any) -> float | None:
    """A limit in watts. Most versions of the binding return microwatts, some watts."""
    cap = number(value)
    if not cap:
        return None
    return cap / 1e6 if cap >= 1e5 else cap


def _has_memory(row: dict[str, Any]) -> bool:
    """Whether the process has memory on the GPU. A process that has only opened the device is listed with none."""
    usage = row.get("memory_usage")
    amounts = [number(row.get("mem"))] + ([number(usage.get("vram_mem"))] if isinstance(usage, dict) else [])
    known = [amount for amount in amounts if amount is not None]
    return not known or any(amount > 0 for amount in known)
