"""Finds out what one NVIDIA GPU reports, by calling NVML: which energy source, which power scope, which gauges.

A table of architectures would be wrong for virtual GPUs, superchips and Jetsons.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tpw.model import EnergyMethod, PowerScope
from tpw.power.nvml_binding import nvml
from tpw.power.nvml_codes import (
    AMPERE,
    ARCHITECTURES,
    BLACKWELL,
    FATAL_CODES,
    FIELD_ENERGY,
    FIELD_POWER_AVERAGE,
    FIELD_POWER_INSTANT,
    FIELD_POWER_MAX_LIMIT,
    FIELD_TOTAL_ENERGY,
    GPU_LOST_CODES,
    LIBRARY_CODES,
    SCOPE_GPU,
    SCOPE_MODULE,
    ULL,
    UNSUPPORTED_CODES,
    FieldIds,
)

Field = tuple[int, int]
"""(field id, scope id)."""

_T = TypeVar("_T")

_ENERGY: Field = (FIELD_TOTAL_ENERGY, SCOPE_GPU)
_ENERGY_GPU: Field = (FIELD_ENERGY, SCOPE_GPU)
_ENERGY_MODULE: Field = (FIELD_ENERGY, SCOPE_MODULE)
_AVERAGE: Field = (FIELD_POWER_AVERAGE, SCOPE_GPU)
_INSTANT: Field = (FIELD_POWER_INSTANT, SCOPE_GPU)
_AVERAGE_MODULE: Field = (FIELD_POWER_AVERAGE, SCOPE_MODULE)
_INSTANT_MODULE: Field = (FIELD_POWER_INSTANT, SCOPE_MODULE)
_MAX_LIMIT: Field = (FIELD_POWER_MAX_LIMIT, SCOPE_GPU)
_MAX_LIMIT_MODULE: Field = (FIELD_POWER_MAX_LIMIT, SCOPE_MODULE)

_ENERGY_FIELDS = (_ENERGY, _ENERGY_GPU, _ENERGY_MODULE)
_POWER_FIELDS = (_AVERAGE, _INSTANT, _AVERAGE_MODULE, _INSTANT_MODULE)
_CANDIDATES: tuple[Field, ...] = (
    *_ENERGY_FIELDS,
    *_POWER_FIELDS,
    _MAX_LIMIT,
    _MAX_LIMIT_MODULE,
)

DEFAULT_FLOOR_BOUND_WATTS = 3000.0
"""Bound for a floor on GPUs that report no limit: above the limit of every known GPU."""

_ATTEMPTS = 3
_RETRY_SECONDS = 0.06
"""A second read within some 50 ms may return "not supported" for a value that the GPU has (observed by the Zeus
project)."""

# GA100 (A100, A30, A800): PCI device ids 2080 to 20ff. Its power is an instant, unlike that of other Ampere GPUs.
_GA100 = range(0x2080, 0x2100)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one GPU is read."""

    method: EnergyMethod
    note: str
    scope: PowerScope
    energy: Field | None
    """Field of the energy counter; None with ``energy_by_call``, or where there is none."""
    energy_by_call: bool
    power: Field | None
    power_by_call: bool
    call_averages: bool
    """Whether nvmlDeviceGetPowerUsage returns the mean of a second."""
    other_power: Field | None
    """Power of the GPU alone, on superchips with a counter of unknown scope: the counter is compared with GPU and module
    power until its scope is known."""
    throttle: tuple[tuple[int, str], ...]
    max_power_watts: float | None
    max_module_watts: float | None
    utilization: bool
    smoothing: tuple[Field, Field] | None = None
    """Fields (enabled, applied floor) of power smoothing, where the GPU has it."""


_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
"""Member of the union nvmlValue_t by nvmlValueType_t."""


def value_of(row: Any) -> float:
    """The number in a field value, by its type tag: other members of the union are undefined."""
    value: float = getattr(row.value, _MEMBERS.get(row.valueType, "usVal"))
    return value


def text(value: Any) -> str:
    """A string from the binding, which returns bytes in some versions and str in others."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def ask(call: Callable[..., _T], *arguments: Any) -> _T | None:
    """The result of an NVML call, or None where it is unsupported. Raises NVMLError for other failures."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        if error.value in UNSUPPORTED_CODES or error.value == 0:
            return None
        raise


