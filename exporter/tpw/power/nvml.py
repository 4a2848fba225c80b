"""NVIDIA GPUs through the driver's library NVML (the ``pynvml`` binding of nvidia-ml-py).

Energy is the hardware counter where there is one, otherwise power, which the ledger integrates. :mod:`tpw.power.nvml_probe`
finds out which, by asking each GPU. A read makes two driver calls per GPU: one batch of field values and the utilisation.
Memory, temperature and limit change slowly and are read at every fifth read, of each GPU at another tick. Where the calls
of all GPUs take long, a read makes one call beside the field values at the most (:mod:`tpw.power.nvml_gpu`).

A GPU that fails is opened again by UUID every few seconds and stays in :meth:`NvmlMeter.gpus`. A failure of the library as
a whole is raised as :class:`tpw.power.MeterLost`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from tpw.model import EnergyMethod, Gpu, GpuSample, PowerScope, Reason, Sharing, SourceError
from tpw.power import Clock, MeterLost
from tpw.power.nvml_binding import nvml
from tpw.power.nvml_codes import (
    ARCHITECTURES,
    FATAL_CODES,
    LIBRARY_CODES,
    NO_PERMISSION,
    STALE_HANDLE_CODES,
    UNKNOWN,
    UNSUPPORTED_CODES,
    code_name,
    field_ids,
    gpu_error,
    library_error,
)
from tpw.power.nvml_gpu import SAMPLES_SECONDS, Beside, NvmlGpu, due_beside
from tpw.power.nvml_probe import Plan, ask, bounds, floor_of, gauge, offered_method, probe, text, value_of
from tpw.power.nvml_sharing import handles, instances, process_lists, read_process_use

# Tuning: chosen here, and tried on the faults of tests/scenarios. No driver states any of these times.
RETRY_SECONDS = 5.0
"""Between two attempts to open a GPU that does not answer."""
REDISCOVERY_SECONDS = 60.0
"""Between two searches for new, renumbered or reconfigured GPUs: a search costs three driver calls per GPU."""
DISCOVERY_SWEEP_SECONDS = 0.05
"""The part of a search that one sweep makes, at the most: on a slow driver a search is spread over many sweeps, so that the
reads of all GPUs do not wait for it."""
FAILURES_BEFORE_RETRY = 3
"""A GPU is opened again after this many failed reads in a row."""
MISSING_BEFORE_PROBE = 30
"""After this many reads in a row without a value that was offered before, the GPU is probed again."""
REFUSALS_BEFORE_BOUNDS = 10
"""After this many readings in a row above the highest power of a GPU the driver is asked for it again."""
UNKNOWN_SWEEPS = 30
"""The library is initialised again after this many sweeps with "unknown error" from all GPUs."""
UNKNOWN_ROUNDS = 3
"""After this many initialisations without effect, and successful reads before, only a new process helps."""
UNKNOWN_OPENS = 5
"""After this many initialisations in a row that end in "unknown error", and one that worked, only a new process helps."""

_T = TypeVar("_T")

_END = object()


class NvmlMeter:
    """An :class:`tpw.power.AcceleratorMeter` over NVML.

    Args:
        clock: monotonic seconds.
    """

    name = "nvml"
    reads_in_parallel = True

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._devices: dict[str, NvmlGpu] = {}
        self._listed: tuple[Gpu, ...] = ()
        self._driver_version = ""
        self._inits = 0
        self._started = False
        self._unknown_opens = 0
        self._unknown_sweeps = 0
        self._unknown_rounds = 0
        self._has_read = False
        self._discover_at = 0.0
        self._round_seconds = 0.0
        """How long one call for each GPU takes in all, by the last read."""
        self._search: Iterator[None] | None = None
        """The search for GPUs that is under way."""
        self.notes: tuple[str, ...] = ()
        """GPUs that cannot be used, as of the last discovery."""

    # ------------------------------------------------------------------------------------------------- opening, closing

    def open(self) -> None:
        """Initialise the library and find the GPUs. Raises MeterLost (fatal where only a new process helps)."""
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            code = error.value
            self._unknown_opens = self._unknown_opens + 1 if code == UNKNOWN else 0
            lost = library_error(code, "initialisation", started=self._started)
            if self._started and self._unknown_opens >= UNKNOWN_OPENS:
                lost.fatal = True  # a container that lost its device rules recovers only by a restart
            raise lost from None
        self._unknown_opens = self._unknown_sweeps = 0
        self._inits += 1
        for gpu in self._devices.values():
            gpu.handle = None
        try:
            with self._library("driver version"):
                self._driver_version = text(ask(nvml.nvmlSystemGetDriverVersion) or "")
            self._search = self._discovery()
            for _ in self._search:
                pass
            self._search = None
        except SourceError:
            self.close()
            raise
        self._started = True

    def close(self) -> None:
        """Shut NVML down. While a call hangs in the driver it stays initialised, since nvmlShutdown would hang too."""
        if any(gpu.reading for gpu in self._devices.values()):
            return
        for gpu in self._devices.values():
            gpu.occupancy.forget()
        while self._inits:
            self._inits -= 1
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                self._inits = 0

    # ---------------------------------------------------------------------------------------------------------- reading

    def sweep(self) -> None:
        """Once a minute, find new, renumbered and reconfigured GPUs. Raises MeterLost."""
        gpus = self._devices.values()
        if gpus and all(gpu.failures.unknown for gpu in gpus):
            self._unknown_sweeps += 1
            if self._unknown_sweeps >= UNKNOWN_SWEEPS:
                self._unknown_sweeps = 0
                self._unknown_rounds += 1
                lost = library_error(UNKNOWN, "of every GPU", started=self._started)
                lost.fatal = self._has_read and self._unknown_rounds >= UNKNOWN_ROUNDS
                raise lost
        else:
            self._unknown_sweeps = 0
        # While a call hangs in the driver, the calls of a discovery could hang as well, and with them every GPU.
        if any(gpu.reading for gpu in gpus):
            return
        now = self._clock()
        if self._search is None and now >= self._discover_at:
            self._search = self._discovery()
        if self._search is not None:
            until = now + DISCOVERY_SWEEP_SECONDS
            try:
                while next(self._search, _END) is not _END:
                    if self._clock() >= until:
                        return
            except SourceError:
                self._search = None
                raise
            self._search = None

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs found since the first open, lost ones too, by index."""
        return self._listed

    def read(self, uuid: str) -> GpuSample:
        """Read one GPU. Raises SourceError, or MeterLost where the library failed."""
        gpu = self._devices.get(uuid)
        if gpu is None:
            raise SourceError(Reason.LOST, f"{uuid}: this GPU was never found")
        if (
            gpu.failures.down_until is not None
            and self._clock() < gpu.failures.down_until
            and gpu.failures.last is not None
        ):
            fault = gpu.failures.last
            raise SourceError(fault.reason, fault.detail, fault.hint)
        gpu.reading = True
        try:
            if gpu.failures.down_until is not None or gpu.plan is None or gpu.failures.missing >= MISSING_BEFORE_PROBE:
                self._reopen(gpu)
            sample = self._sample(gpu)
        except nvml.NVMLError as error:
            raise self._failed(gpu, error.value) from None
        finally:
            gpu.reading = False
        self._has_read = True
        self._unknown_rounds = 0
        gpu.failures.reset()
        return sample

    def sharing(self, uuid: str) -> Sharing:
        """Processes on this GPU and their use; in MIG mode its instances. See :mod:`tpw.power.nvml_sharing`."""
        gpu = self._devices.get(uuid)
        if gpu is None or gpu.handle is None or gpu.failures.down_until is not None:
            return Sharing()
        # MIG mode is read each time: discovery notices a change only within a minute.
        if self._optional(gpu, lambda: _mig_enabled(gpu.handle)):
            return self._optional(gpu, lambda: self._partition(gpu)) or Sharing()
        lists = self._optional(gpu, lambda: list(process_lists(gpu.handle)))
        held = {pid: memory for found in lists or () for pid, memory in found.items()}
        gpu.occupancy.pids = frozenset(held)
        gpu.occupancy.is_shared = len(held) > 1
        memory = {pid: bytes_ for pid, bytes_ in held.items() if bytes_ is not None}
        return Sharing(frozenset(held) if lists else None, memory if held and len(memory) == len(held) else None)

    def _partition(self, gpu: NvmlGpu) -> Sharing:
        occupancy = gpu.occupancy
        found, comparable = instances(gpu.handle, occupancy, self._clock())
        pids = frozenset(pid for instance in found for pid in instance.pids)
        return Sharing(pids, None, found, occupancy.slices, comparable, occupancy.baseline_power_ratio())

    def _optional(self, gpu: NvmlGpu, call: Callable[[], _T]) -> _T | None:
        """The result of a call that a GPU need not support, or None. Raises SourceError for other failures."""
        gpu.reading = True
        try:
            return call()
        except nvml.NVMLError as error:
            if error.value == NO_PERMISSION or error.value in UNSUPPORTED_CODES:
                return None
            raise self._failed(gpu, error.value) from None
        finally:
            gpu.reading = False

    def sampling(self) -> Mapping[str, float | None]:
        """GPUs without a counter (see :class:`tpw.power.SamplingMeter`): instants are sampled at random times, a mean once
        per second that it covers."""
        if not self._inits or self._round_seconds >= SAMPLES_SECONDS:
            return {}
        return {
            uuid: gpu.mean_seconds or None
            for uuid, gpu in self._devices.items()
            if gpu.failures.down_until is None and gpu.plan is not None and gpu.plan.method in _INTEGRATED
        }

    def sample(self, uuid: str) -> None:
        """Record the power of one GPU. A failure shows at the next read."""
        gpu = self._devices[uuid]
        plan = gpu.plan
        if plan is None or plan.method not in _INTEGRATED:
            return
        gpu.reading = True
        try:
            if plan.power is not None:
                watts = _optional_watts(nvml.nvmlDeviceGetFieldValues(gpu.handle, [plan.power])[0])
            else:
                watts = nvml.nvmlDeviceGetPowerUsage(gpu.handle) / 1000.0
        except nvml.NVMLError:
            return
        finally:
            gpu.reading = False
        if watts:
            gpu.burst.add(self._clock(), watts, gpu.mean_seconds)

    # -------------------------------------------------------------------------------------------------------- one sample

    def _sample(self, gpu: NvmlGpu) -> GpuSample:
        plan = gpu.plan
        if plan is None:
            raise SourceError(Reason.BROKEN, f"{gpu.info.uuid}: not probed yet")
        handle = gpu.handle
        energy: float | None = None
        watts: float | None = None
        throttle: tuple[tuple[str, float], ...] | None = None
        began = self._clock()
        if gpu.fields:
            rows = nvml.nvmlDeviceGetFieldValues(handle, gpu.fields)
            at = self._clock()
            position = 0
            if plan.energy is not None:
                energy = self._required(gpu, rows[0], "energy counter") / 1000.0
                position = 1
            if plan.power is not None:
                row = rows[position]
                if plan.method is EnergyMethod.COUNTER:
                    watts = _optional_watts(row)
                else:
                    watts = self._required(gpu, row, "power") / 1000.0
            if gpu.scope_check is not None and energy is not None and watts is not None:
                other = _optional_watts(rows[position + 1])
                if other and watts:
                    self._set_scope(gpu, gpu.scope_check.add(at, energy, watts, other))
            if plan.throttle:
                throttle = _throttle(plan, rows, gpu.throttle_start)
        else:
            at = self._clock()
        if plan.energy_by_call:
            energy = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0
            at = self._clock()
        if plan.power_by_call:
            watts = self._watts_by_call(gpu, plan)
            at = at if plan.energy_by_call else self._clock()
        if gpu.mig and watts is not None:
            gpu.occupancy.add_power(watts)
        averaged = gpu.mean_seconds if watts is not None else 0.0
        if watts and plan.method in _INTEGRATED:
            gpu.burst.add(at, watts, averaged)
            watts, averaged = gpu.burst.end(averaged)
        gpu.count_refusal(at, energy, watts)
        if gpu.failures.above_bound >= REFUSALS_BEFORE_BOUNDS:
            self._ask_bounds(gpu)
        self._read_beside(gpu, at - began)
        gpu.reads += 1
        return GpuSample(
            uuid=gpu.info.uuid,
            at_seconds=at,
            energy_joules=energy,
            power_watts=watts,
            power_mean_seconds=averaged,
            power_limit_watts=gpu.slow.limit_watts,
            power_floor_watts=gpu.slow.floor_watts,
            utilization_ratio=gpu.slow.utilization_ratio,
            memory_used_bytes=gpu.slow.memory_used_bytes,
            memory_total_bytes=gpu.slow.memory_total_bytes,
            temperature_celsius=gpu.slow.temperature_celsius,
            throttle_seconds=throttle,
            process_use=gpu.occupancy.use_if_shared,
        )

    def _required(self, gpu: NvmlGpu, row: Any, what: str) -> float:
        """A value without which there is no sample. NOT_SUPPORTED after a successful probe is a transient fault of the
        driver, not a zero."""
        code = row.nvmlReturn
        if code == 0:
            return value_of(row)
        if code in UNSUPPORTED_CODES:
            raise _missing(gpu, what, code)
        raise nvml.NVMLError(code)

    def _watts_by_call(self, gpu: NvmlGpu, plan: Plan) -> float | None:
        try:
            return float(nvml.nvmlDeviceGetPowerUsage(gpu.handle)) / 1000.0
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED_CODES:
                raise
            if plan.method is EnergyMethod.COUNTER:
                return None
            raise _missing(gpu, "power", error.value) from None

    def _read_beside(self, gpu: NvmlGpu, call_seconds: float) -> None:
        """Read what is due beside energy and power, by how long the calls take for all GPUs."""
        index = gpu.info.index
        self._round_seconds = call_seconds * len(self._devices)
        has_counter = gpu.plan is None or gpu.plan.method not in _INTEGRATED
        for value in due_beside(gpu.reads, index, self._round_seconds, has_counter=has_counter):
            self._read_slow(gpu, value)

    def _read_slow(self, gpu: NvmlGpu, value: Beside) -> None:
        handle, slow, plan = gpu.handle, gpu.slow, gpu.plan
        match value:
            case Beside.UTILIZATION:
                rates = gauge(nvml.nvmlDeviceGetUtilizationRates, handle) if plan and plan.utilization else None
                slow.utilization_ratio = None if rates is None else min(rates.gpu, 100) / 100.0
                if gpu.occupancy.is_shared and not gpu.mig:
                    read_process_use(handle, gpu.occupancy, self._clock())
            case Beside.MEMORY:
                memory = gauge(_memory, handle)
                slow.memory_used_bytes = None if memory is None else float(memory.used)
                slow.memory_total_bytes = None if memory is None else float(memory.total)
            case Beside.PROCESSES:
                if not gpu.occupancy.is_shared and not gpu.mig:  # has another process joined it?
                    read_process_use(handle, gpu.occupancy, self._clock())
            case Beside.TEMPERATURE:
                temperature = gauge(_temperature, handle)
                slow.temperature_celsius = None if temperature is None else float(temperature)
            case Beside.LIMIT:
                limit = gauge(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
                watts = limit / 1000.0 if limit else None
                if slow.limit_watts not in (None, watts) or (watts or 0.0) > (gpu.info.max_power_watts or inf):
                    self._ask_bounds(gpu)
                slow.limit_watts = watts
                if plan is not None and plan.smoothing is not None:
                    rows = gauge(nvml.nvmlDeviceGetFieldValues, handle, list(plan.smoothing))
                    slow.floor_watts = None if rows is None else floor_of(rows, gpu.info.max_power_watts)

    def _ask_bounds(self, gpu: NvmlGpu) -> None:
        """Ask again for the highest power of a GPU: its limits may have been raised."""
        gpu.failures.above_bound = 0
        found = gauge(bounds, gpu.handle)
        if found is not None and gpu.plan is not None:
            gpu.follow(replace(gpu.plan, max_power_watts=found[0], max_module_watts=found[1]))
            self._publish()

    def _set_scope(self, gpu: NvmlGpu, scope: PowerScope | None) -> None:
        if scope is not None and gpu.plan is not None:
            gpu.scope_found = scope
            gpu.follow(gpu.plan)
            self._publish()

    # ----------------------------------------------------------------------------------------------------------- faults

    def _failed(self, gpu: NvmlGpu, code: int) -> SourceError:
        """Record a failed read, and return the error to raise."""
        if code in LIBRARY_CODES or code in FATAL_CODES:
            return library_error(code, f"read of {gpu.info.uuid}", started=self._started)
        if code in UNSUPPORTED_CODES and code not in STALE_HANDLE_CODES:
            return _missing(gpu, "reading", code)
        fault = gpu_error(gpu.info.uuid, code)
        gpu.failures.reads += 1
        gpu.failures.unknown = gpu.failures.unknown + 1 if code == UNKNOWN else 0
        gpu.failures.last = fault
        if code in STALE_HANDLE_CODES or gpu.failures.reads >= FAILURES_BEFORE_RETRY:
            gpu.failures.down_until = self._clock() + RETRY_SECONDS
        return fault

    def _reopen(self, gpu: NvmlGpu) -> None:
        """Open a GPU by its UUID and probe it again. Raises NVMLError."""
        gpu.failures.down_until = self._clock() + RETRY_SECONDS
        gpu.handle = nvml.nvmlDeviceGetHandleByUUID(gpu.info.uuid)
        self._probe(gpu)
        gpu.failures.down_until = None

    # -------------------------------------------------------------------------------------------------------- discovery

    def _discovery(self) -> Iterator[None]:
        """Enumerate the GPUs, in steps: new ones are probed, known ones get their current handle and index. Raises
        MeterLost."""
        self._discover_at = self._clock() + REDISCOVERY_SECONDS
        with self._library("device count"):
            count = nvml.nvmlDeviceGetCount()
        present: set[str] = set()
        notes: list[str] = []
        denied = 0
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = text(nvml.nvmlDeviceGetUUID(handle))
            except nvml.NVMLError as error:
                if error.value in LIBRARY_CODES or error.value in FATAL_CODES:
                    raise library_error(error.value, "discovery", started=self._started) from None
                denied += error.value == NO_PERMISSION
                notes.append(f"GPU {index} of {count} cannot be used: {code_name(error.value)} ({error.value})")
                continue
            present.add(uuid)
            yield
            self._register(uuid, index, handle)
            yield
        self.notes = tuple(notes)
        if count and denied == count:
            raise gpu_error("all GPUs", NO_PERMISSION, "lookup")
        for uuid, gpu in self._devices.items():
            if uuid not in present and gpu.handle is None and gpu.failures.down_until is None:
                gpu.failures.last = gpu_error(uuid, 28, "lookup")
                gpu.failures.down_until = self._clock() + RETRY_SECONDS
        self._publish()

    def _register(self, uuid: str, index: int, handle: Any) -> None:
        gpu = self._devices.get(uuid)
        if gpu is None:
            gpu = self._devices[uuid] = NvmlGpu(Gpu(uuid=uuid, index=index, energy_method=EnergyMethod.NONE))
        fresh = gpu.handle is None
        gpu.handle = handle
        if gpu.info.index != index:
            gpu.info = replace(gpu.info, index=index)
        if not fresh and gpu.failures.down_until is not None:
            return  # read() opens it again
        try:
            mig = _mig_enabled(handle)
            if fresh or gpu.plan is None or mig != gpu.mig:
                self._probe(gpu)
                gpu.failures.down_until = None
            elif gpu.info.energy_method is not EnergyMethod.COUNTER:
                self._upgrade(gpu)
            self._list_instances(gpu, mig=mig)
        except nvml.NVMLError as error:
            fault = self._failed(gpu, error.value)
            if isinstance(fault, MeterLost):
                raise fault from None
            gpu.failures.last = fault
            if gpu.plan is None:
                gpu.failures.down_until = self._clock() + RETRY_SECONDS

    def _probe(self, gpu: NvmlGpu) -> None:
        """Read what a GPU is and what it can report. Raises NVMLError."""
        handle = gpu.handle
        pci = ask(nvml.nvmlDeviceGetPciInfo, handle)
        architecture = ask(nvml.nvmlDeviceGetArchitecture, handle) or 0
        gpu.mig = _mig_enabled(handle)
        gpu.info = replace(
            gpu.info,
            name=text(ask(nvml.nvmlDeviceGetName, handle) or ""),
            architecture=ARCHITECTURES.get(architecture, ""),
            driver_version=self._driver_version,
            pci_bus_id="" if pci is None else text(pci.busId),
        )
        gpu.persistent = gauge(nvml.nvmlDeviceGetPersistenceMode, handle) != 0
        gpu.follow(probe(handle, field_ids(self._driver_version)))
        gpu.reads = gpu.failures.missing = 0
        gpu.occupancy.use_is_reported = True
        self._publish()

    def _list_instances(self, gpu: NvmlGpu, *, mig: bool) -> None:
        """Instances are created and destroyed while the GPU stays in MIG mode."""
        uuids = (ask(nvml.nvmlDeviceGetUUID, instance) for instance in handles(gpu.handle)) if mig else ()
        named = tuple(text(uuid) for uuid in uuids if uuid)
        if named != gpu.info.mig_uuids:
            gpu.info = replace(gpu.info, mig_uuids=named)

    def _upgrade(self, gpu: NvmlGpu) -> None:
        """Use a better method once the GPU offers it: a probe can miss a value that the driver reports later."""
        methods = list(EnergyMethod)  # best first
        if methods.index(offered_method(gpu.handle)) < methods.index(gpu.info.energy_method):
            gpu.follow(probe(gpu.handle, field_ids(self._driver_version), attempts=1))

    def _publish(self) -> None:
        self._listed = tuple(sorted((gpu.info for gpu in self._devices.values()), key=lambda g: (g.index, g.uuid)))

    @contextmanager
    def _library(self, doing: str) -> Iterator[None]:
        """Turns a failure of a call that concerns no GPU into MeterLost."""
        try:
            yield
        except nvml.NVMLError as error:
            raise library_error(error.value, doing, started=self._started) from None


_INTEGRATED = frozenset({EnergyMethod.AVERAGE_POWER, EnergyMethod.INSTANT_POWER})
"""Methods that integrate power."""


def _missing(gpu: NvmlGpu, what: str, code: int) -> SourceError:
    gpu.failures.missing += 1
    return SourceError(Reason.BROKEN, f"{gpu.info.uuid}: NVML returned no {what}: {code_name(code)} ({code})")


def _optional_watts(row: Any) -> float | None:
    return value_of(row) / 1000.0 if row.nvmlReturn == 0 else None


def _throttle(plan: Plan, rows: Any, start: int) -> tuple[tuple[str, float], ...]:
    return tuple(
        (reason, value_of(row) / 1e9)
        for (_, reason), row in zip(plan.throttle, rows[start:], strict=False)
        if row.nvmlReturn == 0
    )


def _memory(handle: Any) -> Any:
    """Version 2 separates memory reserved by the driver from used memory; older drivers have version 1 only."""
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    except nvml.NVMLError as error:
        if error.value not in UNSUPPORTED_CODES:
            raise
        return nvml.nvmlDeviceGetMemoryInfo(handle)


def _temperature(handle: Any) -> int:
    call = getattr(nvml, "nvmlDeviceGetTemperatureV", None)
    if call is not None:
        try:
            return int(call(handle, nvml.NVML_TEMPERATURE_GPU))
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED_CODES:
                raise
    return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _mig_enabled(handle: Any) -> bool:
    mode = ask(nvml.nvmlDeviceGetMigMode, handle)
    return bool(mode and mode[0])
