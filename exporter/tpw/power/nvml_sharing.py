"""How the processes on one NVIDIA GPU share it: use by process, MIG instances, and how busy each instance is.

These are the weights by which the GPU's energy is divided; each may be missing. Energy itself is measured per GPU only.

From nvml.h (API 13): nvmlDeviceGetProcessUtilization returns the use since a timestamp, for processes that used something,
NOT_FOUND where none did, and is unsupported in MIG mode. GPM compares two samples at least 100 ms apart, from Hopper on,
per GPU instance, and does not occupy the profiling unit. Handles of instances become invalid when an instance is destroyed,
and its ids are used again.

Not documented, and not tried on hardware: whether GPM's busy multiprocessors of an instance are a share of its own or of
the whole GPU's. Among instances of equal size both give the same weights. Among unequal ones the ratios are used once one
of them was above the instance's part of the GPU, which a share of the whole GPU cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tpw.model import Instance
from tpw.power.nvml_binding import nvml
from tpw.power.nvml_codes import (
    FATAL_CODES,
    INSUFFICIENT_SIZE,
    LIBRARY_CODES,
    NO_PERMISSION,
    NOT_FOUND,
    STALE_HANDLE_CODES,
    SUCCESS,
    UNSUPPORTED_CODES,
)
from tpw.power.nvml_probe import ask, text

GPM_SECONDS = 0.1
"""Two samples must be at least this far apart (nvml.h)."""

USE_SECONDS = 1.5
"""How long a result of :func:`read_process_use` stands in for the next one. The driver samples at intervals of a sixth of a
second to a second (nvml.h, nvmlUtilization_t), so a read may fall between two samples."""

_PROFILE = re.compile(r"MIG\s+((?:(\d+)c\.)?(\d+)g\.\S+)")
_TOTAL_SLICES = ((5, 8), (4, 7), (6, 6), (3, 4), (2, 3), (1, 2), (0, 1))
"""(NVML_GPU_INSTANCE_PROFILE_x_SLICE, x), largest first: the largest that a GPU offers covers all of it."""
_MOST_OF_WHOLE = 1.25
"""An instance has at most this many times its slices' part of the multiprocessors: 3 of 7 slices are 60 of 132."""
_GPM_METRICS = (2, 1)
"""GPM metric ids: SM utilisation, then graphics utilisation as a substitute."""


class Occupancy:
    """What is kept of one GPU between two reads of its sharing."""

    __slots__ = (
        *("_floor_watts", "_readings", "_samples", "_watts", "is_shared", "measures_activity", "newest_us"),
        *("own_share", "pids", "slices", "use", "use_at", "use_is_reported"),
    )

    def __init__(self) -> None:
        self.newest_us = 0
        self.use: dict[int, float] | None = None
        """The last use by process, 0 to 1, and its monotonic instant."""
        self.use_at = float("-inf")
        self.use_is_reported = True
        """False once the driver refused it."""
        self.pids: frozenset[int] = frozenset()
        """Processes on the GPU as last listed."""
        self.is_shared = False
        """Whether several processes are on the GPU: only then its use by process is read at every tick."""
        self.own_share = False
        """Whether an instance's ratio has proved to be a share of its own multiprocessors."""
        self.slices = 0
        """Compute slices of the whole GPU; 0 where unknown."""
        self.measures_activity = False
        """Whether the GPU reports how busy each of its instances is (GPM)."""
        self._floor_watts = 0.0
        self._watts = 0.0
        self._readings = 0
        self._samples: dict[tuple[str, str], tuple[Any, float]] = {}

    @property
    def use_if_shared(self) -> dict[int, float] | None:
        """Use by process as last read; None while one process holds the GPU, and where it is unknown."""
        return self.use if self.is_shared else None

    def add_power(self, watts: float) -> None:
        """Add one reading of the GPU's power."""
        self._watts += watts
        self._readings += 1
        if watts < self._floor_watts or not self._floor_watts:
            self._floor_watts = watts

    def baseline_power_ratio(self) -> float | None:
        """The least power ever read divided by the mean since the last call. None without a reading since."""
        if not self._readings:
            return None
        mean = self._watts / self._readings
        self._watts, self._readings = 0.0, 0
        return min(1.0, self._floor_watts / mean)

    def busy(self, gpu: Any, gpu_instance: int, key: tuple[str, str], now: float) -> float | None:
        """How busy a GPU instance was since the last call, 0 to 1. None the first time, and where GPM reports nothing."""
        try:
            sample = nvml.nvmlGpmSampleAlloc()
        except nvml.NVMLError as error:
            _raise_if_lost(error)
            return None
        before = self._samples.pop(key, None)
        try:
            nvml.nvmlGpmMigSampleGet(gpu, gpu_instance, sample)
            ratio = None if before is None or now - before[1] < GPM_SECONDS else _busy_between(before[0], sample)
        except nvml.NVMLError as error:
            _free(sample)
            _raise_if_lost(error)
            return None
        finally:
            if before is not None:
                _free(before[0])
        self._samples[key] = (sample, now)
        return ratio

    def forget(self, keep: frozenset[tuple[str, str]] = frozenset()) -> None:
        """Free the samples of instances that no longer exist."""
        for key in [key for key in self._samples if key not in keep]:
            _free(self._samples.pop(key)[0])


