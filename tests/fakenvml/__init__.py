"""A fake of NVIDIA's driver library, controlled by a test while a program uses it.

The real ``pynvml`` loads it in place of ``libnvidia-ml.so.1``: in a subprocess through :meth:`FakeNvml.env`, in this
process through :meth:`FakeNvml.preload`. Tests then change the GPUs, and read the exact energy::

    with FakeNvml(tmp_path, count=2) as nvml:
        process = subprocess.Popen([...], env={**os.environ, **nvml.env()})
        nvml.gpu(0).set_square(low=80, high=600, period=0.05, duty=0.5)
        nvml.lose(1)
        ...
        expected = nvml.true_joules(0, start, end)

A change of load takes effect a few milliseconds after the call, at the instant that the call returns, so that both sides
compute the same energy to the last bit of a double.

With ``start_seconds`` the clock is manual: it stays at :meth:`FakeNvml.now` until the test advances it, so that a minute
takes milliseconds and every run has the same result.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fakenvml.building import library_path

__all__ = ["ERRORS", "FakeGpu", "FakeNvml", "library_path"]

MAGIC = 0x4C4D564E454B4146
MAX_GPUS = 72
MAX_SEGMENTS = 128
MAX_PIDS = 32
MAX_INSTANCES = 8
MAX_SYMBOLS = 64
AHEAD_SECONDS = 0.003

ERRORS = {
    "uninitialized": 1,
    "not_supported": 3,
    "no_permission": 4,
    "driver_not_loaded": 9,
    "irq_issue": 11,
    "library_not_found": 12,
    "corrupted_inforom": 14,
    "gpu_is_lost": 15,
    "reset_required": 16,
    "lib_rm_version_mismatch": 18,
    "gpu_not_found": 28,
    "unknown": 999,
}

_FLAGS = {
    name: 1 << bit
    for bit, name in enumerate(
        (
            "no_energy",
            "no_average",
            "no_instant",
            "no_usage",
            "zero_watts",
            "frozen",
            "no_utilization",
            "no_memory",
            "no_limit",
            "no_temperature",
            "no_processes",
            "no_access",
            "no_fields",
            "mig",
            "module",
            "no_gpu_scope",
            "no_throttle",
            "no_usage_by_process",
            "old_usage_by_process",
            "no_gpm",
        )
    )
}


class _Segment(ctypes.Structure):
    _fields_ = [
        ("start_seconds", ctypes.c_double),
        ("joules_before", ctypes.c_double),
        ("low_watts", ctypes.c_double),
        ("high_watts", ctypes.c_double),
        ("period_seconds", ctypes.c_double),
        ("duty", ctypes.c_double),
        ("phase_seconds", ctypes.c_double),
    ]


class _Instance(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("pid_count", ctypes.c_uint),
        ("pids", ctypes.c_uint * MAX_PIDS),
        ("profile", ctypes.c_char * 32),
        ("gpu_instance", ctypes.c_uint),
        ("slices", ctypes.c_uint),
        ("busy_percent", ctypes.c_double),
    ]


class _Gpu(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("architecture", ctypes.c_uint),
        ("pci_device_id", ctypes.c_uint),
        ("pci_bus", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("error", ctypes.c_int),
        ("flicker", ctypes.c_uint),
        ("utilization_percent", ctypes.c_uint),
        ("temperature_celsius", ctypes.c_int),
        ("limit_mw", ctypes.c_uint),
        ("min_limit_mw", ctypes.c_uint),
        ("max_limit_mw", ctypes.c_uint),
        ("module_limit_mw", ctypes.c_uint),
        ("memory_total", ctypes.c_ulonglong),
        ("memory_used", ctypes.c_ulonglong),
        ("memory_reserved", ctypes.c_ulonglong),
        ("throttle_ns", ctypes.c_ulonglong * 4),
        ("smoothing", ctypes.c_uint),
        ("floor_watts", ctypes.c_uint),
        ("preset", ctypes.c_uint),
        ("stuck_mw", ctypes.c_uint),
        ("persistence", ctypes.c_uint),
        ("frozen_mj", ctypes.c_ulonglong),
        ("hang_until_seconds", ctypes.c_double),
        ("offset_joules", ctypes.c_double),
        ("refresh_seconds", ctypes.c_double),
        ("module_factor", ctypes.c_double),
        ("pid_count", ctypes.c_uint),
        ("pids", ctypes.c_uint * MAX_PIDS),
        ("usage_count", ctypes.c_uint),
        ("usage_pids", ctypes.c_uint * MAX_PIDS),
        ("usage_percent", ctypes.c_uint * MAX_PIDS),
        ("usage_us", ctypes.c_ulonglong),
        ("total_slices", ctypes.c_uint),
        ("instance_count", ctypes.c_uint),
        ("instances", _Instance * MAX_INSTANCES),
        ("segment_count", ctypes.c_uint),
        ("spare", ctypes.c_uint),
        ("segments", _Segment * MAX_SEGMENTS),
    ]


class _Symbol(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 56), ("calls", ctypes.c_ulonglong)]


class _Control(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_ulonglong),
        ("size", ctypes.c_ulonglong),
        ("sequence", ctypes.c_uint),
        ("init_error", ctypes.c_int),
        ("driver_epoch", ctypes.c_uint),
        ("count", ctypes.c_uint),
        ("order", ctypes.c_uint * MAX_GPUS),
        ("delay_us", ctypes.c_uint),
        ("busy_us", ctypes.c_uint),
        ("gpm_samples", ctypes.c_int),
        ("hanging", ctypes.c_uint),
        ("now_seconds", ctypes.c_double),
        ("driver_version", ctypes.c_char * 80),
        ("symbols", _Symbol * MAX_SYMBOLS),
        ("gpus", _Gpu * MAX_GPUS),
    ]


@dataclass(frozen=True, slots=True)
class _Load:
    """Power of a GPU from an instant on: high watts for ``duty`` of every period, low watts for the rest."""

    start: float
    joules_before: float
    low: float
    high: float
    period: float
    duty: float
    phase: float

    def _integral(self, x: float) -> float:
        if self.period <= 0:
            return self.high * x
        whole = math.floor(x / self.period)
        rest = x - whole * self.period
        on = self.duty * self.period
        part = self.high * rest if rest < on else self.high * on + self.low * (rest - on)
        return whole * (self.high * on + self.low * (self.period - on)) + part

    def joules_at(self, at: float) -> float:
        return self.joules_before + self._integral(at - self.start + self.phase) - self._integral(self.phase)


class FakeGpu:
    """One GPU of the fake library. Created by :class:`FakeNvml`."""

    def __init__(self, nvml: FakeNvml, slot: int, watts: float, counter_joules: float) -> None:
        self._nvml = nvml
        self._slot = slot
        now = nvml.now()
        # The first load began earlier, so that the one-second mean is right from the start.
        first = _Load(now - 100.0, 0.0, watts, watts, 0.0, 1.0, 0.0)
        self._loads = [first]
        self._resets: list[float] = []
        with self._written() as record:
            self._publish(record)
            record.offset_joules = counter_joules - first.joules_at(now)

    @property
    def uuid(self) -> str:
        return bytes(self._record.uuid).decode()

    @property
    def _record(self) -> _Gpu:
        return self._nvml._control.gpus[self._slot]

    @contextmanager
    def _written(self) -> Iterator[_Gpu]:
        with self._nvml._writing() as control:
            yield control.gpus[self._slot]

    def _publish(self, record: _Gpu) -> None:
        recent = self._loads[-MAX_SEGMENTS:]
        for row, load in zip(record.segments, recent, strict=False):
            row.start_seconds, row.joules_before = load.start, load.joules_before
            row.low_watts, row.high_watts = load.low, load.high
            row.period_seconds, row.duty, row.phase_seconds = load.period, load.duty, load.phase
        record.segment_count = len(recent)

    def _add(self, low: float, high: float, period: float, duty: float, phase: float) -> float:
        with self._written() as record:
            start = max(self._nvml.now(), self._loads[-1].start) + self._nvml.ahead_seconds
            self._loads.append(_Load(start, self._loads[-1].joules_at(start), low, high, period, duty, phase))
            self._publish(record)
        return start

    def set_constant(self, watts: float) -> float:
        """Draw constant power from the returned monotonic instant on."""
        return self._add(watts, watts, 0.0, 1.0, 0.0)

    def set_square(self, low: float, high: float, period: float, duty: float = 0.5, phase: float = 0.0) -> float:
        """Draw ``high`` for ``duty`` of every ``period`` seconds and ``low`` for the rest, from the returned instant."""
        return self._add(low, high, period, duty, phase)

    def true_joules(self, start: float, end: float) -> float:
        """Exact energy of the GPU (or of its module, where the counter covers that) between two monotonic instants."""
        factor = self._record.module_factor if self._record.flags & _FLAGS["module"] else 1.0
        return (self._joules_at(end) - self._joules_at(start)) * factor

    def _joules_at(self, at: float) -> float:
        for load in reversed(self._loads):
            if load.start <= at:
                return load.joules_at(at)
        return self._loads[0].joules_at(at)

    def counter_joules(self) -> float:
        """The counter now, without its refresh interval."""
        record = self._record
        factor = record.module_factor if record.flags & _FLAGS["module"] else 1.0
        return self._joules_at(self._nvml.now()) * factor + record.offset_joules

    def set(self, **values: object) -> None:
        """Set plain fields of the record: ``limit_mw``, ``temperature_celsius``, ``refresh_seconds`` ..."""
        with self._written() as record:
            for name, value in values.items():
                setattr(record, name, value.encode() if isinstance(value, str) else value)

    def flag(self, name: str, *, on: bool = True) -> None:
        """Set or clear one of the flags (``no_energy``, ``zero_watts``, ...)."""
        with self._written() as record:
            record.flags = record.flags | _FLAGS[name] if on else record.flags & ~_FLAGS[name]


class FakeNvml:
    """The library with some GPUs. A context manager: its exit frees every hung call and the mapping.

    Args:
        directory: for the control file.
        count: GPUs that the driver lists at first.
        spare: further GPUs that ``reorder`` can list later (hot-plug).
        watts: power of each GPU at first.
        counter_joules: first value of the energy counters.
        refresh_seconds: interval of the counter; 0: always exact.
        start_seconds: start of the manual clock; 0: the real clock.
    """

    def __init__(
        self,
        directory: Path,
        count: int = 2,
        *,
        spare: int = 0,
        watts: float = 100.0,
        counter_joules: float = 1_000_000.0,
        refresh_seconds: float = 0.02,
        name: str = "NVIDIA H100 80GB HBM3",
        architecture: int = 9,
        pci_device_id: int = 0x233010DE,
        limit_watts: float = 700.0,
        driver_version: str = "580.95.05",
        start_seconds: float = 0.0,
    ) -> None:
        self.library = library_path()
        self.control_file = directory / "fakenvml.control"
        self._lock = threading.RLock()
        with self.control_file.open("w+b") as file:
            file.truncate(ctypes.sizeof(_Control))
            self._mapping = mmap.mmap(file.fileno(), ctypes.sizeof(_Control))
        self._control = _Control.from_buffer(self._mapping)
        self._control.size = ctypes.sizeof(_Control)
        self._control.driver_version = driver_version.encode()
        self._control.now_seconds = start_seconds
        self.ahead_seconds = 0.0 if start_seconds else AHEAD_SECONDS
        self._control.count = count
        self._gpus: list[FakeGpu] = []
        for slot in range(count + spare):
            record = self._control.gpus[slot]
            record.uuid = f"GPU-{slot:08x}-1111-2222-3333-444455556666".encode()
            record.name = name.encode()
            record.architecture = architecture
            record.pci_device_id = pci_device_id
            record.pci_bus = 0x10 + slot
            record.temperature_celsius = 40 + slot
            record.limit_mw = record.max_limit_mw = int(limit_watts * 1000)
            record.min_limit_mw = 200_000
            record.module_limit_mw = 1_000_000
            record.total_slices = 7
            record.memory_total = 80 << 30
            record.memory_used = (slot + 1) << 30
            record.memory_reserved = 1 << 29
            record.module_factor = 1.0
            record.persistence = 1
            record.refresh_seconds = refresh_seconds
            self._control.order[slot] = slot
            self._gpus.append(FakeGpu(self, slot, watts, counter_joules))
        self._control.magic = MAGIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free every hung call. The file stays for processes that still have it mapped."""
        for i in range(len(self._gpus)):
            self.unhang(i)

    # ------------------------------------------------------------------------------------------------------- the clock

    def now(self) -> float:
        """Monotonic instant of the library."""
        kept: float = self._control.now_seconds
        return kept or time.monotonic()

    def set_now(self, at_seconds: float) -> None:
        """Advance the manual clock."""
        assert self._control.now_seconds, "the clock is the real one"
        self._control.now_seconds = max(at_seconds, self._control.now_seconds)

    def advance(self, seconds: float) -> None:
        self.set_now(self.now() + seconds)

    @property
    def hanging(self) -> int:
        """Calls that hang now."""
        return self._control.hanging

    # ------------------------------------------------------------------------------------------- loading the library

    def env(self) -> dict[str, str]:
        """Environment of a process that loads this library instead of the driver's."""
        others = os.environ.get("LD_LIBRARY_PATH", "")
        path = f"{self.library.parent}:{others}" if others else str(self.library.parent)
        return {"LD_LIBRARY_PATH": path, "FAKENVML_CONTROL": str(self.control_file)}

    path_env = env

    def preload(self) -> None:
        """Load the library into this process: ``pynvml`` then loads its soname and gets this one."""
        os.environ["FAKENVML_CONTROL"] = str(self.control_file)
        ctypes.CDLL(str(self.library), mode=ctypes.RTLD_GLOBAL)

    # ----------------------------------------------------------------------------------------------------- the GPUs

    @contextmanager
    def _writing(self) -> Iterator[_Control]:
        with self._lock:
            self._control.sequence += 1
            try:
                yield self._control
            finally:
                self._control.sequence += 1

    def gpu(self, i: int) -> FakeGpu:
        return self._gpus[i]

    def uuid(self, i: int) -> str:
        return self._gpus[i].uuid

    def true_joules(self, i: int, start: float, end: float) -> float:
        """Exact energy of a GPU between two monotonic instants, over all changes of load."""
        return self._gpus[i].true_joules(start, end)

    def fail(self, i: int, error: str | int) -> None:
        """Every call for the GPU returns this error from now on."""
        self._gpus[i].set(error=ERRORS[error] if isinstance(error, str) else error)

    def lose(self, i: int) -> None:
        """The GPU falls off the bus."""
        self.fail(i, "gpu_is_lost")

    def unknown(self, i: int) -> None:
        self.fail(i, "unknown")

    def restore(self, i: int) -> None:
        """End all faults of the GPU."""
        self._gpus[i].set(error=0, flicker=0, hang_until_seconds=0.0)

    def hang(self, i: int, seconds: float = 3600.0) -> None:
        """Calls for the GPU hang for this time (or until :meth:`unhang`)."""
        self._gpus[i].set(hang_until_seconds=self.now() + seconds)

    def unhang(self, i: int) -> None:
        self._gpus[i].set(hang_until_seconds=0.0)

    def reset_counter(self, i: int) -> None:
        """The energy counter restarts at zero, as after a driver reload."""
        gpu = self._gpus[i]
        with gpu._written() as record:
            record.offset_joules -= gpu.counter_joules()

    def step_back(self, i: int, joules: float) -> None:
        with self._gpus[i]._written() as record:
            record.offset_joules -= joules

    def freeze(self, i: int) -> None:
        """The counter no longer changes although the GPU draws power."""
        gpu = self._gpus[i]
        with gpu._written() as record:
            record.frozen_mj = int(gpu.counter_joules() * 1000)
            record.flags |= _FLAGS["frozen"]

    def thaw(self, i: int) -> None:
        self._gpus[i].flag("frozen", on=False)

    def zero_watts(self, i: int, *, on: bool = True) -> None:
        self._gpus[i].flag("zero_watts", on=on)

    def stick_power(self, i: int, watts: float) -> None:
        """Every power reading is this from now on, whatever the GPU draws; 0: the sensor works again."""
        self._gpus[i].set(stuck_mw=int(watts * 1000))

    def no_energy(self, i: int, *, on: bool = True) -> None:
        self._gpus[i].flag("no_energy", on=on)

    def no_average(self, i: int, *, on: bool = True) -> None:
        self._gpus[i].flag("no_average", on=on)

    def flicker(self, i: int, values: int = 1) -> None:
        """The next energy or power values return NOT_SUPPORTED although they are supported."""
        self._gpus[i].set(flicker=values)

    def module_scope(self, i: int, factor: float = 1.6, *, gpu_scope: bool = True) -> None:
        """A superchip: the counter covers the whole module; ``gpu_scope`` False: power only for the module too."""
        gpu = self._gpus[i]
        with gpu._written() as record:
            at = self.now()
            record.offset_joules += gpu._joules_at(at) * (1.0 - factor)  # the counter continues from its value
            record.module_factor = factor
            record.flags |= _FLAGS["module"] | (0 if gpu_scope else _FLAGS["no_gpu_scope"])

    def utilization(self, i: int, percent: int) -> None:
        self._gpus[i].set(utilization_percent=percent)

    def memory(self, i: int, used_bytes: int) -> None:
        self._gpus[i].set(memory_used=used_bytes)

    def temperature(self, i: int, celsius: int) -> None:
        self._gpus[i].set(temperature_celsius=celsius)

    def limit(self, i: int, watts: float) -> None:
        self._gpus[i].set(limit_mw=int(watts * 1000))

    def throttle(self, i: int, *, power_cap: float = 0.0, sw: float = 0.0, hw: float = 0.0, brake: float = 0.0) -> None:
        """Cumulative seconds of the four reasons."""
        with self._gpus[i]._written() as record:
            record.throttle_ns[:] = [int(seconds * 1e9) for seconds in (power_cap, sw, hw, brake)]

    def smoothing(self, i: int, floor_watts: int | None) -> None:
        """Power smoothing of Blackwell: on with this floor, or offered and switched off."""
        self._gpus[i].set(smoothing=1 if floor_watts is None else 2, floor_watts=floor_watts or 0)

    def processes(self, i: int, pids: Sequence[int]) -> None:
        with self._gpus[i]._written() as record:
            record.pids[: len(pids)] = list(pids)
            record.pid_count = len(pids)

    def usage(self, i: int, percents: Mapping[int, int], *, lasting: bool = False) -> None:
        """Multiprocessor use in percent by process id: one more sample of each process, or new samples at every call."""
        with self._gpus[i]._written() as record:
            record.usage_pids[: len(percents)] = list(percents)
            record.usage_percent[: len(percents)] = list(percents.values())
            record.usage_count = len(percents)
            record.usage_us = 2**64 - 1 if lasting else max(time.time_ns() // 1000, record.usage_us + 1)

    def mig(self, i: int, instances: Sequence[Sequence[int]] = ((),), profiles: Sequence[str] = ()) -> None:
        """MIG mode with these instances, each given as its process ids. No instances: MIG is off.

        Args:
            i: index of the GPU.
            instances: process ids of each.
            profiles: name of each, such as ``1g.10gb`` or ``1c.3g.40gb`` (a compute instance, in the GPU instance of
                the entry before it where that has the same one); ``1g.10gb`` where they are left out.
        """
        with self._gpus[i]._written() as record:
            record.flags = record.flags | _FLAGS["mig"] if instances else record.flags & ~_FLAGS["mig"]
            record.instance_count = len(instances)
            names = [*profiles, *["1g.10gb"] * (len(instances) - len(profiles))]
            gpu_instance = 0
            for j, (pids, profile) in enumerate(zip(instances, names, strict=True)):
                if j and not ("c." in profile and profile == names[j - 1]):
                    gpu_instance += 1
                record.instances[j].uuid = f"MIG-{i:04x}{j:04x}-aaaa-bbbb-cccc-ddddeeeeffff".encode()
                record.instances[j].pid_count = len(pids)
                record.instances[j].pids[: len(pids)] = list(pids)
                record.instances[j].profile = profile.encode()
                record.instances[j].gpu_instance = 3 + gpu_instance
                record.instances[j].slices = int(profile[0])
                record.instances[j].busy_percent = 0.0

    def instance_uuid(self, i: int, j: int) -> str:
        return bytes(self._gpus[i]._record.instances[j].uuid).decode()

    def busy(self, i: int, percents: Sequence[float]) -> None:
        """How busy the multiprocessors of each instance are, percent."""
        with self._gpus[i]._written() as record:
            for j, percent in enumerate(percents):
                record.instances[j].busy_percent = percent

    def samples(self) -> int:
        """GPM samples that are allocated and not freed."""
        return self._control.gpm_samples

    # ----------------------------------------------------------------------------------------------------- the driver

    @property
    def count(self) -> int:
        return self._control.count

    @count.setter
    def count(self, value: int) -> None:
        with self._writing() as control:
            control.count = value

    def reorder(self, order: Sequence[int]) -> None:
        """Which GPUs the driver lists, in the order of their indices."""
        with self._writing() as control:
            control.order[: len(order)] = list(order)
            control.count = len(order)

    @property
    def delay_us(self) -> int:
        """Microseconds every call sleeps."""
        return self._control.delay_us

    @delay_us.setter
    def delay_us(self, value: int) -> None:
        self._control.delay_us = value

    @property
    def busy_us(self) -> int:
        """Microseconds every call burns on the processor."""
        return self._control.busy_us

    @busy_us.setter
    def busy_us(self, value: int) -> None:
        self._control.busy_us = value

    def init_error(self, error: str | int) -> None:
        """Result of initialisation from now on; 0 or "" for success."""
        self._control.init_error = ERRORS[error] if isinstance(error, str) and error else int(error or 0)

    def unload_driver(self) -> None:
        """The driver is removed: calls return UNINITIALIZED, initialisation DRIVER_NOT_LOADED."""
        self.init_error("driver_not_loaded")
        with self._writing() as control:
            control.driver_epoch += 1

    def load_driver(self) -> None:
        """The driver is loaded again: programs must initialise again, and the counters begin at zero."""
        self.init_error(0)
        for i in range(len(self._gpus)):
            self.reset_counter(i)
        with self._writing() as control:
            control.driver_epoch += 1

    def calls(self) -> dict[str, int]:
        """Number of calls of each function, by all processes on this control file."""
        return {row.name.decode(): row.calls for row in self._control.symbols if row.name}
