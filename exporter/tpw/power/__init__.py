"""Meters: one file each, behind two tiny protocols and one explicit table.

An accelerator meter knows some GPUs and reads them one by one, so that a GPU that is lost or whose driver call hangs
costs nobody else a reading (the poller in :mod:`tpw.polling` sets it aside). A host meter reads CPU, DRAM or the node.
Meters know neither Prometheus, nor the scheduler, nor the configuration file: they are built from plain values, take a
clock as an argument, and raise :class:`tpw.model.SourceError` where they cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from tpw.model import Gpu, GpuSample, HostReading, Sharing, SourceError

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


@runtime_checkable
class SharingMeter(Protocol):
    """An accelerator meter that also knows how those who hold a GPU share it."""

    def sharing(self, uuid: str) -> Sharing:
        """Who is on this GPU and uses how much of it, and its instances (slow; what ``holders`` says is in it). Raises
        SourceError when this GPU does not answer."""


@runtime_checkable
class GlancingMeter(Protocol):
    """A meter some of whose boards tell nothing but their power of an instant: one look a second would meet a periodic load
    at the same point every time, so it is asked for more in between, and answers a look with the mean."""

    def glancing(self) -> Sequence[str]:
        """UUIDs of the boards that want glances."""

    def glance(self, uuid: str) -> None:
        """Note the power of this moment. A failure is told by the next look."""


class HostMeter(Protocol):
    """Reads what is not an accelerator: CPU, DRAM, the whole node."""

    name: str

    every_seconds: float
    """0 for a meter that is read in the tick; more for one that is slow: it is read in a thread of its own, no more often
    than this."""

    def open(self) -> None:
        """Find the zones. Raises SourceError (reason PERMISSION with a hint where a file may not be read)."""

    def read(self) -> HostReading:
        """One look. A zone that vanished is left out; raises SourceError when none is left."""

    def close(self) -> None:
        """Never raises."""


# ----------------------------------------------------------------------------------------------------------- the table
#
# Factories take the clock and the meter's options, which are plain values, and import their meter when they are called: a
# meter that is not used costs no memory. They raise TypeError for an option they do not know, ValueError for a bad value.


def _nvml(clock: Clock) -> AcceleratorMeter:
    from tpw.power.nvml import NvmlMeter

    return NvmlMeter(clock)


def _amdsmi(clock: Clock) -> AcceleratorMeter:
    from tpw.power.amdsmi import AmdsmiMeter

    return AmdsmiMeter(clock)


def _dcgm(
    clock: Clock,
    *,
    url: str = "http://127.0.0.1:9400/metrics",
    timeout_seconds: float = 2.0,
    headers_file: str = "",
    ca_file: str = "",
    insecure_skip_verify: bool = False,
) -> AcceleratorMeter:
    from tpw.power.dcgm import DcgmMeter

    return DcgmMeter(
        url,
        clock,
        timeout_seconds=timeout_seconds,
        headers_file=headers_file,
        ca_file=ca_file,
        insecure_skip_verify=insecure_skip_verify,
    )


def _hwmon(
    clock: Clock, *, sysfs_root: str = "/sys", drivers: Sequence[str] = ("xe", "i915", "ina3221")
) -> AcceleratorMeter:
    from tpw.power.hwmon import HwmonMeter

    return HwmonMeter(sysfs_root, clock, drivers)


def _external(
    clock: Clock,
    *,
    watts: Mapping[str, float] | None = None,
    url: str = "",
    power_query: str = "",
    energy_query: str = "",
    label: str = "gpu",
    model: str = "",
    vendor: str = "external",
    max_power_watts: float | None = None,
    every_seconds: float = 15.0,
    timeout_seconds: float = 5.0,
    headers_file: str = "",
    ca_file: str = "",
    insecure_skip_verify: bool = False,
) -> AcceleratorMeter:
    from tpw.power.external import ExternalMeter

    return ExternalMeter(
        clock,
        watts=watts,
        url=url,
        power_query=power_query,
        energy_query=energy_query,
        label=label,
        model=model,
        vendor=vendor,
        max_power_watts=max_power_watts,
        every_seconds=every_seconds,
        timeout_seconds=timeout_seconds,
        headers_file=headers_file,
        ca_file=ca_file,
        insecure_skip_verify=insecure_skip_verify,
    )


def _simulated(clock: Clock, *, gpus: int = 4) -> AcceleratorMeter:
    from tpw.power.simulated import SimulatedMeter

    return SimulatedMeter(gpus, clock)


def _rapl(clock: Clock, *, sysfs_root: str = "/sys") -> HostMeter:
    from tpw.power.rapl import RaplMeter

    return RaplMeter(sysfs_root, clock)


def _grace(clock: Clock, *, sysfs_root: str = "/sys") -> HostMeter:
    from tpw.power.grace import GraceMeter

    return GraceMeter(sysfs_root, clock)


def _redfish(
    clock: Clock,
    *,
    url: str,
    credentials_file: str = "",
    chassis: str = "",
    every_seconds: float = 30.0,
    timeout_seconds: float = 10.0,
    ca_file: str = "",
    insecure_skip_verify: bool = False,
    sysfs_root: str = "",  # every host meter is told where sysfs is; this one does not need it
) -> HostMeter:
    from tpw.power.redfish import RedfishMeter

    return RedfishMeter(
        url,
        clock,
        credentials_file=credentials_file,
        chassis=chassis,
        every_seconds=every_seconds,
        timeout_seconds=timeout_seconds,
        ca_file=ca_file,
        insecure_skip_verify=insecure_skip_verify,
    )


ACCELERATOR_METERS: Mapping[str, Callable[..., AcceleratorMeter]] = {
    "nvml": _nvml,
    "amdsmi": _amdsmi,
    "dcgm": _dcgm,
    "hwmon": _hwmon,
    "external": _external,
    "simulated": _simulated,
}
"""Accelerator meters by the name they have in the configuration. Called with the clock and the meter's options."""

HOST_METERS: Mapping[str, Callable[..., HostMeter]] = {
    "rapl": _rapl,
    "grace": _grace,
    "redfish": _redfish,
}
"""Host meters, likewise. Every one of them also takes ``sysfs_root``."""
