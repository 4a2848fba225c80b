"""The published figure nearest to a server, how its conditions differ, and the highest figure that is plausible.

A figure is near if it is of the same model on the same GPU. What is plausible is wider: see :data:`MARGIN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log, log2
from pathlib import Path
from typing import Final

MARGIN: Final = 4.0
"""The highest plausible figure is this multiple of the best published one of models at least as large.

Chosen: half the bits halve the bytes and the operations of a token (best rows of one model, Qwen3 235B on H100: 1.5 times),
and a year of software made 1.7 times (Llama 3.1 8B on H100, batch 64: ML.ENERGY, September 2024 to December 2025); both
together, and some more for drafted tokens. A server with eight GPUs that is booked on one is at eight times its figure."""
_BELOW_PEAK: Final = 2.0
"""A GPU can do so many times the operations per joule of its peak rate at its power limit, with lower clocks and voltage.
Assumed, and wide: dynamic power is proportional to clock times voltage squared."""
_NEAR_LOAD: Final = 1.5
"""Ratio of two concurrencies up to which they are alike."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where figures were published."""

    title: str
    address: str
    date: str
    licence: str


SOURCES: Final[Mapping[str, Source]] = {
    "mlenergy-v3": Source(
        "ML.ENERGY Benchmark v3.0, steady state, vLLM",
        "https://github.com/ml-energy/leaderboard",
        "2026-02-16",
        "Apache-2.0 (that of the data set)",
    ),
    "inferencex-828": Source(
        "InferenceX issue 828, vLLM, nvidia-smi and its like once a second, random prompts",
        "https://github.com/SemiAnalysisAI/InferenceX/issues/828",
        "2026-03-01",
        "figures of a public issue",
    ),
}

_GPUS: Final[Mapping[str, tuple[str, float]]] = {
    # Peak dense operations per second at the fewest bits it supports, over the power limit in watts, from
    # SemiAnalysisAI/InferenceX-app, gpu-specs.ts and GPU_TDP_MAP, 2026-04-03.
    "H100": (r"\bH100\b(?!.*(PCIE|NVL))", 1979e12 / 700.0),
    "H200": (r"\bH200\b(?!.*NVL)", 1979e12 / 700.0),
    "B200": (r"\bB200\b", 9000e12 / 1000.0),
    "B300": (r"\bB300\b", 13500e12 / 1200.0),
    "GB200": (r"\bGB200\b", 10000e12 / 1200.0),
    "GB300": (r"\bGB300\b", 15000e12 / 1400.0),
    "MI300X": (r"\bMI300X\b", 2615e12 / 750.0),
    "MI325X": (r"\bMI325X\b", 2615e12 / 1000.0),
    "MI355X": (r"\bMI355X\b", 10066e12 / 1400.0),
}
"""GPU -> pattern of its name as drivers report it, and operations per joule."""
_NO_BETTER: Final = frozenset({"H100", "H200", "MI300X", "MI325X"})
"""GPUs that cannot do better than the best GPU with figures, where they have none of their own."""

_OTHER_MODELS = re.compile(r"embed|rerank|distill|draft|speculator|eagle|guard|reward")
_VARIANT = re.compile(r"(instruct|thinking|chat|it|fp8|bf16|\d{4}|\d+e|a\d+b|v2)\Z")
_PRECISIONS = (
    ("fp8", re.compile(r"fp8|w8a8|int8")),
    ("4 bits", re.compile(r"fp4|awq|gptq|int4|w4a16|(?<![a-z])i?q4")),
    ("bfloat16", re.compile(r"bf16|fp16|(?<![a-z])f16")),
)
_PARAMETERS = re.compile(r"(?<![a-z\d.])(\d+(?:\.\d+)?)b(?![a-z])(?:-a(\d+(?:\.\d+)?)b)?")


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure. None: not published."""

    model: str
    active_billions: float
    gpu: str
    gpus: int | None
    precision: str
    task: str
    input_tokens: int | None
    output_tokens: int | None
    concurrency: float | None
    joules_per_output_token: float
    source: str

    @property
    def tokens_per_joule(self) -> float:
        """Output tokens per joule, which is tokens per second per watt."""
        return 1.0 / self.joules_per_output_token


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is published about a server."""

    nearest: Figure | None
    differences: tuple[str, ...]
    """Between the conditions of the nearest figure and those of the server, as phrases."""
    reason: str
    """Why no figure is near; "" if one is."""
    highest_tokens_per_joule: float | None
    """No server of this model on this GPU can do better. None where that is not known."""


def compare(model: str, gpu_name: str, gpus: int, concurrency: float | None) -> Comparison:
    """What is published about a model on some GPUs of one kind.

    Args:
        model: its name, as the engine reports it.
        gpu_name: as the driver reports it.
        gpus: how many of them.
        concurrency: requests in flight; None if unknown.
    """
    # Powers of two, so that the cache has few entries while the load moves.
    bucket = None if concurrency is None or concurrency < 1.0 else 2 ** round(log2(concurrency))
    return _compare(model, gpu_name, gpus, bucket)


