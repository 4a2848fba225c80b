"""Quantities that add up: what was used and paid (:class:`Amounts`), and what was served (:class:`Served`).

The fields of each are listed once, in its class. Sums, scaling, the codec of the store and the report follow that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from math import fsum
from operator import attrgetter, call
from typing import Any, ClassVar, Generic, Self, TypeVar

from tpw.model import TokenKind

JOULES_PER_KWH = 3.6e6

ENERGY = "energy"
"""The component of cost that electricity is booked under."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What the fields of one class are, and how its objects are added, scaled and summed."""

    names: tuple[str, ...]
    is_mapping: tuple[bool, ...]
    values: Callable[[Any], tuple[Any, ...]]
    add: Callable[[Any, Any], Any]
    scale: Callable[[Any, float], Any]
    exact: tuple[Callable[[Sequence[Any]], Any], ...]


class Additive:
    """Base of frozen dataclasses that have only numbers, and mappings of numbers by name, as fields."""

    __slots__ = ()
    operations: ClassVar[Operations]

    def __add__(self, other: Self) -> Self:
        total: Self = self.operations.add(self, other)
        return total

    def __mul__(self, factor: float) -> Self:
        return self if factor == 1.0 else self.operations.scale(self, factor)

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The sum, rounded once: it does not depend on the order of the parts."""
        parts = tuple(parts)
        if len(parts) <= 1:
            return parts[0] if parts else cls()
        columns = zip(*map(cls.operations.values, parts), strict=True)
        return cls(*map(call, cls.operations.exact, columns))


_Quantity = TypeVar("_Quantity", bound=Additive)


def _with_operations(kind: type[_Quantity]) -> type[_Quantity]:
    """The dataclass with its operations, made from its list of fields."""
    is_mapping = {one.name: one.default_factory is dict for one in fields(kind)}  # type: ignore[arg-type]
    added = [f"_added(a.{name}, b.{name})" if is_mapping[name] else f"a.{name} + b.{name}" for name in is_mapping]
    scaled = [f"_scaled(a.{name}, b)" if is_mapping[name] else f"a.{name} * b" for name in is_mapping]

    def compiled(arguments: list[str]) -> Any:
        # As dataclasses does for __init__: a loop over the fields takes twice the time, hundreds of times in a tick.
        return eval(f"lambda a, b: kind({', '.join(arguments)})", {**globals(), "kind": kind})  # noqa: S307

    kind.operations = Operations(
        tuple(is_mapping),
        tuple(is_mapping.values()),
        attrgetter(*is_mapping),
        compiled(added),
        compiled(scaled),
        tuple(_exact if mapping else fsum for mapping in is_mapping.values()),
    )
    return kind


def _added(first: Mapping[str, float], second: Mapping[str, float]) -> Mapping[str, float]:
    if not first or not second:
        return first or second
    result = dict(first)
    for name, amount in second.items():
        result[name] = result.get(name, 0.0) + amount
    return result


def _scaled(amounts: Mapping[str, float], factor: float) -> Mapping[str, float]:
    return {name: amount * factor for name, amount in amounts.items()}


def _exact(parts: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    names = dict.fromkeys(chain.from_iterable(parts))
    return {name: fsum([part.get(name, 0.0) for part in parts]) for name in names}


@_with_operations
@dataclass(frozen=True, slots=True)
class Amounts(Additive):
    """Time, energy, money and emissions of one key, since the books began or in one quarter-hour. Never falls."""

    seconds: float = 0.0
    """Time of the GPU."""
    joules: float = 0.0
    """Boundary gpu."""
    facility_joules: float = 0.0
    """Boundary facility."""
    unpriced_joules: float = 0.0
    """Facility joules without a known price when they were booked. In a row: those that still have none."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Money by component; ``energy`` is what positive prices charged."""
    credit: float = 0.0
    """Money that negative prices paid back."""
    emissions_grams: Mapping[str, float] = field(default_factory=dict)
    """CO2 equivalent by basis."""
    unrated_joules: float = 0.0
    """Facility joules without a known carbon intensity."""
    late_priced_joules: float = 0.0
    """Unpriced joules that were priced when their price arrived."""

    @property
    def net_cost(self) -> float:
        """All components, credit subtracted."""
        return fsum(self.cost.values()) - self.credit

    @property
    def net_energy_cost(self) -> float:
        """The energy alone, credit subtracted."""
        return self.cost.get(ENERGY, 0.0) - self.credit


@_with_operations
@dataclass(frozen=True, slots=True)
class Served(Additive):
    """What one server did with one model in one quarter-hour."""

    tokens: Mapping[TokenKind, float] = field(default_factory=dict)
    requests: float = 0.0
    work: Mapping[str, float] = field(default_factory=dict)
    """By unit."""
    reference_cost: Mapping[str, float] = field(default_factory=dict)
    """By reference."""
    running_seconds: float = 0.0
    """Seconds of all running requests together: divided by time their mean number, by requests their mean duration. Only
    in rows. 0 where the engine does not report them."""
    waiting_seconds: float = 0.0
    """The same of waiting requests."""
    missed: Mapping[str, float] = field(default_factory=dict)
    """Requests that are known to have missed a target of latency, by target. Only in rows, and where targets are set."""


NOTHING = Amounts()
NOTHING_SERVED = Served()


class Tally(Generic[_Quantity]):
    """A sum that is added up in place, for ticks and for reports of millions of rows."""

    __slots__ = ("_kind", "_sums")

    def __init__(self, kind: type[_Quantity]) -> None:
        self._kind = kind
        self._sums: list[Any] = [{} if is_mapping else 0.0 for is_mapping in kind.operations.is_mapping]

    def add(self, quantity: _Quantity, weight: float = 1.0) -> None:
        """Add a share of ``quantity``."""
        sums = self._sums
        for place, value in enumerate(self._kind.operations.values(quantity)):
            if not value:
                continue
            if isinstance(value, dict):
                by_name = sums[place]
                for name, amount in value.items():
                    by_name[name] = by_name.get(name, 0.0) + amount * weight
            else:
                sums[place] += value * weight

    def sum(self) -> _Quantity:
        """The sum. Nothing may be added afterwards: its mappings are handed over."""
        return self._kind(*self._sums)
