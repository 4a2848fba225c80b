"""NVIDIA GPUs read from the page of a dcgm-exporter on the host.

For nodes that should have no second client of the driver. Values are as old as the collection interval of dcgm-exporter,
30 s by default. So the meter returns an energy only when it has changed: until then there is no newer one.

Field names: dcgm_fields.h of NVIDIA/DCGM; units and labels as in dcgm-exporter's etc/default-counters.csv.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from math import inf

from tpw.http.client import Client, Tls
from tpw.http.messages import address_of, status_error
from tpw.model import EnergyMethod, Gpu, GpuSample, PowerScope, Reason, SourceError
from tpw.power import Clock

ENERGY = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
POWER = "DCGM_FI_DEV_POWER_USAGE"
UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"
TEMPERATURE = "DCGM_FI_DEV_GPU_TEMP"
USED = "DCGM_FI_DEV_FB_USED"
FREE = "DCGM_FI_DEV_FB_FREE"
RESERVED = "DCGM_FI_DEV_FB_RESERVED"
TOTAL = "DCGM_FI_DEV_FB_TOTAL"
LIMIT = "DCGM_FI_DEV_ENFORCED_POWER_LIMIT"
SET_LIMIT = "DCGM_FI_DEV_POWER_MGMT_LIMIT"
MAX_LIMIT = "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX"

WANTED = frozenset({ENERGY, POWER, UTILIZATION, TEMPERATURE, USED, FREE, RESERVED, TOTAL, LIMIT, SET_LIMIT, MAX_LIMIT})
_PER_INSTANCE = frozenset({USED, FREE, RESERVED, TOTAL})
"""Fields that rows of MIG instances divide among them. Every other field repeats the value of the GPU."""

_BLANKS = (2147483632.0, 140737488355328.0, 9223372036854775792.0)
"""DCGM's blank values (int32, double, int64; dcgm_structs.h): each of them and the next 15 mean "no value"."""

STANDSTILL_SECONDS = 120.0
"""An energy that is unchanged for this time is returned: the counter itself has stopped. If no other value of the GPU has
changed either, the page is stale and the read fails, because a power of two minutes ago must not be integrated."""

_SUPERCHIP = re.compile(r"\bG[BH]\d{2,3}\b")
"""GH200, GB200, GB300, GB10: Grace and GPU in one module. On GH200 the counter was reported to cover the module (Zeus,
issue 172); the page does not show it. DCGM's power covers the GPU alone."""


@dataclass(slots=True)
class _PageGpu:
    """One GPU on the page."""

    labels: dict[str, str]
    values: dict[str, float] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    """Fields with a row of the GPU itself, which takes precedence over rows of its instances."""

    def add(self, name: str, value: float, *, instance: bool) -> None:
        if not instance:
            # A shared GPU has one row for each pod, all with the same value.
            self.values[name] = value
            self.whole.add(name)
        elif name not in self.whole:
            before = self.values.get(name)
            if before is None:
                self.values[name] = value
            else:
                self.values[name] = before + value if name in _PER_INSTANCE else max(before, value)


def parse(page: str) -> dict[str, _PageGpu]:
    """The GPUs of a page by UUID. Rows without a GPU, blank values and invalid lines are skipped."""
    gpus: dict[str, _PageGpu] = {}
    seen: set[tuple[str, str, str]] = set()
    for line in page.splitlines():
        name, brace, rest = line.partition("{")
        if not brace or name not in WANTED:
            continue
        body, closing, tail = rest.rpartition("}")
        try:
            value = float(tail.split()[0])
        except (ValueError, IndexError):
            continue
        if not closing or value < 0 or is_blank(value):
            continue
        labels = _labels(body)
        uuid = labels.get("UUID") or labels.get("uuid", "")
        instance = labels.get("GPU_I_ID", "")
        if not uuid:
            continue
        gpu = gpus.get(uuid)
        if gpu is None:
            gpu = gpus[uuid] = _PageGpu(labels)
        row = (uuid, name, instance)
        if row not in seen:  # an instance has one row for each pod on it
            seen.add(row)
            gpu.add(name, value, instance=bool(instance))
    return gpus


def is_blank(value: float) -> bool:
    """Whether a number is one of DCGM's values for "no value"."""
    return value != value or any(blank <= value < blank + 16 for blank in _BLANKS) or value >= 9.2e18


def _labels(body: str) -> dict[str, str]:
    """Labels of one row. dcgm-exporter's values hold no escaped quotes."""
    labels: dict[str, str] = {}
    for part in body.split('",'):
        name, equals, value = part.partition('="')
        if equals:
            labels[name.strip()] = value.rstrip('"')
    return labels