@lru_cache(256)
def _compare(model: str, gpu_name: str, gpus: int, concurrency: int | None) -> Comparison:
    gpu = _gpu(gpu_name)
    rows = _rows(model)
    here = [row for row in rows if row.gpu == gpu]
    highest = _highest(model, gpu, rows)
    if not here:
        others = ", ".join(sorted({row.gpu for row in rows}))
        reason = f"only on {others}" if rows else "no figure of this model is known"
        return Comparison(None, (), reason, highest)
    precision = _precision(model)

    def distance(row: Figure) -> tuple[bool, float, float, bool]:
        load = 0.0 if concurrency is None or row.concurrency is None else abs(log(row.concurrency / concurrency))
        unlike = precision is not None and precision != _kind(row.precision)
        # Of figures without a concurrency, only where there is no other.
        return unlike, load + 10.0 * (row.concurrency is None), abs((row.gpus or gpus) - gpus), row.task != "chat"

    nearest = min(here, key=distance)
    return Comparison(nearest, _differences(nearest, precision, gpus, concurrency), "", highest)


def _differences(row: Figure, precision: str | None, gpus: int, concurrency: int | None) -> tuple[str, ...]:
    found = []
    if row.gpus is not None and row.gpus != gpus:
        found.append(f"on {row.gpus} GPUs, here {gpus}")
    if precision != _kind(row.precision):
        found.append(f"{row.precision}, here {precision or 'unknown'}")
    if row.concurrency is None or concurrency is None:
        found.append("another number of requests in flight, perhaps")
    elif abs(log(row.concurrency / concurrency)) > log(_NEAR_LOAD):
        found.append(f"{row.concurrency:.3g} requests in flight, here about {concurrency}")
    return (*found, "at steady load, without parked time")


def _highest(model: str, gpu: str, rows: Sequence[Figure]) -> float | None:
    """The lower one of what published figures and the rate of the GPU allow."""
    billions = rows[0].active_billions if rows else _active_billions(model)
    if not billions:
        return None
    best = _best(billions, gpu) if rows else None
    allowed = [] if best is None else [MARGIN * best]
    if gpu in _GPUS:
        # A token takes two operations of each active parameter at least.
        allowed.append(_BELOW_PEAK * _GPUS[gpu][1] / (2e9 * billions))
    return min(allowed, default=None)


@lru_cache(128)
def _best(billions: float, gpu: str) -> float | None:
    """The best figure of models with at least so many active parameters: that of one model may be of a task that is hard
    for it, and no model does better than a smaller one could."""
    larger = [row for row in figures() if row.active_billions >= billions]
    # Figures without a concurrency are single points, not the best of a sweep.
    swept = [row for row in larger if row.gpu == gpu and row.concurrency is not None]
    comparable = swept or (larger if gpu in _NO_BETTER else [])
    return max((row.tokens_per_joule for row in comparable), default=None)


def _gpu(name: str) -> str:
    return next((gpu for gpu, (pattern, _) in _GPUS.items() if re.search(pattern, name.upper())), "")


def _precision(model: str) -> str | None:
    return next((name for name, pattern in _PRECISIONS if pattern.search(model.lower())), None)


def _kind(precision: str) -> str:
    return "4 bits" if precision.endswith("fp4") else precision


def _active_billions(model: str) -> float | None:
    """From names such as llama-70b and qwen3-30b-a3b."""
    found = _PARAMETERS.search(model.lower())
    return None if found is None else float(found[2] or found[1])


def key_of(model: str) -> str:
    """The name of a published model without its variant: letters and digits only."""
    parts = model.lower().split("-")
    while len(parts) > 1 and _VARIANT.fullmatch(parts[-1]):
        parts.pop()
    return "".join(character for character in "-".join(parts) if character.isalnum())


def _rows(model: str) -> tuple[Figure, ...]:
    """The figures of a model, by the longest published name that its own name contains."""
    name = model.lower().rpartition("/")[2]
    if _OTHER_MODELS.search(name):
        return ()
    plain = "".join(character for character in name if character.isalnum())
    return _rows_of(max((key for key in _keys() if key in plain), key=len, default=""))


@lru_cache(1)
def _keys() -> frozenset[str]:
    return frozenset(key_of(row.model) for row in figures())


@lru_cache(32)
def _rows_of(key: str) -> tuple[Figure, ...]:
    return tuple(row for row in figures() if key and key_of(row.model) == key)


def figures() -> list[Figure]:
    """All of them. Read at each call: what is kept is what was found in them."""
    text = Path(__file__).with_name("figures.csv").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [_figure(line.split(",")) for line in lines[1:]]


def _figure(cells: list[str]) -> Figure:
    model, billions, gpu, gpus, precision, task, given, made, concurrency, joules, source = cells
    return Figure(
        model,
        float(billions),
        gpu,
        int(gpus) if gpus else None,
        precision,
        task,
        int(given) if given else None,
        int(made) if made else None,
        float(concurrency) if concurrency else None,
        float(joules),
        source,
    )
