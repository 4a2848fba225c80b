"""How much of a server's active energy was prefill, and how much was decode.

Nothing measures it: both run on the same GPU, mostly in the same step of the engine. So it is estimated from minutes of
work that differ in their mix: the joules of a minute are taken as ``a * input + b * output + c * steps`` (least squares
over the last hours). The first term is prefill, and the rest of the joules is decode: reading the weights costs a step the
same for one request as for thirty. A step makes one token for each running request.

There is no estimate where the minutes do not show one: where every minute has the same mix, where the terms explain the
joules badly (a prefill that takes longer than a minute is counted when it ends), or where the stated error would be more
than :data:`LARGEST_ERROR`. Energy of that time is in neither phase.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import hypot, sqrt
from typing import NamedTuple

from tpw.ledger.replacing import replace
from tpw.model import Phase

METHOD = "regression"

BLOCK_SECONDS = 60.0
"""Active time of one observation. Tuning: far above a prefill and the delay between energy and tokens."""
FEWEST_BLOCKS = 15.0
DECAY = 0.99
"""Weight of a block relative to the next one: about the last 100 count."""

LARGEST_ERROR = 0.15
_FORM = 0.06
"""Error of the form of the model: context makes decoding slower, steps are counted from samples of running requests."""
_BIAS = 1.2
"""Part of the residual that can be a bias: work of one block, with its tokens counted in the next. Both were chosen so that
the stated error holds for 95 of 100 simulated servers; others check it (tests/scenarios/test_phases.py)."""

_IN, _OUT, _STEPS, _JOULES, _ONE = range(5)
_PAIRS = tuple((i, j) for i in range(5) for j in range(i, 5))
_PLACE = {pair: place for place, pair in enumerate(_PAIRS)}
_NO_MOMENTS = (0.0,) * len(_PAIRS)


class Observed(NamedTuple):
    """What a server has done up to a tick. All but ``running`` and ``seconds`` are counters."""

    model: str
    joules: float
    """Active energy."""
    input_tokens: float
    output_tokens: float
    running: float | None
    """Requests; None where the engine does not report them."""
    seconds: float
    """Active time since the tick before."""


class Block(NamedTuple):
    """The observation in progress: where its counters began, and what is added up."""

    start: Observed
    last: Observed
    seconds: float = 0.0
    steps: float = 0.0


@dataclass(frozen=True, slots=True)
class PhaseWeights:
    """What a token costs, as estimated over the last blocks."""

    input_joules: float
    """GPU joules per computed prompt token."""
    output_joules: float
    """GPU joules per output token."""
    error_ratio: float
    """Stated 95 % bound of the error of a phase's energy, as a part of the energy of both."""


@dataclass(frozen=True, slots=True)
class Phases:
    """The phases of one server. ``block`` starts empty with the process; ``weights`` follow from ``moments``."""

    model: str = ""
    joules: Mapping[tuple[str, Phase], float] = field(default_factory=dict)
    """By model and phase, since the books began. Never falls."""
    moments: tuple[float, ...] = _NO_MOMENTS
    """Weighted sums of the products of (input, output, steps, joules, 1) of two blocks' values, for each pair."""
    block: Block | None = None
    weights: PhaseWeights | None = None


def phase_weights(phases: Phases | None) -> PhaseWeights | None:
    """What an input and an output token cost; None while that is not known."""
    return None if phases is None else phases.weights


def observe(phases: Phases | None, now: Observed | None) -> Phases | None:
    """The phases after one tick.

    Args:
        phases: before; None before the first observation.
        now: the server at this tick; None where its energy or its tokens are not known, which ends the block.
    """
    if now is None:
        return phases if phases is None or phases.block is None else replace(phases, block=None)
    phases = Phases() if phases is None else phases
    if now.model != phases.model:
        return Phases(now.model, phases.joules, block=Block(now, now))
    block = phases.block
    if block is None or now.joules < block.last.joules:
        return replace(phases, block=Block(now, now))
    block = _grown(block, now)
    if block.seconds < BLOCK_SECONDS:
        return replace(phases, block=block)
    values = (
        now.input_tokens - block.start.input_tokens,
        now.output_tokens - block.start.output_tokens,
        block.steps,
        now.joules - block.start.joules,
        1.0,
    )
    moments = tuple(
        DECAY * before + values[i] * values[j] for before, (i, j) in zip(phases.moments, _PAIRS, strict=True)
    )
    weights = estimated(moments)
    joules = phases.joules
    if weights is not None:
        # By what was known before; a new counter begins at 0.
        used = values[_JOULES] if phases.weights is not None else 0.0
        prefill = min(used, phases.weights.input_joules * values[_IN]) if phases.weights is not None else 0.0
        joules = {
            **joules,
            (now.model, Phase.PREFILL): joules.get((now.model, Phase.PREFILL), 0.0) + prefill,
            (now.model, Phase.DECODE): joules.get((now.model, Phase.DECODE), 0.0) + used - prefill,
        }
    return Phases(now.model, joules, moments, Block(now, now), weights)


