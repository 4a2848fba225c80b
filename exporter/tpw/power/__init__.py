"""Meters: one file each, behind two tiny protocols and one explicit table.

An accelerator meter knows some GPUs and reads them one by one, so that a GPU that is lost or whose driver call hangs
costs nobody else a reading (the poller in :mod:`tpw.polling` sets it aside). A host meter reads CPU, DRAM or the node.
Meters know neither Prometheus, nor the scheduler, nor the configuration file: they are built from plain values, take a
clock as an argument, and raise :class:`tpw.model.SourceError` where they cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from tpw.model import Gpu, GpuSample, HostReading, SourceError

Clock = Callable[[], float]
"""A monotonic clock, seconds."""


class MeterLost(SourceError):  # noqa: N818 - named for what happened, as SourceError's reasons are
    """The library as a whole is gone: close the meter, and open it again after a while. ``fatal`` as in SourceError."""


class AcceleratorMeter(Protocol):
    """Reads boards. Every method is called from one thread at a time, except that a hung ``read`` may still be running
    in an abandoned thread while ``read`` of *another* GPU is called from a new one."""

    name: str
    """Name of the source in metrics and logs, e.g. ``nvml``."""

    def open(self) -> None:
        """Find the GPUs. Raises SourceError where the driver or library is not there. May be called again after close."""

    def sweep(self) -> None:
        """Prepare one look at all GPUs: fetch a shared page, notice new or returned GPUs. Raises SourceError when the
        library as a whole is gone (the poller closes and opens again, with a back-off)."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs ever found since the first open, lost ones too, ordered by index."""

    def read(self, uuid: str) -> GpuSample:
        """One look at one GPU. Raises SourceError when this GPU does not answer."""

    def holders(self, uuid: str) -> frozenset[int] | None:
        """Process ids that hold this GPU (slow: milliseconds). None where the driver does not say."""

    def close(self) -> None:
        """Let go of the library. Never raises."""


class HostMeter(Protocol):
    """Reads what is not an accelerator: CPU, DRAM, the whole node."""

    name: str

    def open(self) -> None:
        """Find the zones. Raises SourceError (reason PERMISSION with a hint where a file may not be read)."""

    def read(self) -> HostReading:
        """One look. A zone that vanished is left out; raises SourceError when none is left."""

    def close(self) -> None:
        """Never raises."""


# ----------------------------------------------------------------------------------------------------------- the table
#
# Factories take plain values and import their meter when they are called: a meter that is not used costs no memory.
# Their keyword arguments are the options of the meter in the configuration.


def _nvml(clock: Clock) -> AcceleratorMeter:
    from tpw.power.nvml import NvmlMeter

    return NvmlMeter(clock)


def _simulated(clock: Clock, *, gpus: int = 4) -> AcceleratorMeter:
    from tpw.power.simulated import SimulatedMeter

    return SimulatedMeter(gpus, clock)


def _rapl(clock: Clock, *, sysfs_root: str = "/sys") -> HostMeter:
    from tpw.power.rapl import RaplMeter

    return RaplMeter(sysfs_root, clock)


ACCELERATOR_METERS: Mapping[str, Callable[..., AcceleratorMeter]] = {
    "nvml": _nvml,
    "simulated": _simulated,
}
"""Accelerator meters by the name they have in the configuration. Called with the clock and the meter's options."""

HOST_METERS: Mapping[str, Callable[..., HostMeter]] = {
    "rapl": _rapl,
}
"""Host meters, likewise."""
