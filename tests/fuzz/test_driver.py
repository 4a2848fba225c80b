"""Whatever NVIDIA's library answers to any call of the meter: a usable reading, or a SourceError."""

from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpw.exposition.families import families
from tpw.exposition.render import Format, Renderer
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.ledger.tick import Policy, Tick
from tpw.model import AcceleratorReading, GpuSample, Instant, SourceError
from tpw.polling.health import attempt
from tpw.power import nvml as meter_module
from tpw.power import nvml_codes, nvml_gpu, nvml_probe, nvml_sharing
from tpw.power.nvml import NvmlMeter
from tpw.snapshot import Snapshot

CODES = [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN, 999, 2**31]
whole = st.one_of(st.sampled_from([0, 1, 2, 2**31, 2**32 - 1, 2**63, 2**64 - 1]), st.integers(0, 10**6))
texts = st.one_of(
    st.sampled_from(["", "GPU-5c6f", "NVIDIA H100", "580.95.05", 'a"\n\\', "\udc80\x00"]), st.text(max_size=40)
)
odd = st.one_of(st.none(), st.floats(), st.binary(max_size=9), st.just([]), st.just(-1), st.booleans())


class _Structure(SimpleNamespace):
    """Any structure of the library: every field that is asked for is there."""

    def __init__(self, number: int, text: str, fault: int) -> None:
        super().__init__(nvmlReturn=fault, number=number, text=text)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "value":
            return SimpleNamespace(
                uiVal=self.number,
                ullVal=self.number,
                ulVal=self.number,
                dVal=float(self.number),
                siVal=self.number,
                usVal=self.number,
            )
        return self.text if "Id" in name and "bus" in name else self.number

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        if index > 1:
            raise IndexError(index)
        return self if index == 0 else self.number


structures = st.builds(_Structure, whole, texts, st.sampled_from([0, 0, 3, 999]))


class _Binding:
    """The binding with answers that are drawn: mostly of the kind that a call has, sometimes of any."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)
        if not name.startswith("nvml") or isinstance(real, type):
            return real

        def call(*arguments: Any) -> Any:
            draw = self._data.draw
            if draw(st.integers(0, 9)) == 0:
                raise pynvml.NVMLError(draw(st.sampled_from(CODES)))
            if name == "nvmlDeviceGetCount_v2" or name == "nvmlDeviceGetCount":
                return draw(st.integers(0, 3))
            if draw(st.integers(0, 19)) == 0:
                return draw(odd)
            if name.endswith(("UUID", "Name", "Version")):
                return draw(texts)
            if name.endswith(("Info", "Rates", "Attributes")):
                return draw(structures)
            if name.endswith("FieldValues"):
                return draw(st.lists(structures, min_size=len(arguments[1]), max_size=len(arguments[1])))
            if name.endswith(("Constraints", "Mode")):
                return [draw(whole), draw(whole)]
            return draw(whole)

        return call


def checked(sample: GpuSample) -> None:
    for field in fields(sample):
        value = getattr(sample, field.name)
        if isinstance(value, int | float):
            assert math.isfinite(value), field.name
    assert sample.energy_joules is None or isinstance(sample.energy_joules, int | float)
    assert sample.power_watts is None or isinstance(sample.power_watts, int | float)


@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_answers_of_the_binding_are_readings_or_source_errors(data: st.DataObject) -> None:
    now = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        for module in (meter_module, nvml_codes, nvml_gpu, nvml_probe, nvml_sharing):
            if hasattr(module, "nvml"):
                patch.setattr(module, "nvml", _Binding(data))
        meter = NvmlMeter(lambda: now[0])
        books = Books()
        for second in range(4):
            now[0] = float(second)
            if attempt(meter.open) is not None:
                continue
            gpus = attempt(meter.gpus)
            if isinstance(gpus, SourceError):
                continue
            found = [attempt(lambda uuid=gpu.uuid: meter.read(uuid)) for gpu in gpus]
            samples = tuple(one for one in found if isinstance(one, GpuSample))
            for sample in samples:
                checked(sample)
            reading = AcceleratorReading(gpus, samples, ())
            books = advance(books, Tick(Instant(now[0], 1.79e9 + second), reading), Policy())
        attempt(meter.close)
    page = Renderer().render(families(Snapshot(Instant(9.0, 1.79e9), books)), Format.TEXT)
    for line in page.decode().rstrip("\n").split("\n"):
        assert line.startswith("#") or math.isfinite(float(line.rpartition(" ")[2])), line
