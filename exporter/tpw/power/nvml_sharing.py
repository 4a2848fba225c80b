"""How those who hold one NVIDIA GPU share it: use by process, instances (MIG) and how busy each is.

Asked on the slow tier, with the process lists. Nothing here gives energy: there is one meter, on the board. These are the
weights by which its joules are divided, and each may be missing.

Facts, from nvml.h (API 13): nvmlDeviceGetProcessUtilization answers the use since a timestamp, for processes that used
something, NOT_FOUND where none did, and is not there in MIG mode. GPM compares two samples at least 100 ms apart, from
Hopper on, per GPU instance, and does not take the profiling unit from anybody. Handles of instances are invalid once an
instance is destroyed, and its ids are used again.

Not stated there, and not tried on hardware: whether GPM's busy multiprocessors of an instance are a share of its own or of
the whole GPU's. It is not guessed. Among instances of one size both come to the same weights; among unlike ones the ratios
are used once one of them was above its instance's part of the GPU, which a share of the whole cannot be.
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
    GONE_CODES,
    INSUFFICIENT_SIZE,
    LIBRARY_CODES,
    NO_PERMISSION,
    NOT_FOUND,
    SUCCESS,
    UNSUPPORTED_CODES,
)
from tpw.power.nvml_probe import ask, text

GPM_SECONDS = 0.1
"""Two samples that are nearer to each other tell nothing."""

USAGE_SECONDS = 5.0
"""How long an answer about the use by process holds."""

_PROFILE = re.compile(r"MIG\s+((?:(\d+)c\.)?(\d+)g\.\S+)")
_TOTAL_SLICES = ((5, 8), (4, 7), (6, 6), (3, 4), (2, 3), (1, 2), (0, 1))
"""NVML_GPU_INSTANCE_PROFILE_x_SLICE and x, the largest first: the largest that a GPU offers is the whole of it."""
_MOST_OF_WHOLE = 1.25
"""An instance has at most so many times its slices' part of the multiprocessors: 3 of 7 slices are 60 of 132."""
_GPM_METRICS = (2, 1)
"""Multiprocessors that were busy; time in which anything was."""


class Occupancy:
    """What is remembered of one GPU between two looks at how it is shared."""

    __slots__ = ("_floor_watts", "_looks", "_samples", "_watts", "of_own", "percents", "percents_at", "seen_us")

    def __init__(self) -> None:
        self.seen_us = 0
        self.percents: dict[int, float] | None = None
        """What :func:`usage` answered last, and when (monotonic seconds)."""
        self.percents_at = float("-inf")
        self.of_own = False
        """Whether it was seen that an instance's ratio is a share of its own multiprocessors."""
        self._floor_watts = 0.0
        self._watts = 0.0
        self._looks = 0
        self._samples: dict[tuple[str, str], tuple[Any, float]] = {}

    def drew(self, watts: float) -> None:
        """One look at the power of the board."""
        self._watts += watts
        self._looks += 1
        if watts < self._floor_watts or not self._floor_watts:
            self._floor_watts = watts

    def baseline_power_ratio(self) -> float | None:
        """The least power seen over the mean since this was asked last. None without a look at power."""
        if not self._looks:
            return None
        mean = self._watts / self._looks
        self._watts, self._looks = 0.0, 0
        return min(1.0, self._floor_watts / mean)

    def busy(self, board: Any, gpu_instance: int, key: tuple[str, str], now: float) -> float | None:
        """How busy a GPU instance was since the last call, 0 to 1. None the first time, and where GPM will not say."""
        try:
            sample = nvml.nvmlGpmSampleAlloc()
        except nvml.NVMLError as error:
            _raise_if_gone(error)
            return None
        before = self._samples.pop(key, None)
        try:
            nvml.nvmlGpmMigSampleGet(board, gpu_instance, sample)
            ratio = None if before is None or now - before[1] < GPM_SECONDS else _compared(before[0], sample)
        except nvml.NVMLError as error:
            _free(sample)
            _raise_if_gone(error)
            return None
        finally:
            if before is not None:
                _free(before[0])
        self._samples[key] = (sample, now)
        return ratio

    def forget(self, keep: frozenset[tuple[str, str]] = frozenset()) -> None:
        """Free the samples of instances that are gone."""
        for key in [key for key in self._samples if key not in keep]:
            _free(self._samples.pop(key)[0])


def _raise_if_gone(error: Any) -> None:
    """How busy an instance is may be left unsaid; that the library is gone may not."""
    if error.value in LIBRARY_CODES or error.value in FATAL_CODES:
        raise error


def _free(sample: Any) -> None:
    with suppress(nvml.NVMLError):
        nvml.nvmlGpmSampleFree(sample)


def _compared(before: Any, after: Any) -> float | None:
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


def measures_activity(board: Any) -> bool:
    """Whether the GPU can tell how busy each of its instances is."""
    support = ask(nvml.nvmlGpmQueryDeviceSupport, board)
    return bool(support is not None and support.isSupportedDevice)