def gauge(call: Callable[..., _T], *arguments: Any) -> _T | None:
    """The result of an NVML call that is not needed for energy, or None where it fails. Raises NVMLError where the GPU or
    the library is lost."""
    try:
        return call(*arguments)
    except nvml.NVMLError as error:
        if error.value in GPU_LOST_CODES or error.value in LIBRARY_CODES or error.value in FATAL_CODES:
            raise
        return None


def probe(handle: Any, ids: FieldIds, attempts: int = _ATTEMPTS) -> Plan:
    """Find out what one GPU reports, in several attempts where it lacks the best source. Raises NVMLError.

    Args:
        handle: the GPU.
        ids: of the driver.
        attempts: how often it is asked.
    """
    fields = _fields(handle, attempts)
    architecture = ask(nvml.nvmlDeviceGetArchitecture, handle) or 0
    energy = next((field for field in _ENERGY_FIELDS if field in fields), None)
    energy_by_call = energy is None and ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle) is not None

    gpu_power = next((field for field in (_AVERAGE, _INSTANT) if field in fields), None)
    module_power = next((field for field in (_AVERAGE_MODULE, _INSTANT_MODULE) if field in fields), None)
    power = gpu_power or module_power
    power_by_call = power is None and bool(ask(nvml.nvmlDeviceGetPowerUsage, handle))

    call_averages = power_by_call and _call_averages(handle, architecture)
    averaged = power[0] == FIELD_POWER_AVERAGE if power else call_averages if power_by_call else None
    method, note = _method(has_counter=energy is not None or energy_by_call, averaged=averaged)
    # Superchips: a counter of the whole module was reported for GH200, so that is assumed until the comparison shows
    # otherwise.
    undecided = energy == _ENERGY and gpu_power is not None and module_power is not None
    module = undecided or energy == _ENERGY_MODULE or (gpu_power is None and module_power is not None)
    return Plan(
        method=method,
        note=note,
        scope=PowerScope.MODULE if module else PowerScope.GPU,
        energy=energy,
        energy_by_call=energy_by_call,
        power=module_power or gpu_power if module else gpu_power,
        power_by_call=power_by_call,
        call_averages=call_averages,
        other_power=gpu_power if undecided else None,
        throttle=_throttle(handle, ids),
        max_power_watts=_max_power(handle, fields),
        max_module_watts=_module_watts(fields),
        utilization=gauge(nvml.nvmlDeviceGetUtilizationRates, handle) is not None,
        smoothing=_smoothing(handle, architecture, ids),
    )


def offered_method(handle: Any) -> EnergyMethod:
    """The best energy method among the field values, in one call: a reason for another probe. Raises NVMLError."""
    fields = _fields(handle, attempts=1)
    if any(field in fields for field in _ENERGY_FIELDS):
        return EnergyMethod.COUNTER
    if _AVERAGE in fields or _AVERAGE_MODULE in fields:
        return EnergyMethod.AVERAGE_POWER
    return EnergyMethod.INSTANT_POWER if any(field in fields for field in _POWER_FIELDS) else EnergyMethod.NONE


def _fields(handle: Any, attempts: int) -> dict[Field, float]:
    """All candidate fields that have a value. A power of zero means that the sensor is not there."""
    found: dict[Field, float] = {}
    for attempt in range(attempts):
        rows: Sequence[Any] | None = ask(nvml.nvmlDeviceGetFieldValues, handle, list(_CANDIDATES))
        if rows is None:
            return found
        for field, row in zip(_CANDIDATES, rows, strict=True):
            code = row.nvmlReturn
            if code == 0:
                value = value_of(row)
                if value > 0 or field not in _POWER_FIELDS:
                    found[field] = value
            elif code not in UNSUPPORTED_CODES:
                raise nvml.NVMLError(code)
        if _ENERGY in found and _AVERAGE in found:
            break
        if attempt + 1 < attempts:
            time.sleep(_RETRY_SECONDS)
    return found


