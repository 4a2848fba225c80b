"""Periods to date and budgets on the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.snapshots import EPOCH, periods_to_date, posting, rich_snapshot
from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.exposition.families import Sample, families
from tpw.ledger.books import ROW_SECONDS, PostingKey
from tpw.ledger.periods import Periods
from tpw.ledger.retirement import FORGOTTEN, Retired
from tpw.model import Budget, ServerWorkload, State, replica_name
from tpw.snapshot import Snapshot


def samples(snapshot: Snapshot) -> dict[str, list[Sample]]:
    return {family.metric.name: family.samples for family in families(snapshot)}


def of_month(found: list[Sample], label: int = 1) -> dict[str, float]:
    """Sums of the month by one label."""
    sums: dict[str, float] = {}
    for labels, value in found:
        if labels[0] == "month":
            sums[labels[label]] = sums.get(labels[label], 0.0) + value
    return sums


def with_row(snapshot: Snapshot, server: str) -> Snapshot:
    """With an hour of a server in a row that is still in memory."""
    row = {PostingKey("GPU-x", server, "m", State.ACTIVE): posting(3600.0, 1000.0)}
    return replace(snapshot, books=replace(snapshot.books, rows={EPOCH + ROW_SECONDS: row}))


def test_rows_in_memory_are_part_of_the_periods() -> None:
    snapshot = rich_snapshot()
    before = of_month(samples(snapshot)["tpw_period_energy_joules"])
    after = of_month(samples(with_row(snapshot, "chat"))["tpw_period_energy_joules"])
    assert after["chat"] - before["chat"] == pytest.approx(3.6e6)
    assert after["(idle)"] == before["(idle)"]


def test_replicas_are_the_server_that_they_are() -> None:
    snapshot = rich_snapshot()
    before = of_month(samples(snapshot)["tpw_period_energy_joules"])
    after = of_month(samples(with_row(snapshot, replica_name("chat", 2)))["tpw_period_energy_joules"])
    assert after == {**before, "chat": pytest.approx(before["chat"] + 3.6e6)}


def test_energy_is_net_of_what_negative_prices_paid_back() -> None:
    snapshot = rich_snapshot()
    cost = of_month(samples(snapshot)["tpw_period_cost"], label=3)
    amounts = periods_to_date().periods["month"].used.values()
    assert cost["energy"] == pytest.approx(sum(one.cost["energy"] - one.credit for one in amounts))
    assert sum(cost.values()) == pytest.approx(sum(one.net_cost for one in amounts))


@pytest.mark.parametrize("server", ["gone", FORGOTTEN])
def test_servers_without_series_of_their_own_are_one_series(server: str) -> None:
    snapshot = with_row(replace(rich_snapshot(), retired=Retired(frozenset({"gone"}))), server)
    found = of_month(samples(snapshot)["tpw_period_energy_joules"])
    assert found["(retired)"] == pytest.approx(3.6e6)
    assert server not in found


def test_without_a_currency_there_is_energy_and_no_cost() -> None:
    snapshot = rich_snapshot()
    found = samples(replace(snapshot, books=replace(snapshot.books, currency="")))
    assert "tpw_period_energy_joules" in found
    assert not {"tpw_period_cost", "tpw_period_cost_forecast", "tpw_budget_amount"} & found.keys()


def test_a_forecast_is_the_pace_of_the_recent_days_for_the_rest_of_the_month() -> None:
    """All in 74 hours, of which two are of this month: 31 days less those two hours are left."""
    found = samples(rich_snapshot())
    booked = of_month(found["tpw_period_facility_energy_joules"])["chat"]
    hourly = booked / 2.0
    expected = booked + hourly * (31 * 24 - 2)
    assert of_month(found["tpw_period_facility_energy_forecast_joules"])["chat"] == pytest.approx(expected)
    cost = of_month(found["tpw_period_cost"])["chat"]
    assert of_month(found["tpw_period_cost_forecast"])["chat"] == pytest.approx(cost / 2.0 * 31 * 24)


def lacking_prices(share: float) -> Periods:
    periods = periods_to_date()
    used = {
        key: replace(amounts, unpriced_joules=share * amounts.facility_joules)
        for key, amounts in periods.recent.used.items()
    }
    return replace(periods, recent=replace(periods.recent, used=used))


def test_no_cost_is_forecast_while_much_of_the_energy_has_no_price() -> None:
    snapshot = rich_snapshot()
    assert "tpw_period_cost_forecast" in samples(replace(snapshot, periods=lacking_prices(0.04)))
    found = samples(replace(snapshot, periods=lacking_prices(0.06)))
    assert "tpw_period_cost_forecast" not in found
    assert "tpw_budget_projected" not in found
    assert {"tpw_period_facility_energy_forecast_joules", "tpw_budget_spent"} <= found.keys()


def test_energy_of_before_a_tariff_counts_as_without_a_price() -> None:
    snapshot, periods = rich_snapshot(), periods_to_date()
    facility = sum(one.facility_joules for one in periods.recent.used.values())
    late = replace(periods, recent=replace(periods.recent, untariffed_joules=0.5 * facility))
    assert "tpw_period_cost_forecast" not in samples(replace(snapshot, periods=late))


def spent(budget: Budget, snapshot: Snapshot) -> float:
    found = samples(replace(snapshot, budgets=(budget,)))["tpw_budget_spent"]
    assert [labels for labels, _ in found] == [(budget.name, budget.period, "EUR")]
    return found[0][1]


def test_a_budget_is_of_everything_of_a_server_or_of_a_namespace() -> None:
    snapshot = with_row(rich_snapshot(), "ml/gone")
    by_server = of_month(samples(snapshot)["tpw_period_cost"])
    assert spent(Budget("b", 1.0, "month"), snapshot) == pytest.approx(sum(by_server.values()))
    assert spent(Budget("b", 1.0, "month", server="chat"), snapshot) == pytest.approx(by_server["chat"])
    owned = replace(snapshot, owners={"chat": ServerWorkload("chat", "deployment", "ml")})
    assert spent(Budget("b", 1.0, "month", namespace="ml"), owned) == pytest.approx(
        by_server["chat"] + by_server["ml/gone"]
    )
    assert spent(Budget("b", 1.0, "month", server="unknown"), snapshot) == 0.0


def test_what_a_budget_comes_to_is_the_forecast_of_its_period() -> None:
    snapshot = replace(rich_snapshot(), budgets=(Budget("b", 1.0, "month"), Budget("week", 1.0, "week", server="chat")))
    found = samples(snapshot)
    projected = {labels[0]: value for labels, value in found["tpw_budget_projected"]}
    assert projected["b"] == pytest.approx(sum(of_month(found["tpw_period_cost_forecast"]).values()))
    weekly = sum(value for labels, value in found["tpw_period_cost"] if labels[:2] == ("week", "chat"))
    assert projected["week"] == pytest.approx(weekly / 74.0 * 168.0)


BUDGETS = """
tariff: {currency: EUR}
budgets:
"""


def test_budgets_are_read() -> None:
    config = load(BUDGETS + " - {name: all, amount: 900}\n - {name: ml, amount: 30, period: day, namespace: ml}")
    assert [one.budget() for one in config.budgets] == [
        Budget("all", 900.0, "month"),
        Budget("ml", 30.0, "day", namespace="ml"),
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (BUDGETS + " - {name: a, amount: 1, server: x, namespace: y}", "budgets[0]"),
        (BUDGETS + " - {name: a, amount: 1}\n - {name: a, amount: 2}", "budgets[1].name"),
        (BUDGETS + " - {name: a, amount: 0}", "budgets[0].amount"),
        ("budgets: [{name: a, amount: 1}]", "budgets"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert [problem.path for problem in caught.value.problems] == [path]
