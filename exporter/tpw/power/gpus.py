"""What several accelerator meters do with GPUs and their dies."""

from __future__ import annotations

from collections.abc import Iterable

from tpw.model import Gpu


def by_index(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """GPUs in the order of :meth:`tpw.power.AcceleratorMeter.gpus`."""
    return tuple(sorted(gpus, key=lambda gpu: (gpu.index, gpu.uuid)))


def mean_ratio(percents: Iterable[float | None]) -> float | None:
    """Utilisation (0 to 1) of a GPU from that of its dies in percent. None where one is unknown."""
    values = list(percents)
    known = [min(percent, 100.0) / 100.0 for percent in values if percent is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def total(amounts: Iterable[float | None]) -> float | None:
    """Sum over the dies of a GPU. None where one is unknown."""
    values = list(amounts)
    known = [amount for amount in values if amount is not None]
    return sum(known) if known and len(known) == len(values) else None