def _method(*, has_counter: bool, averaged: bool | None) -> tuple[EnergyMethod, str]:
    """The energy method and its note. ``averaged``: whether power is a mean; None: there is no power."""
    if has_counter:
        return EnergyMethod.COUNTER, ""
    no_counter = "no NVML energy counter (before Volta, or a virtual GPU)"
    if averaged is None:
        return EnergyMethod.NONE, f"{no_counter}, and no power reading either"
    if averaged:
        return EnergyMethod.AVERAGE_POWER, f"{no_counter}: the one-second mean of power is integrated"
    return EnergyMethod.INSTANT_POWER, f"{no_counter}, no mean power: instantaneous power is integrated"


def bounds(handle: Any) -> tuple[float | None, float | None]:
    """The highest power in watts of the GPU and of its module, as the driver reports them now. Raises NVMLError."""
    rows: Sequence[Any] = ask(nvml.nvmlDeviceGetFieldValues, handle, [_MAX_LIMIT, _MAX_LIMIT_MODULE]) or ()
    fields = {
        field: value_of(row)
        for field, row in zip((_MAX_LIMIT, _MAX_LIMIT_MODULE), rows, strict=False)
        if row.nvmlReturn == 0
    }
    return _max_power(handle, fields), _module_watts(fields)


def _module_watts(fields: dict[Field, float]) -> float | None:
    return fields.get(_MAX_LIMIT_MODULE, 0.0) / 1000.0 or None


def _throttle(handle: Any, ids: FieldIds) -> tuple[tuple[int, str], ...]:
    """The throttle fields that are there. One that is not a 64-bit counter has another meaning in this driver: it is left
    out rather than shown as zero."""
    rows = ask(nvml.nvmlDeviceGetFieldValues, handle, [(field, SCOPE_GPU) for field, _ in ids.throttle]) or ()
    return tuple(
        throttle
        for throttle, row in zip(ids.throttle, rows, strict=False)
        if row.nvmlReturn == 0 and row.valueType == ULL
    )


def _smoothing(handle: Any, architecture: int, ids: FieldIds) -> tuple[Field, Field] | None:
    """The fields of power smoothing, on architectures that have the feature. A switch is 0 or 1 and no 64-bit counter:
    anything else has another meaning in this driver."""
    if architecture < BLACKWELL:
        return None
    enabled, floor = ids.smoothing
    fields = ((enabled, SCOPE_GPU), (floor, SCOPE_GPU))
    rows = ask(nvml.nvmlDeviceGetFieldValues, handle, list(fields))
    if not rows or rows[0].nvmlReturn != 0 or rows[0].valueType == ULL or value_of(rows[0]) not in (0, 1):
        return None
    return fields


def floor_of(rows: Sequence[Any], max_power_watts: float | None) -> float | None:
    """Watts of the active floor, from the values of the two fields. None without one, or where it is above the limit."""
    if any(row.nvmlReturn for row in rows) or value_of(rows[0]) != 1:
        return None
    watts = float(value_of(rows[1]))
    return watts if 0.0 < watts <= (max_power_watts or DEFAULT_FLOOR_BOUND_WATTS) else None


def _call_averages(handle: Any, architecture: int) -> bool:
    """Whether nvmlDeviceGetPowerUsage returns a mean: from Ampere on, except on GA100 (nvml.h)."""
    if architecture < AMPERE or architecture not in ARCHITECTURES:
        return False
    pci = ask(nvml.nvmlDeviceGetPciInfo, handle)
    return pci is None or (pci.pciDeviceId >> 16) not in _GA100


def _max_power(handle: Any, fields: dict[Field, float]) -> float | None:
    """The highest power limit that can be set or is active, in watts."""
    highest = fields.get(_MAX_LIMIT, 0.0)
    for call in (nvml.nvmlDeviceGetPowerManagementLimitConstraints, nvml.nvmlDeviceGetEnforcedPowerLimit):
        try:
            answer = call(handle)
        except nvml.NVMLError as error:
            if error.value in UNSUPPORTED_CODES or error.value == 4:
                continue
            raise
        highest = max(highest, answer[1] if isinstance(answer, list) else answer)
    return highest / 1000.0 or None
