"""Power meters: one module each, one protocol per ability, one table of all meters.

An accelerator meter reads its GPUs one by one, so that a GPU that is lost or hangs affects no other GPU: the poller
(:mod:`tpw.polling`) sets it aside. A host meter reads CPU, DRAM or the whole node. Meters know neither Prometheus, nor the
scheduler, nor the configuration file. Their constructors take a monotonic clock and options, which are plain values.
Meters raise :class:`tpw.model.SourceError` where they cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Protocol, runtime_checkable

from tpw.model import Gpu, GpuSample, HostReading, Sharing, SourceError

Clock = Callable[[], float]
"""A monotonic clock, seconds."""

ACCELERATOR_METERS: Mapping[str, str] = {
    "nvml": "tpw.power.nvml:NvmlMeter",
    "amdsmi": "tpw.power.amdsmi:AmdsmiMeter",
    "dcgm": "tpw.power.dcgm:DcgmMeter",
    "hwmon": "tpw.power.hwmon:HwmonMeter",
    "external": "tpw.power.external:ExternalMeter",
    "simulated": "tpw.power.simulated:SimulatedMeter",
}
"""Name in the configuration -> module and class. A meter is imported when it is used, so an unused one costs nothing."""

HOST_METERS: Mapping[str, str] = {
    "rapl": "tpw.power.rapl:RaplMeter",
    "grace": "tpw.power.grace:GraceMeter",
    "redfish": "tpw.power.redfish:RedfishMeter",
}
"""The same for host meters."""


class MeterLost(SourceError):  # noqa: N818 - named for what happened, as SourceError's reasons are
    """The library as a whole failed: close the meter, and open it again later. ``fatal`` as in SourceError."""


class AcceleratorMeter(Protocol):
    """Reads GPUs. Every method is called from one thread at a time, with two exceptions: while a hung call for one GPU
    still runs in an abandoned thread, calls for *other* GPUs come from a new thread; and see :class:`ParallelMeter`."""

    name: str
    """Name of the source in metrics and logs, e.g. ``nvml``."""

    def open(self) -> None:
        """Find the GPUs. May be called again after close. Raises SourceError where the driver or library is missing."""

    def sweep(self) -> None:
        """Prepare a read of all GPUs: fetch a shared page, find new or returned GPUs. Raises SourceError when the library
        as a whole failed."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs found since the first open, lost ones too, ordered by index."""

    def read(self, uuid: str) -> GpuSample:
        """Read one GPU. Raises SourceError when this GPU does not answer, MeterLost when the library failed."""

    def close(self) -> None:
        """Release the library. Never raises."""


@runtime_checkable
class SharingMeter(Protocol):
    """An accelerator meter that knows the processes on a GPU, and possibly how they share it."""

    def sharing(self, uuid: str) -> Sharing:
        """Processes, their use, and MIG instances of this GPU. Takes milliseconds. Raises SourceError when this GPU does
        not answer."""


@runtime_checkable
class SamplingMeter(Protocol):
    """An accelerator meter with GPUs that report power and no energy.

    One instant per tick would hit a periodic load at the same phase every time, and a mean of one second covers only one
    second of a longer tick. So the poller takes further samples between two reads, and the next read returns their mean.
    """

    def sampling(self) -> Mapping[str, float | None]:
        """The GPUs to sample, by UUID: the longest time between two readings in seconds, or None for instants, which the
        poller samples often and at random times."""

    def sample(self, uuid: str) -> None:
        """Record the power now. A failure shows at the next read."""


@runtime_checkable
class ParallelMeter(Protocol):
    """An accelerator meter with ``read`` calls that block, each for its own GPU only: the poller may then read *different*
    GPUs from several threads at a time. All other calls still come from one thread."""

    reads_in_parallel: bool


@runtime_checkable
class NotingMeter(Protocol):
    """A meter that has more to report than its readings, such as GPUs or zones that it cannot read."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the operator."""


class HostMeter(Protocol):
    """Reads what is not an accelerator: CPU, DRAM, the whole node."""

    name: str

    every_seconds: float
    """0 for a meter that is read in the tick. A slow meter is read in its own thread, at most this often."""

    def open(self) -> None:
        """Find the zones. Raises SourceError (reason PERMISSION with a hint where a file is not readable)."""

    def read(self) -> HostReading:
        """Read all zones. A zone that vanished is left out. Raises SourceError when none is left."""

    def close(self) -> None:
        """Never raises."""


def accelerator_meter(name: str, clock: Clock, **options: Any) -> AcceleratorMeter:
    """A meter of the table, not opened. Raises TypeError for an unknown option, ValueError for a bad value."""
    meter: AcceleratorMeter = _meter_class(ACCELERATOR_METERS[name])(clock, **options)
    return meter


def host_meter(name: str, clock: Clock, **options: Any) -> HostMeter:
    """The same for a host meter."""
    meter: HostMeter = _meter_class(HOST_METERS[name])(clock, **options)
    return meter


def meter_options(location: str) -> Mapping[str, Parameter]:
    """The options of a meter: the keyword-only parameters of its constructor. ``location`` is a value of a table."""
    parameters = signature(_meter_class(location)).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY}


def _meter_class(location: str) -> Callable[..., Any]:
    module, _, name = location.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