def _raise_if_lost(error: Any) -> None:
    """Raise a failure of the library; a failure of one value is ignored."""
    if error.value in LIBRARY_CODES or error.value in FATAL_CODES:
        raise error


def _free(sample: Any) -> None:
    with suppress(nvml.NVMLError):
        nvml.nvmlGpmSampleFree(sample)


def _busy_between(before: Any, after: Any) -> float | None:
    wanted = nvml.c_nvmlGpmMetricsGet_t()
    wanted.version = nvml.NVML_GPM_METRICS_GET_VERSION
    wanted.numMetrics = len(_GPM_METRICS)
    wanted.sample1, wanted.sample2 = before, after
    for row, metric in zip(wanted.metrics, _GPM_METRICS, strict=False):
        row.metricId = metric
    nvml.nvmlGpmMetricsGet(wanted)
    for row, _ in zip(wanted.metrics, _GPM_METRICS, strict=False):
        if row.nvmlReturn == SUCCESS and 0.0 <= row.value <= 100.0:
            return float(row.value) / 100.0
    return None


def measures_activity(gpu: Any) -> bool:
    """Whether the GPU reports how busy each of its instances is (GPM)."""
    support = ask(nvml.nvmlGpmQueryDeviceSupport, gpu)
    return bool(support is not None and support.isSupportedDevice)


def total_slices(gpu: Any) -> int:
    """Compute slices of the whole GPU; 0 where unknown."""
    for profile, slices in _TOTAL_SLICES:
        if ask(nvml.nvmlDeviceGetGpuInstanceProfileInfo, gpu, profile) is not None:
            return slices
    return 0


def instances(gpu: Any, occupancy: Occupancy, now: float) -> tuple[tuple[Instance, ...], bool]:
    """The compute instances of a GPU handle, and whether their busy ratios are comparable. Raises NVMLError."""
    if not occupancy.slices:
        occupancy.slices = total_slices(gpu)
        occupancy.measures_activity = measures_activity(gpu)
    total = occupancy.slices
    sizes: set[int] = set()
    found: list[Instance] = []
    busy: dict[int, float | None] = {}
    keys: set[tuple[str, str]] = set()
    for handle in handles(gpu):
        uuid = text(nvml.nvmlDeviceGetUUID(handle))
        name = _PROFILE.search(text(ask(nvml.nvmlDeviceGetName, handle) or ""))
        profile = name[1] if name else ""
        gpu_instance = ask(nvml.nvmlDeviceGetGpuInstanceId, handle)
        if occupancy.measures_activity and gpu_instance is not None and gpu_instance not in busy:
            # Keyed by its first compute instance: the id of a GPU instance is used again.
            busy[gpu_instance] = occupancy.busy(gpu, gpu_instance, (uuid, profile), now)
            keys.add((uuid, profile))
        attributes = ask(nvml.nvmlDeviceGetAttributes, handle)
        slices = attributes.computeInstanceSliceCount if attributes is not None else 0
        size = (attributes.gpuInstanceSliceCount if attributes is not None else 0) or (int(name[3]) if name else 0)
        ratio = None if gpu_instance is None else busy.get(gpu_instance)
        sizes.add(size)
        if ratio is not None and 0 < size < total and ratio > _MOST_OF_WHOLE * size / total:
            occupancy.own_share = True
        found.append(
            Instance(
                uuid,
                profile,
                slices or (int(name[2] or name[3]) if name else 1),
                frozenset(pid for pids in process_lists(handle) for pid in pids),
                ratio,
            )
        )
    occupancy.forget(frozenset(keys))
    return tuple(found), occupancy.own_share or len(sizes) < 2