class DcgmMeter:
    """An :class:`tpw.power.AcceleratorMeter` over dcgm-exporter's page.

    Args:
        url: the page; its path is taken as it is.
        clock: monotonic seconds.
        timeout_seconds: for one fetch.
        headers_file, ca_file, insecure_skip_verify (for ``tls``): see :class:`tpw.http.client.Client`.
    """

    name = "dcgm"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        url: str = "http://127.0.0.1:9400/metrics",
        timeout_seconds: float = 2.0,
        headers_file: str = "",
        ca_file: str = "",
        insecure_skip_verify: bool = False,
    ) -> None:
        self._clock = clock
        self._url = address_of(url)
        self._client = Client(
            url,
            timeout_seconds=timeout_seconds,
            headers_file=headers_file,
            tls=Tls(ca_file, skip_verify=insecure_skip_verify),
            clock=clock,
        )
        self._gpus: dict[str, Gpu] = {}
        self._page: dict[str, _PageGpu] = {}
        self._at = 0.0
        self._last: dict[str, tuple[float, float]] = {}
        self._seen: dict[str, tuple[dict[str, float], float]] = {}

    def open(self) -> None:
        """Do nothing: the sweep fetches the page."""

    def sweep(self) -> None:
        """Fetch the page. Raises SourceError when that fails or the page has no GPU."""
        answer = self._client.request()
        if answer.status != 200:
            raise status_error(self._url, answer)
        page = answer.body.decode(errors="replace")
        self._at = self._clock()
        self._page = parse(page)
        if not self._page:
            raise SourceError(
                Reason.DISABLED,
                f"{self._url}: no GPU with a UUID on the page",
                f"dcgm-exporter must export {ENERGY} (or {POWER}) with the label UUID.",
            )
        for uuid, found in self._page.items():
            gpu = _gpu(uuid, found)
            if ENERGY not in found.values and self._at - self._last.get(uuid, (0.0, -inf))[1] < STANDSTILL_SECONDS:
                continue  # a counter that is missing from one page is no reason for another method
            if self._gpus.get(uuid) != gpu:
                self._gpus[uuid] = gpu

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs of this page and of earlier ones, by index."""
        return tuple(sorted(self._gpus.values(), key=lambda gpu: (gpu.index, gpu.uuid)))

    def read(self, uuid: str) -> GpuSample:
        """One GPU of the page. Raises SourceError when the page no longer has it, or is stale."""
        gpu = self._page.get(uuid)
        if gpu is None:
            raise SourceError(
                Reason.LOST, f"{uuid} is no longer on {self._url}", "See dcgm-exporter's log for this GPU."
            )
        since = self._since(uuid, gpu)
        if self._at - since >= STANDSTILL_SECONDS:
            raise SourceError(
                Reason.TIMEOUT,
                f"{self._url} has shown the same values for {uuid} for {self._at - since:.0f} s",
                "dcgm-exporter hangs, or collects less often than every two minutes: restart it, or lower its option -c.",
            )
        values = gpu.values
        utilization = values.get(UTILIZATION)
        power = values.get(POWER)
        used, total = values.get(USED), _total(values)
        return GpuSample(
            uuid=uuid,
            at_seconds=self._at,
            energy_joules=self._new_energy(uuid, values.get(ENERGY)),
            power_watts=power or None,
            power_limit_watts=values.get(LIMIT, values.get(SET_LIMIT)) or None,
            utilization_ratio=None if utilization is None else min(utilization, 100.0) / 100.0,
            memory_used_bytes=None if used is None else used * 2**20,
            memory_total_bytes=None if total is None else total * 2**20,
            temperature_celsius=values.get(TEMPERATURE),
        )

    def close(self) -> None:
        """Drop the connection."""
        self._client.close()

    def _since(self, uuid: str, gpu: _PageGpu) -> float:
        """When the GPU's values changed last."""
        seen = self._seen.get(uuid)
        if seen is None or seen[0] != gpu.values:
            seen = self._seen[uuid] = (gpu.values, self._at)
        return seen[1]

    def _new_energy(self, uuid: str, millijoules: float | None) -> float | None:
        """Joules of the counter when it has changed."""
        if millijoules is None:
            return None
        last = self._last.get(uuid)
        if last is not None and last[0] == millijoules and self._at - last[1] < STANDSTILL_SECONDS:
            return None
        if last is None or last[0] != millijoules:
            self._last[uuid] = (millijoules, self._at)
        return millijoules / 1000.0


_MODULE_REMARK = (
    "A superchip: its counter is treated as that of the whole module, CPU included, so that no CPU is counted twice. The"
    " page does not show which it is; the nvml meter can find out."
)


def _gpu(uuid: str, gpu: _PageGpu) -> Gpu:
    labels, values = gpu.labels, gpu.values
    if ENERGY in values:
        method, note = EnergyMethod.COUNTER, "from dcgm-exporter, at its collection interval"
    elif POWER in values:
        method, note = EnergyMethod.INSTANT_POWER, f"dcgm-exporter does not export {ENERGY}: power is integrated"
    else:
        method, note = EnergyMethod.NONE, f"dcgm-exporter exports neither {ENERGY} nor {POWER}"
    index = labels.get("gpu", "")
    name = labels.get("modelName", "")
    of_module = method is EnergyMethod.COUNTER and _SUPERCHIP.search(name) is not None
    most = max(values.get(MAX_LIMIT, 0.0), values.get(LIMIT, 0.0), values.get(SET_LIMIT, 0.0)) or None
    return Gpu(
        uuid=uuid,
        index=int(index) if index.isdigit() else 0,
        name=name,
        driver_version=labels.get("DCGM_FI_DRIVER_VERSION", ""),
        pci_bus_id=labels.get("pci_bus_id", ""),
        power_scope=PowerScope.MODULE if of_module else PowerScope.GPU,
        energy_method=method,
        method_note=note,
        max_power_watts=None if of_module else most,
        remarks=(_MODULE_REMARK,) if of_module else (),
    )


def _total(values: dict[str, float]) -> float | None:
    if TOTAL in values:
        return values[TOTAL]
    if USED in values and FREE in values:
        return values[USED] + values[FREE] + values.get(RESERVED, 0.0)
    return None
