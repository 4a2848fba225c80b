"""NVIDIA GPUs through the driver's own library (NVML, by the ``pynvml`` binding of nvidia-ml-py).

Energy is the hardware counter where there is one, otherwise power that the ledger integrates; which, and why no better
one, is found by asking each GPU (:mod:`tpw.power.nvml_probe`). A look costs two driver calls per GPU, a batch of field
values and the utilisation; memory, temperature and the limit change slowly and are read at every fifth look.

One GPU that fails is one GPU that fails: it is looked up again by UUID every few seconds and keeps its place in
:meth:`NvmlMeter.gpus`. A library that fails is raised as :class:`tpw.power.MeterLost`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from tpw.model import EnergyMethod, Gpu, GpuSample, PowerScope, Reason, Sharing, SourceError
from tpw.power import Clock, MeterLost
from tpw.power.nvml_binding import nvml
from tpw.power.nvml_board import Board
from tpw.power.nvml_codes import (
    ARCHITECTURES,
    FATAL_CODES,
    GONE_CODES,
    LIBRARY_CODES,
    NO_PERMISSION,
    UNKNOWN,
    UNSUPPORTED_CODES,
    code_name,
    gpu_error,
    library_error,
)
from tpw.power.nvml_probe import Plan, ask, floor_of, gauge, probe, text, value_of
from tpw.power.nvml_sharing import handles, instances, measures_activity, process_lists, total_slices, usage

RETRY_SECONDS = 5.0
"""How often a GPU that does not answer is looked up again."""
REDISCOVERY_SECONDS = 60.0
"""How often new, renumbered or reconfigured GPUs are looked for."""
SLOW_EVERY = 5
"""Memory, temperature and limit are read at every so many-th look."""
FAILURES_BEFORE_RETRY = 3
"""A GPU with so many failed looks in a row is looked up again instead of read."""
FLICKERS_BEFORE_PROBE = 30
"""A value that was not offered at so many looks in a row is gone: the GPU is asked anew what it can tell."""
UNKNOWN_SWEEPS = 30
"""All GPUs answering "unknown error" for so many looks: the library is initialised again."""
UNKNOWN_ROUNDS = 3
"""So many initialisations in a row that mended nothing, after good looks before: the process must go."""
UNKNOWN_OPENS = 5
"""So many initialisations in a row that end in "unknown error" after a good start: the process must go."""

_T = TypeVar("_T")


class NvmlMeter:
    """An :class:`tpw.power.AcceleratorMeter` over NVML.

    Args:
        clock: monotonic seconds.
    """

    name = "nvml"

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._boards: dict[str, Board] = {}
        self._gpus: tuple[Gpu, ...] = ()
        self._driver_version = ""
        self._inits = 0
        self._started = False
        self._unknown_opens = 0
        self._unknown_sweeps = 0
        self._unknown_rounds = 0
        self._has_read = False
        self._discover_at = 0.0
        self.notes: tuple[str, ...] = ()
        """What was noticed at the last discovery, in sentences: GPUs that may not be used."""

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
                lost.fatal = True  # a container that lost its devices gets them back only by a restart
            raise lost from None
        self._unknown_opens = self._unknown_sweeps = 0
        self._inits += 1
        for board in self._boards.values():
            board.handle = None
        try:
            with self._library("driver version"):
                self._driver_version = text(ask(nvml.nvmlSystemGetDriverVersion) or "")
            self._discover()
        except SourceError:
            self.close()
            raise
        self._started = True

    def close(self) -> None:
        """Let go of the driver. While a call hangs in it the library stays initialised: shutting down would hang too."""
        if any(board.reading for board in self._boards.values()):
            return
        for board in self._boards.values():
            board.occupancy.forget()
        while self._inits:
            self._inits -= 1
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                self._inits = 0

    # ---------------------------------------------------------------------------------------------------------- looking

    def sweep(self) -> None:
        """Once a minute, look for new, renumbered and reconfigured GPUs. Raises MeterLost."""
        boards = self._boards.values()
        if boards and all(board.unknown for board in boards):
            self._unknown_sweeps += 1
            if self._unknown_sweeps >= UNKNOWN_SWEEPS:
                self._unknown_sweeps = 0
                self._unknown_rounds += 1
                lost = library_error(UNKNOWN, "of every GPU", started=self._started)
                lost.fatal = self._has_read and self._unknown_rounds >= UNKNOWN_ROUNDS
                raise lost
        else:
            self._unknown_sweeps = 0
        # With a call hanging in the driver, asking for handles could hang as well and take the other GPUs along.
        if self._clock() >= self._discover_at and not any(board.reading for board in boards):
            self._discover()

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs ever found, lost ones too, by index."""
        return self._gpus

    def read(self, uuid: str) -> GpuSample:
        """One look at one GPU. Raises SourceError, or MeterLost where the library is gone."""
        board = self._boards.get(uuid)
        if board is None:
            raise SourceError(Reason.LOST, f"{uuid}: no such GPU was ever found")
        if board.down_until is not None and self._clock() < board.down_until and board.fault is not None:
            fault = board.fault
            raise SourceError(fault.reason, fault.detail, fault.hint)
        board.reading = True
        try:
            if board.down_until is not None or board.plan is None or board.flickers >= FLICKERS_BEFORE_PROBE:
                self._revive(board)
            sample = self._look(board)
        except nvml.NVMLError as error:
            raise self._failed(board, error.value) from None
        finally:
            board.reading = False
        self._has_read = True
        self._unknown_rounds = board.failures = board.unknown = board.flickers = 0
        board.fault = None
        return sample

    def _holders(self, uuid: str) -> frozenset[int] | None:
        """Process ids with a context on this GPU; of all its instances in MIG mode. None where the driver won't say."""
        board = self._boards.get(uuid)
        if board is None or board.handle is None or board.down_until is not None:
            return None
        board.reading = True
        try:
            mig = _mig_enabled(board.handle)  # asked anew: discovery sees a change only within a minute
            boards = list(handles(board.handle)) if mig else [board.handle]
            lists = [pids for handle in boards for pids in process_lists(handle)]
        except nvml.NVMLError as error:
            if error.value == NO_PERMISSION or error.value in UNSUPPORTED_CODES:
                return None
            raise self._failed(board, error.value) from None
        finally:
            board.reading = False
        if not lists and not mig:
            return None
        return frozenset(pid for pids in lists for pid in pids)

    def sharing(self, uuid: str) -> Sharing:
        """Who is on this GPU and uses how much of it; in MIG mode its instances. See :mod:`tpw.power.nvml_sharing`."""
        board = self._boards.get(uuid)
        if board is None or board.handle is None or board.down_until is not None:
            return Sharing()
        if not self._asked(board, lambda: _mig_enabled(board.handle)):  # asked anew, as above
            pids = self._holders(uuid)
            return Sharing(pids, self._asked(board, lambda: usage(board.handle, board.occupancy, self._clock())))
        return self._asked(board, lambda: self._partition(board)) or Sharing()

    def _partition(self, board: Board) -> Sharing:
        occupancy = board.occupancy
        if not board.slices:
            board.slices = total_slices(board.handle)
            board.measures_activity = measures_activity(board.handle)
        found, comparable = instances(
            board.handle, occupancy, self._clock(), measured=board.measures_activity, total=board.slices
        )
        pids = frozenset(pid for instance in found for pid in instance.pids)
        return Sharing(pids, None, found, board.slices, comparable, occupancy.baseline_power_ratio())

    def _asked(self, board: Board, call: Callable[[], _T]) -> _T | None:
        """The answer to a question that a GPU need not answer. Raises SourceError where it is gone."""
        board.reading = True
        try:
            return call()
        except nvml.NVMLError as error:
            if error.value == NO_PERMISSION or error.value in UNSUPPORTED_CODES:
                return None
            raise self._failed(board, error.value) from None
        finally:
            board.reading = False

    def sampled_gpus(self) -> tuple[str, ...]:
        """Boards whose instants are integrated (see :class:`tpw.power.SamplingMeter`)."""
        if not self._inits:
            return ()
        return tuple(uuid for uuid, board in self._boards.items() if _is_instant(board) and board.down_until is None)

    def sample(self, uuid: str) -> None:
        """Note the instant power of one GPU. A failure is told by the next look."""
        board = self._boards[uuid]
        plan = board.plan
        if plan is None or plan.method is not EnergyMethod.INSTANT_POWER:
            return
        board.reading = True
        try:
            if plan.power is not None:
                watts = _optional_watts(nvml.nvmlDeviceGetFieldValues(board.handle, [plan.power])[0])
            else:
                watts = nvml.nvmlDeviceGetPowerUsage(board.handle) / 1000.0
        except nvml.NVMLError:
            return
        finally:
            board.reading = False
        if watts:
            board.burst.add(self._clock(), watts)

    # --------------------------------------------------------------------------------------------------------- one look

    def _look(self, board: Board) -> GpuSample:
        plan = board.plan
        if plan is None:
            raise SourceError(Reason.BROKEN, f"{board.gpu.uuid}: not probed yet")
        handle = board.handle
        energy: float | None = None
        watts: float | None = None
        throttle: tuple[tuple[str, float], ...] | None = None
        if board.fields:
            rows = nvml.nvmlDeviceGetFieldValues(handle, board.fields)
            at = self._clock()
            position = 0
            if plan.energy is not None:
                energy = self._required(board, rows[0], "energy counter") / 1000.0
                position = 1
            if plan.power is not None:
                row = rows[position]
                if plan.method is EnergyMethod.COUNTER:
                    watts = _optional_watts(row)
                else:
                    watts = self._required(board, row, "power") / 1000.0
            if board.scope_check is not None and energy is not None and watts is not None:
                other = _optional_watts(rows[position + 1])
                if other and watts:
                    self._settle_scope(board, board.scope_check.add(at, energy, watts, other))
            if plan.throttle:
                throttle = _throttle(plan, rows, board.throttle_start)
        else:
            at = self._clock()
        if plan.energy_by_call:
            energy = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000.0
            at = self._clock()
        if plan.power_by_call:
            watts = self._watts_by_call(board, plan)
            at = at if plan.energy_by_call else self._clock()
        if board.mig and watts is not None:
            board.occupancy.drew(watts)
        averaged = 1.0 if watts is not None and board.gpu.power_averaged else 0.0
        if watts and _is_instant(board):
            board.burst.add(at, watts)
            watts, averaged = board.burst.take()
        utilization = self._utilization(board) if plan.utilization else None
        if board.looks % SLOW_EVERY == 0:
            self._slow_look(board)
        board.looks += 1
        return GpuSample(
            uuid=board.gpu.uuid,
            at_seconds=at,
            energy_joules=energy,
            power_watts=watts,
            power_mean_seconds=averaged,
            power_limit_watts=board.limit_watts,
            power_floor_watts=board.floor_watts,
            utilization_ratio=utilization,
            memory_used_bytes=board.memory_used_bytes,
            memory_total_bytes=board.memory_total_bytes,
            temperature_celsius=board.temperature_celsius,
            throttle_seconds=throttle,
        )

    def _required(self, board: Board, row: Any, what: str) -> float:
        """A value without which there is no reading. NOT_SUPPORTED after a good probe is a passing fault of the driver,
        never "none used"."""
        code = row.nvmlReturn
        if code == 0:
            return value_of(row)
        if code in UNSUPPORTED_CODES:
            raise _flicker(board, what, code)
        raise nvml.NVMLError(code)

    def _watts_by_call(self, board: Board, plan: Plan) -> float | None:
        try:
            return float(nvml.nvmlDeviceGetPowerUsage(board.handle)) / 1000.0
        except nvml.NVMLError as error:
            if error.value not in UNSUPPORTED_CODES:
                raise
            if plan.method is EnergyMethod.COUNTER:
                return None
            raise _flicker(board, "power", error.value) from None

    def _utilization(self, board: Board) -> float | None:
        rates = gauge(nvml.nvmlDeviceGetUtilizationRates, board.handle)
        return None if rates is None else min(rates.gpu, 100) / 100.0

    def _slow_look(self, board: Board) -> None:
        handle = board.handle
        memory = gauge(_memory, handle)
        board.memory_used_bytes = None if memory is None else float(memory.used)
        board.memory_total_bytes = None if memory is None else float(memory.total)
        temperature = gauge(_temperature, handle)
        board.temperature_celsius = None if temperature is None else float(temperature)
        limit = gauge(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        board.limit_watts = limit / 1000.0 if limit else None
        smoothing = None if board.plan is None else board.plan.smoothing
        if smoothing is not None:
            rows = gauge(nvml.nvmlDeviceGetFieldValues, handle, list(smoothing))
            board.floor_watts = None if rows is None else floor_of(rows, board.gpu.max_power_watts)

    def _settle_scope(self, board: Board, scope: PowerScope | None) -> None:
        if scope is not None and board.plan is not None:
            board.scope_found = scope
            board.follow(board.plan)
            self._publish()

    # ----------------------------------------------------------------------------------------------------------- faults

    def _failed(self, board: Board, code: int) -> SourceError:
        """What to raise for a failed look, and when to try this GPU again."""
        if code in LIBRARY_CODES or code in FATAL_CODES:
            return library_error(code, f"read of {board.gpu.uuid}", started=self._started)
        if code in UNSUPPORTED_CODES and code not in GONE_CODES:
            return _flicker(board, "reading", code)
        fault = gpu_error(board.gpu.uuid, code)
        board.failures += 1
        board.unknown = board.unknown + 1 if code == UNKNOWN else 0
        board.fault = fault
        if code in GONE_CODES or board.failures >= FAILURES_BEFORE_RETRY:
            board.down_until = self._clock() + RETRY_SECONDS
        return fault

    def _revive(self, board: Board) -> None:
        """Look a GPU up by its UUID and probe it again. Raises NVMLError."""
        board.down_until = self._clock() + RETRY_SECONDS
        board.handle = nvml.nvmlDeviceGetHandleByUUID(board.gpu.uuid)
        self._probe(board)
        board.down_until = None

    # -------------------------------------------------------------------------------------------------------- discovery

    def _discover(self) -> None:
        """Walk the indices: new boards are probed, known ones get the handle and index of now."""
        self._discover_at = self._clock() + REDISCOVERY_SECONDS
        with self._library("device count"):
            count = nvml.nvmlDeviceGetCount()
        seen: set[str] = set()
        notes: list[str] = []
        forbidden = 0
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = text(nvml.nvmlDeviceGetUUID(handle))
            except nvml.NVMLError as error:
                if error.value in LIBRARY_CODES or error.value in FATAL_CODES:
                    raise library_error(error.value, "discovery", started=self._started) from None
                forbidden += error.value == NO_PERMISSION
                notes.append(f"GPU {index} of {count} cannot be used: {code_name(error.value)} ({error.value})")
                continue
            seen.add(uuid)
            self._found(uuid, index, handle)
        self.notes = tuple(notes)
        if count and forbidden == count:
            raise gpu_error("all GPUs", NO_PERMISSION, "lookup")
        for uuid, board in self._boards.items():
            if uuid not in seen and board.handle is None and board.down_until is None:
                board.fault = gpu_error(uuid, 28, "lookup")
                board.down_until = self._clock() + RETRY_SECONDS
        self._publish()

    def _found(self, uuid: str, index: int, handle: Any) -> None:
        board = self._boards.get(uuid)
        if board is None:
            board = self._boards[uuid] = Board(Gpu(uuid=uuid, index=index, energy_method=EnergyMethod.NONE))
        fresh = board.handle is None
        board.handle = handle
        if board.gpu.index != index:
            board.gpu = replace(board.gpu, index=index)
        if not fresh and board.down_until is not None:
            return  # its own retries bring it back
        try:
            mig = _mig_enabled(handle)
            if fresh or board.plan is None or mig != board.mig:
                self._probe(board)
                board.down_until = None
            elif board.gpu.energy_method is not EnergyMethod.COUNTER:
                self._upgrade(board)
            self._name_instances(board, mig=mig)
        except nvml.NVMLError as error:
            fault = self._failed(board, error.value)
            if isinstance(fault, MeterLost):
                raise fault from None
            board.fault = fault
            if board.plan is None:
                board.down_until = self._clock() + RETRY_SECONDS

    def _probe(self, board: Board) -> None:
        """Ask a GPU who it is and what it can tell. Raises NVMLError."""
        handle = board.handle
        pci = ask(nvml.nvmlDeviceGetPciInfo, handle)
        architecture = ask(nvml.nvmlDeviceGetArchitecture, handle) or 0
        board.mig = _mig_enabled(handle)
        board.gpu = replace(
            board.gpu,
            name=text(ask(nvml.nvmlDeviceGetName, handle) or ""),
            architecture=ARCHITECTURES.get(architecture, ""),
            driver_version=self._driver_version,
            pci_bus_id="" if pci is None else text(pci.busId),
        )
        board.follow(probe(handle))
        board.looks = board.flickers = 0
        self._publish()

    def _name_instances(self, board: Board, *, mig: bool) -> None:
        """Instances come and go while the board stays in MIG mode."""
        uuids = (ask(nvml.nvmlDeviceGetUUID, instance) for instance in handles(board.handle)) if mig else ()
        named = tuple(text(uuid) for uuid in uuids if uuid)
        if named != board.gpu.mig_uuids:
            board.gpu = replace(board.gpu, mig_uuids=named)

    def _upgrade(self, board: Board) -> None:
        """A probe that was unlucky is not the last word: take a better method once the GPU offers it."""
        plan = probe(board.handle, attempts=1)
        methods = list(EnergyMethod)  # best first
        if methods.index(plan.method) < methods.index(board.gpu.energy_method):
            board.follow(plan)

    def _publish(self) -> None:
        self._gpus = tuple(sorted((board.gpu for board in self._boards.values()), key=lambda g: (g.index, g.uuid)))

    @contextmanager
    def _library(self, doing: str) -> Iterator[None]:
        """Failures of calls that are about no GPU are the library's."""
        try:
            yield
        except nvml.NVMLError as error:
            raise library_error(error.value, doing, started=self._started) from None


def _is_instant(board: Board) -> bool:
    return board.plan is not None and board.plan.method is EnergyMethod.INSTANT_POWER


def _flicker(board: Board, what: str, code: int) -> SourceError:
    board.flickers += 1
    return SourceError(Reason.BROKEN, f"{board.gpu.uuid}: NVML gave no {what} in this look: {code_name(code)} ({code})")


def _optional_watts(row: Any) -> float | None:
    return value_of(row) / 1000.0 if row.nvmlReturn == 0 else None


def _throttle(plan: Plan, rows: Any, start: int) -> tuple[tuple[str, float], ...]:
    return tuple(
        (reason, value_of(row) / 1e9)
        for (_, reason), row in zip(plan.throttle, rows[start:], strict=False)
        if row.nvmlReturn == 0
    )


def _memory(handle: Any) -> Any:
    """Version 2 keeps what the driver reserves apart from what is used; older drivers have version 1 only."""
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
