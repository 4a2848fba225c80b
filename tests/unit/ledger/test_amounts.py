"""Amounts and what was served follow their list of fields: adding, scaling, the exact total, the codec."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from tpw.ledger.amounts import Additive, Amounts, Served, Tally
from tpw.store import codec

FULL = Amounts(**{one.name: {"a": 2.0, "b": 3.0} if one.default_factory is dict else 2.0 for one in fields(Amounts)})
SERVED = Served({"output": 2.0}, 2.0, {"images": 2.0}, {"api": 2.0}, 2.0, 2.0, {"ttft": 2.0})


@pytest.mark.parametrize("quantity", [FULL, SERVED], ids=["amounts", "served"])
def test_every_field_is_added_scaled_and_stored(quantity: Amounts | Served):
    nothing = type(quantity)()

    assert quantity + nothing == nothing + quantity == quantity
    assert quantity + quantity == quantity * 2.0 == type(quantity).total([quantity, quantity])
    assert quantity * 0.5 + quantity * 0.5 == quantity
    assert all(value != getattr(nothing, name) for name, value in asdict(quantity).items()), "every field is covered"
    load = codec.load_amounts if isinstance(quantity, Amounts) else codec.load_served
    assert load(codec.dump_quantity(quantity)) == quantity


def test_adding_changes_neither_side():
    before = asdict(FULL)

    FULL + FULL * 0.5

    assert asdict(FULL) == before


def test_mappings_are_added_by_name():
    total = Amounts(cost={"energy": 1.0, "hardware": 2.0}) + Amounts(cost={"energy": 0.5, "demand": 4.0})

    assert total.cost == {"energy": 1.5, "hardware": 2.0, "demand": 4.0}


def test_a_total_does_not_depend_on_the_order_of_its_parts():
    parts = [Amounts(joules=joules, cost={"energy": joules}) for joules in (1e16, 1.0, -1e16, 1.0)]

    assert Amounts.total(parts) == Amounts.total(reversed(parts)) == Amounts(joules=2.0, cost={"energy": 2.0})
    assert Amounts.total([]) == Amounts()


def test_a_tally_is_the_sum_of_what_was_added_each_by_its_weight():
    tally = Tally(Amounts)
    tally.add(FULL)
    tally.add(FULL, 0.25)

    assert tally.sum() == FULL * 1.25


def test_net_costs_subtract_the_credit():
    amounts = Amounts(cost={"energy": 3.0, "hardware": 1.0}, credit=0.5)

    assert (amounts.net_cost, amounts.net_energy_cost) == (3.5, 2.5)


def test_unknown_fields_of_a_newer_version_are_ignored():
    assert codec.load_amounts('{"joules": 5.0, "unheard_of": 1}') == Amounts(joules=5.0)


def test_only_amounts_of_one_kind_are_added():
    def add(first: Additive, second: Additive) -> Additive:
        return first + second

    with pytest.raises(AttributeError):
        add(FULL, SERVED)
