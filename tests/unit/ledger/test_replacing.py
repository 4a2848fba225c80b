"""The compiled ``replace`` of the ledger does what that of dataclasses does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tpw.ledger.books import Check, GpuAccount, ServerAccount
from tpw.ledger.replacing import replace
from tpw.model import Gpu


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (ServerAccount("a", up=True, models=("m",)), {"up": False, "tokens": {}}),
        (ServerAccount("a"), {}),
        (GpuAccount(Gpu("GPU-1", 0, "H100")), {"unmetered_seconds": 3.0}),
        (Check(seconds=1.0), {"distrusted": True}),
    ],
)
def test_a_copy_equals_that_of_dataclasses(record: Any, changes: dict[str, Any]) -> None:
    before = dataclasses.replace(record)

    assert replace(record, **changes) == dataclasses.replace(record, **changes)
    assert record == before


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        replace(ServerAccount("a"), colour="red")  # type: ignore[call-arg]


def test_a_class_that_needs_its_constructor_is_an_error() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Checked:
        value: int

        def __post_init__(self) -> None:
            raise AssertionError

    with pytest.raises(TypeError, match="Checked"):
        replace(Checked.__new__(Checked), value=1)