def handles(gpu: Any) -> Iterator[Any]:
    """Handles of a GPU's MIG instances. Never kept: they are invalid once an instance is destroyed."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except nvml.NVMLError as error:
            if error.value not in STALE_HANDLE_CODES:
                raise


def process_lists(handle: Any) -> Iterator[dict[int, float | None]]:
    """Process ids of one handle, with the memory of each if it is known: one mapping per kind of list that the driver
    has."""
    for name in (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ):
        call = getattr(nvml, name, None)
        rows = None if call is None else ask(call, handle)
        if rows is not None:
            # Old bindings misread the list of some drivers, with pids of 0.
            yield {int(row.pid): _memory(row.usedGpuMemory) for row in rows if row.pid > 0}


def _memory(held: int | None) -> float | None:
    """The binding reads "not available" as None."""
    return None if held is None else float(held)


def read_process_use(gpu: Any, occupancy: Occupancy, now: float) -> None:
    """Keep the multiprocessor use of each process since the last call, 0 to 1; None where it is unknown. Raises NVMLError
    where the library failed.

    nvmlDeviceGetProcessUtilization returns one row per process that used something: the mean of the driver's samples since
    the time stamp that is passed, with the time of the newest of them. With 0 it is the mean of the whole buffer, which
    lags behind by minutes. So the newest stamp of one call is passed to the next, and the means of adjoining intervals
    follow one another without a gap.
    """
    if not occupancy.use_is_reported:
        return
    try:
        rows = _use_rows(gpu, occupancy)
    except nvml.NVMLError as error:
        _raise_if_lost(error)
        return
    if rows is None:
        occupancy.use_is_reported, occupancy.use = False, None
        return
    use: dict[int, float] = {}
    newest = occupancy.newest_us
    for row in rows:
        if row.timeStamp <= occupancy.newest_us or row.pid <= 0 or not 0 < row.smUtil <= 100:
            continue  # an old row, or garbage: some drivers do not fill the whole buffer
        use[row.pid] = max(use.get(row.pid, 0.0), row.smUtil / 100.0)
        newest = max(newest, row.timeStamp)
    if newest > occupancy.newest_us or now - occupancy.use_at >= USE_SECONDS:
        occupancy.newest_us, occupancy.use, occupancy.use_at = newest, use, now
    if use.keys() - occupancy.pids:
        occupancy.is_shared = True  # a process that the last list does not have


def _use_rows(gpu: Any, occupancy: Occupancy) -> Any:
    for name in ("nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo"):
        call = getattr(nvml, name, None)
        rows = None if call is None else _samples(call, gpu, occupancy.newest_us)
        if rows is not None:
            return rows
    return None


def _samples(call: Any, gpu: Any, since_us: int) -> Any:
    """The driver's rows, empty where no process used anything (the binding raises SUCCESS for an empty list). None where
    unsupported."""
    for _ in range(2):
        try:
            return call(gpu, since_us)
        except nvml.NVMLError as error:
            code = error.value
            if code in (SUCCESS, NOT_FOUND):
                return ()
            if code in UNSUPPORTED_CODES or code == NO_PERMISSION:
                return None
            if code != INSUFFICIENT_SIZE:
                raise
            # A process started between the call for the size and the call for the list: retry once.
    return None
