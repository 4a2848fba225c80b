"""NVML's return codes, field ids and architectures, from nvml.h (API version 13), and their meaning for the meter.

They are integers, because the binding's exceptions are not hashable and nvmlErrorString is one more call into a driver that
has just failed.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpw.model import Reason, SourceError
from tpw.power import MeterLost

SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
GPU_NOT_FOUND = 28
UNKNOWN = 999

UNSUPPORTED_CODES = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25, 26, INVALID_ARGUMENT})
"""A value that this GPU, driver or binding does not offer. INVALID_ARGUMENT: a field that is newer than the driver."""

LIBRARY_CODES = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED})
"""The library must be initialised again."""

FATAL_CODES = frozenset({LIB_RM_VERSION_MISMATCH, LIBRARY_NOT_FOUND})
"""After a successful start: the driver's files were replaced. The old library stays mapped, so only a new process helps."""

STALE_HANDLE_CODES = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND, NOT_FOUND, INVALID_ARGUMENT})
"""The handle is invalid until the GPU has been opened again."""

GPU_LOST_CODES = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
"""The GPU is lost, whichever value was read."""

_NAMES = {
    1: "uninitialized",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    5: "already initialized",
    6: "not found",
    7: "insufficient size",
    8: "insufficient external power",
    9: "driver not loaded",
    10: "timeout",
    11: "interrupt request issue",
    12: "library not found",
    13: "function not found",
    14: "corrupted infoROM",
    15: "GPU is lost",
    16: "GPU requires reset",
    17: "operating system blocked the request",
    18: "driver and library version mismatch",
    19: "in use by another client",
    20: "insufficient memory",
    21: "no data",
    22: "vGPU ECC not supported",
    23: "insufficient resources",
    24: "frequency not supported",
    25: "argument version mismatch",
    26: "deprecated",
    27: "not ready",
    28: "GPU not found",
    29: "invalid state",
    30: "reset type not supported",
    999: "unknown error",
}

_REASONS = {
    NOT_SUPPORTED: Reason.UNSUPPORTED,
    FUNCTION_NOT_FOUND: Reason.UNSUPPORTED,
    25: Reason.UNSUPPORTED,
    26: Reason.UNSUPPORTED,
    NO_PERMISSION: Reason.PERMISSION,
    17: Reason.PERMISSION,
    10: Reason.TIMEOUT,
    GPU_IS_LOST: Reason.LOST,
    GPU_NOT_FOUND: Reason.LOST,
    NOT_FOUND: Reason.LOST,
    UNINITIALIZED: Reason.ABSENT,
    DRIVER_NOT_LOADED: Reason.ABSENT,
    LIBRARY_NOT_FOUND: Reason.ABSENT,
}

_HINTS = {
    NO_PERMISSION: "Access to this GPU is denied: give the container the device, or run as a user who may read it.",
    17: "Access to this GPU is denied: give the container the device, or run as a user who may read it.",
    DRIVER_NOT_LOADED: "Load the NVIDIA kernel module (nvidia-smi shows whether it works).",
    LIBRARY_NOT_FOUND: "Install the NVIDIA driver, or start the container with the NVIDIA runtime (--gpus all).",
    LIB_RM_VERSION_MISMATCH: "The driver was upgraded: reload the kernel module or reboot, then restart the exporter.",
    GPU_IS_LOST: "The GPU has fallen off the bus: check the kernel log for Xid 79, then reset the GPU or reboot.",
    RESET_REQUIRED: "Reset the GPU (nvidia-smi --gpu-reset) once nothing uses it.",
    14: "The infoROM of the GPU is damaged: check nvidia-smi -q, then contact the vendor.",
    11: "The GPU gets no interrupts: check the kernel log.",
    UNKNOWN: "In a container: the device rules may have been rewritten (systemctl daemon-reload); restart the container.",
}

FIELD_TOTAL_ENERGY = 83
FIELD_POWER_AVERAGE = 185
FIELD_POWER_INSTANT = 186
FIELD_POWER_MAX_LIMIT = 188
FIELD_ENERGY = 191
SCOPE_GPU = 0
SCOPE_MODULE = 1

ULL = 3
"""nvmlValueType_t of a 64-bit counter."""


@dataclass(frozen=True, slots=True)
class FieldIds:
    """Ids of fields that have another number in another driver."""

    throttle: tuple[tuple[int, str], ...]
    """(field id, reason): cumulative nanoseconds with reduced clocks."""
    smoothing: tuple[int, int]
    """Power smoothing: (enabled, applied floor in watts)."""


_POWER_CAP = (74, "sw_power_cap")
_OLDEST = FieldIds((_POWER_CAP,), (251, 255))
_MIDDLE = FieldIds((_POWER_CAP, (251, "sw_thermal"), (252, "hw_thermal"), (253, "hw_power_brake")), (256, 260))
_NEWEST = FieldIds((_POWER_CAP, (269, "sw_thermal"), (270, "hw_thermal"), (271, "hw_power_brake")), (251, 255))


def field_ids(driver_version: str) -> FieldIds:
    """The ids of a driver, which follow its nvml.h: nvidia-ml-py 570 has no throttle fields but 74; 575.51 and 580.65
    number them from 251 and smoothing from 256; 580.82 and later number smoothing from 251, as 570 did, and them from 269.
    A version that cannot be parsed counts as the newest."""
    try:
        major, minor = (int(part) for part in driver_version.split(".")[:2])
    except ValueError:
        return _NEWEST
    if major < 575:
        return _OLDEST
    return _MIDDLE if (major, minor) < (580, 82) else _NEWEST


AMPERE = 7
BLACKWELL = 10
ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
    13: "rubin",
}


def code_name(code: int) -> str:
    """The name of a return code, without a call of the driver."""
    return _NAMES.get(code, f"error {code}")


def gpu_error(uuid: str, code: int, doing: str = "read") -> SourceError:
    """The error for a failed call of one GPU."""
    return SourceError(
        _REASONS.get(code, Reason.BROKEN),
        f"{uuid}: NVML {doing} failed: {code_name(code)} ({code})",
        _HINTS.get(code, ""),
    )


def library_error(code: int, doing: str, *, started: bool) -> MeterLost:
    """The error for a failure of the library as a whole. ``started``: it has worked before in this process."""
    return MeterLost(
        _REASONS.get(code, Reason.BROKEN),
        f"NVML {doing} failed: {code_name(code)} ({code})",
        _HINTS.get(code, ""),
        fatal=started and code in FATAL_CODES,
    )