def _grown(block: Block, now: Observed) -> Block:
    running = 0.5 * ((now.running or 0.0) + (block.last.running or 0.0))
    steps = (now.output_tokens - block.last.output_tokens) / max(1.0, running)
    return Block(block.start, now, block.seconds + now.seconds, block.steps + steps)


def pooled(parts: Sequence[Phases]) -> Phases | None:
    """The phases of several replicas as those of one server: energies add up, and the blocks of all of them are estimated
    together where they serve the same model."""
    if not parts:
        return None
    joules: dict[tuple[str, Phase], float] = {}
    for part in parts:
        for key, used in part.joules.items():
            joules[key] = joules.get(key, 0.0) + used
    model = parts[0].model
    if any(part.model != model for part in parts):
        return Phases("", joules)
    moments = tuple(map(sum, zip(*(part.moments for part in parts), strict=True)))
    return Phases(model, joules, moments, weights=estimated(moments))


@lru_cache(maxsize=64)
def estimated(moments: tuple[float, ...]) -> PhaseWeights | None:
    """The estimate from the moments of the blocks; None where they do not show one."""
    sums = [moments[_PLACE[place, _ONE]] for place in range(5)]
    count, joules = sums[_ONE], sums[_JOULES]
    if count < FEWEST_BLOCKS or sums[_OUT] <= 0.0 or joules <= 0.0:
        return None
    prompts = (_IN,) if sums[_IN] > 0.0 else ()
    # One request at a time: a step is a token.
    fit = _fitted(moments, (*prompts, _OUT, _STEPS)) or _fitted(moments, (*prompts, _OUT))
    if fit is None:
        return None
    sigma = sqrt(fit.squares / (count - 3.0))
    residual = sigma * count / joules
    part = sums[_IN] / joules
    chance = 1.96 * sigma * sqrt(fit.first_inverse) * part if prompts else 0.0
    error = hypot(chance, _FORM) + _BIAS * residual
    if error > LARGEST_ERROR:
        return None
    input_joules = min(max(0.0, fit.first), 1.0 / part) if prompts else 0.0
    return PhaseWeights(input_joules, (joules - input_joules * sums[_IN]) / sums[_OUT], error)


@dataclass(frozen=True, slots=True)
class _Fit:
    first: float
    """Coefficient of the first term."""
    first_inverse: float
    """Of the inverse matrix, the element of the first term."""
    squares: float
    """Weighted sum of the squares of the residuals."""


def _fitted(moments: Sequence[float], terms: tuple[int, ...]) -> _Fit | None:
    """Least squares with some of the terms; None where they cannot be separated."""
    scales = [sqrt(moments[_PLACE[term, term]]) for term in terms]
    if not all(scales):
        return None
    matrix = [
        [moments[_PLACE[min(a, b), max(a, b)]] / (scales[i] * scales[j]) for j, b in enumerate(terms)]
        for i, a in enumerate(terms)
    ]
    right = [moments[_PLACE[term, _JOULES]] / scale for term, scale in zip(terms, scales, strict=True)]
    solved = _solved(matrix, right, [1.0] + [0.0] * (len(terms) - 1))
    if solved is None:
        return None
    scaled, inverse = solved
    explained = sum(a * b for a, b in zip(scaled, right, strict=True))
    squares = max(0.0, moments[_PLACE[_JOULES, _JOULES]] - explained)
    return _Fit(scaled[0] / scales[0], inverse[0] / scales[0] ** 2, squares)


_SINGULAR = 1e-6
"""Of a matrix of correlations: terms that are so near to being in proportion cannot be separated."""


def _solved(matrix: Sequence[Sequence[float]], *rights: Sequence[float]) -> list[list[float]] | None:
    """The solution for each right side, by elimination; None for a singular matrix. It is symmetric and not negative, so
    no row has to be exchanged."""
    size = len(matrix)
    rows = [[*row, *(right[i] for right in rights)] for i, row in enumerate(matrix)]
    for i, row in enumerate(rows):
        if row[i] < _SINGULAR:
            return None
        for other in rows:
            if other is not row:
                factor = other[i] / row[i]
                other[:] = [a - factor * b for a, b in zip(other, row, strict=True)]
    return [[row[size + k] / row[i] for i, row in enumerate(rows)] for k in range(len(rights))]