def total_slices(board: Any) -> int:
    """Compute slices of the whole GPU; 0 where it does not tell."""
    for profile, slices in _TOTAL_SLICES:
        if ask(nvml.nvmlDeviceGetGpuInstanceProfileInfo, board, profile) is not None:
            return slices
    return 0


def instances(
    board: Any, occupancy: Occupancy, now: float, *, measured: bool, total: int
) -> tuple[tuple[Instance, ...], bool]:
    """The instances of a GPU, compute instances one by one, and whether how busy they are can be compared. Raises
    NVMLError.

    Args:
        board: its handle.
        occupancy: what is remembered of it.
        now: monotonic seconds.
        measured: whether it can tell how busy they are.
        total: compute slices of the whole GPU; 0 where it does not tell.
    """
    sizes: set[int] = set()
    found: list[Instance] = []
    busy: dict[int, float | None] = {}
    keys: set[tuple[str, str]] = set()
    for handle in handles(board):
        uuid = text(nvml.nvmlDeviceGetUUID(handle))
        name = _PROFILE.search(text(ask(nvml.nvmlDeviceGetName, handle) or ""))
        profile = name[1] if name else ""
        gpu_instance = ask(nvml.nvmlDeviceGetGpuInstanceId, handle)
        if measured and gpu_instance is not None and gpu_instance not in busy:
            # Its first compute instance stands for a GPU instance: its number may be another's by now.
            busy[gpu_instance] = occupancy.busy(board, gpu_instance, (uuid, profile), now)
            keys.add((uuid, profile))
        attributes = ask(nvml.nvmlDeviceGetAttributes, handle)
        slices = attributes.computeInstanceSliceCount if attributes is not None else 0
        size = (attributes.gpuInstanceSliceCount if attributes is not None else 0) or (int(name[3]) if name else 0)
        ratio = None if gpu_instance is None else busy.get(gpu_instance)
        sizes.add(size)
        if ratio is not None and 0 < size < total and ratio > _MOST_OF_WHOLE * size / total:
            occupancy.of_own = True
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
    return tuple(found), occupancy.of_own or len(sizes) < 2


def handles(board: Any) -> Iterator[Any]:
    """Handles of a GPU's MIG instances. Always asked for anew: they are invalid once an instance is destroyed."""
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(board)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, index)
        except nvml.NVMLError as error:
            if error.value not in GONE_CODES:
                raise


def process_lists(handle: Any) -> Iterator[frozenset[int]]:
    """Process ids of one handle, one set per kind of list that the driver has."""
    for name in (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ):
        call = getattr(nvml, name, None)
        rows = None if call is None else ask(call, handle)
        if rows is not None:
            # Old bindings misread the list of some drivers; a pid of zero is no process.
            yield frozenset(int(row.pid) for row in rows if row.pid > 0)


def usage(board: Any, occupancy: Occupancy, now: float) -> dict[int, float] | None:
    """What each process used of the multiprocessors since this was asked last, percent. None where the driver does not
    say. Raises NVMLError.

    Asked again soon (a server came or went), the last answer holds: the driver samples a few times a second at best, and
    no sample since a moment ago does not mean that nobody worked.

    A process may be listed several times (seen by Kepler, which takes the highest too).
    """
    if now - occupancy.percents_at < USAGE_SECONDS:
        return occupancy.percents
    occupancy.percents = _usage(board, occupancy)
    occupancy.percents_at = now
    return occupancy.percents


def _usage(board: Any, occupancy: Occupancy) -> dict[int, float] | None:
    for name in ("nvmlDeviceGetProcessUtilization", "nvmlDeviceGetProcessesUtilizationInfo"):
        call = getattr(nvml, name, None)
        rows = None if call is None else _samples(call, board, occupancy.seen_us)
        if rows is None:
            continue
        percents: dict[int, float] = {}
        newest = occupancy.seen_us
        for row in rows:
            if row.timeStamp <= occupancy.seen_us or row.pid <= 0 or not 0 < row.smUtil <= 100:
                continue  # seen before, or garbage: the buffer is not all filled by some drivers
            percents[row.pid] = max(percents.get(row.pid, 0.0), float(row.smUtil))
            newest = max(newest, row.timeStamp)
        occupancy.seen_us = newest
        return percents
    return None


def _samples(call: Any, board: Any, since_us: int) -> Any:
    """The driver's rows; none where nobody used anything (the binding raises SUCCESS for an empty list). None where it
    does not say."""
    for _ in range(2):
        try:
            return call(board, since_us)
        except nvml.NVMLError as error:
            code = error.value
            if code in (SUCCESS, NOT_FOUND):
                return ()
            if code in UNSUPPORTED_CODES or code == NO_PERMISSION:
                return None
            if code != INSUFFICIENT_SIZE:
                raise
            # A process began between the question how many there are and the list itself: once more.
    return None
