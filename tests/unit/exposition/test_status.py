from __future__ import annotations

import json
from dataclasses import replace

import pytest

from support.snapshots import BOOT, HARDWARE_PER_SECOND, PRICE, PUE, empty_snapshot, fleet_snapshot, rich_snapshot, uuid
from tpw.exposition.families import families
from tpw.exposition.status import Status, state_now, status
from tpw.exposition.waste import Waste, WasteTrend
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Division, PostingKey, ServerAccount
from tpw.model import Attribution, Instant, Phase, PriceInterval, PriceState, ServerWorkload, State
from tpw.snapshot import Prices, Snapshot


def server(found: Status, name: str) -> dict[str, object]:
    return next(dict(entry) for entry in found["servers"] if entry["name"] == name)


def test_the_status_survives_json():
    found = status(rich_snapshot(), Waste(1.5, 60.0))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_headline_sums_the_machine():
    head = status(rich_snapshot(), Waste(1.5, 60.0))["headline"]
    assert head["tokens_per_second"] == pytest.approx(400.0)
    assert head["all_tokens_per_second"] == pytest.approx(600.0)
    assert head["power_watts"] == 612.5 + 598.0 + 118.0 + 70.5
    assert head["tokens_per_watt"] == pytest.approx(400.0 / (1210.5 + 118.0))
    assert head["wasted_gpus"] == 3
    assert head["wasted_watts"] == 118.0 + 70.5
    assert head["wasted_cost_per_hour"] == 1.5
    energy = 1210.5 * PUE / 3.6e6 * PRICE
    assert head["energy_cost_per_token"] == pytest.approx(energy / 400.0)
    assert head["cost_per_token"] == pytest.approx((energy + HARDWARE_PER_SECOND) / 400.0)


@pytest.mark.parametrize(("deployment", "expected"), [("assistant", 400.0), ("another", 800.0)])
def test_what_a_router_counts_is_in_the_headline_only_where_its_servers_are_not_read(deployment: str, expected: float):
    snapshot = rich_snapshot()
    front = replace(snapshot.books.servers["chat"], name="front", phase=Phase.ROUTER, gpus=frozenset())
    servers = {**snapshot.books.servers, "front": front}
    owners = {**snapshot.owners, "front": ServerWorkload(deployment=deployment)}
    found = status(replace(snapshot, books=replace(snapshot.books, servers=servers), owners=owners))
    assert found["headline"]["tokens_per_second"] == pytest.approx(expected)


def test_costs_of_several_models_are_weighted_by_their_tokens():
    snapshot = fleet_snapshot(8, 2)
    busier = snapshot.books.servers["server-1"]
    samples = tuple(
        replace(sample, tokens={key: 3.0 * value for key, value in sample.tokens.items()}) for sample in busier.window
    )
    servers = {**snapshot.books.servers, "server-1": replace(busier, window=samples)}
    found = status(replace(snapshot, books=replace(snapshot.books, servers=servers)))
    money = [
        model["tokens_per_second"]["output"] * model["cost_per_token"]["full"]["output"]
        for entry in found["servers"]
        for model in entry["models"]
    ]
    assert found["headline"]["cost_per_token"] == pytest.approx(sum(money) / 1600.0)


def test_a_server_that_spans_nodes_is_in_no_ratio_of_the_headline():
    snapshot = rich_snapshot()
    chat = snapshot.books.servers["chat"]
    spread = replace(chat, window=tuple(replace(sample, single_node=False) for sample in chat.window))
    head = status(replace(snapshot, books=replace(snapshot.books, servers={**snapshot.books.servers, "chat": spread})))[
        "headline"
    ]
    assert head["tokens_per_second"] == pytest.approx(400.0)
    assert head["tokens_per_watt"] != status(snapshot)["headline"]["tokens_per_watt"]
    assert head["cost_per_token"] is None


def test_pue_carbon_and_demand_are_included():
    found = status(rich_snapshot())
    assert found["pue"] == PUE
    assert found["carbon"] == {"grams_per_kwh": 388.0, "basis": "location"}
    assert found["demand"] == {"interval_watts": 4120.0, "peak_watts": 4650.5, "price_per_kw_month": 14.2}


def test_instances_of_a_gpu_have_estimated_shares():
    gpus = status(rich_snapshot())["gpus"]
    assert gpus[2]["instances"] == [
        {"uuid": "MIG-2a", "profile": "3g.40gb", "estimated_share": 0.375, "method": "gpm"},
        {"uuid": "MIG-2b", "profile": "1g.10gb", "estimated_share": 0.125, "method": "gpm"},
    ]
    assert gpus[0]["instances"] == []


def test_without_an_electricity_price_there_is_no_cost_per_token_in_status_and_metrics():
    """Hardware has a cost, energy has none that is known: the sum would be too low."""
    snapshot = rich_snapshot()
    postings = {
        key: replace(posting, cost={name: cost for name, cost in posting.cost.items() if name != "energy"})
        for key, posting in snapshot.books.postings.items()
    }
    unpriced = replace(snapshot, prices=Prices(), books=replace(snapshot.books, postings=postings))
    found = status(unpriced)
    assert all(model["cost_per_token"] == {} for entry in found["servers"] for model in entry["models"])
    assert (found["headline"]["cost_per_token"], found["headline"]["energy_cost_per_token"]) == (None, None)
    assert "tpw_cost_per_token" not in {metric.name for metric, _ in families(unpriced)}
    assert status(snapshot)["headline"]["energy_cost_per_token"]


def test_the_energy_method_of_a_distrusted_counter_is_the_one_in_use():
    snapshot = rich_snapshot()
    account = snapshot.books.gpus[uuid(0)]
    distrusted = replace(account, check=replace(account.check, distrusted=True))
    books = replace(snapshot.books, gpus={**snapshot.books.gpus, uuid(0): distrusted})
    methods = {gpu["uuid"]: gpu["energy_method"] for gpu in status(replace(snapshot, books=books))["gpus"]}
    assert (methods[uuid(0)], methods[uuid(1)]) == ("instant_power", "counter")


def test_nothing_known_is_null_not_zero():
    found = status(empty_snapshot())
    assert (found["carbon"], found["demand"], found["pue"]) == (None, None, 1.0)
    assert found["currency"] is None
    assert found["price"] is None
    assert {key: value for key, value in found["headline"].items() if value is not None} == {"wasted_gpus": 0}


def test_states_of_servers():
    found = status(rich_snapshot())
    assert [(entry["name"], entry["state"]) for entry in found["servers"]] == [
        ("chat", "active"),
        ("code", "down"),
        ("embed", "parked"),
    ]
    snapshot = rich_snapshot()
    ranks = ServerAccount("big", attribution=Attribution.CONFIGURED, gpus=frozenset({uuid(0)}), models=("m",))
    loading = replace(snapshot.books.servers["code"], name="chat", engine="", tokens={}, models=())
    books = replace(snapshot.books, servers={"big": ranks, "chat": loading}, postings={})
    found = status(replace(snapshot, books=books))
    assert [(entry["name"], entry["state"]) for entry in found["servers"]] == [("big", "unread"), ("chat", "waiting")]


def test_a_server_that_is_down_shows_no_requests():
    (model,) = server(status(rich_snapshot()), "code")["models"]  # type: ignore[misc]
    assert (model["running"], model["waiting"]) == (None, None)
    assert model["tokens"] == {"output": 250.0}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([State.ACTIVE], State.ACTIVE),
        ([State.PARKED, State.ACTIVE], State.ACTIVE),
        ([State.PARKED, State.STARTING, State.OTHER], State.STARTING),
        ([State.IDLE, State.PARKED, State.OTHER], State.OTHER),
        ([State.IDLE, State.PARKED], State.PARKED),
        ([State.IDLE], State.IDLE),
        ([], State.IDLE),
    ],
)
def test_the_state_of_a_gpu_is_that_of_its_busiest_share(states: list[State], expected: State):
    account = rich_snapshot().books.gpus[uuid(0)]
    shares = tuple((PostingKey(uuid(0), "", "", state), 1.0 / len(states)) for state in states)
    account = replace(account, division=Division(shares, None))
    assert state_now(account) is expected
    assert state_now(replace(account, up=False)) is None


def test_a_price_that_is_missing_has_a_state_and_no_number():
    missing = PriceInterval(0.0, 1.0, 0.3, PriceState.MISSING)
    for now in (None, missing):
        price = status(replace(rich_snapshot(), prices=Prices("EUR", now)))["price"]
        assert price == {"per_kwh": None, "state": "missing", "next_at": None, "next_per_kwh": None}


# --------------------------------------------------------------------------------------------------------------- waste


def at(seconds: float, wasted: float, *, currency: str = "EUR", late: float = 0.0) -> Snapshot:
    snapshot = empty_snapshot()
    postings = {
        PostingKey("g", "s", "m", State.ACTIVE): Amounts(cost={"energy": 99.0 * seconds}),
        PostingKey("g", "s", "m", State.PARKED): Amounts(
            cost={"energy": wasted / 2, "hardware": wasted}, credit=wasted / 2, late_priced_joules=late
        ),
    }
    books = replace(snapshot.books, currency=currency, postings=postings)
    return replace(snapshot, at=Instant(BOOT + seconds, 0.0), books=books)


def test_waste_is_what_parked_and_idle_time_costs_per_hour():
    trend = WasteTrend()
    assert trend.observe(at(0.0, 10.0)) is None
    found = trend.observe(at(1.0, 10.0 + 1.0 / 3600.0))
    assert found is not None
    assert found.cost_per_hour == pytest.approx(1.0)
    assert found.span_seconds == 1.0


def test_waste_is_the_rate_over_the_last_minute():
    trend = WasteTrend()
    for second in range(0, 200, 5):
        found = trend.observe(at(float(second), second * (2.0 if second < 100 else 3.0)))
    assert found is not None
    assert found.span_seconds == 60.0
    assert found.cost_per_hour == pytest.approx(3.0 * 3600.0)


def test_after_a_short_pause_the_last_record_is_used_and_after_a_long_one_the_rate_starts_again():
    trend = WasteTrend()
    trend.observe(at(0.0, 0.0))
    found = trend.observe(at(300.0, 300.0))
    assert found is not None
    assert found.span_seconds == 300.0
    assert trend.observe(at(2000.0, 2000.0)) is None


def test_without_a_currency_waste_has_no_cost():
    trend = WasteTrend()
    for second in (0.0, 5.0):
        assert trend.observe(at(second, second, currency="")) is None


def test_another_currency_or_an_older_snapshot_starts_the_rate_again():
    trend = WasteTrend()
    trend.observe(at(10.0, 1.0))
    assert trend.observe(at(20.0, 2.0, currency="USD")) is None
    assert trend.observe(at(5.0, 1.0, currency="USD")) is None


def test_late_priced_energy_is_not_in_the_rate():
    trend = WasteTrend()
    trend.observe(at(0.0, 1.0))
    assert trend.observe(at(5.0, 900.0, late=1e9)) is None
    found = trend.observe(at(10.0, 900.0 + 5.0 / 3600.0, late=1e9))
    assert found is not None
    assert found.cost_per_hour == pytest.approx(1.0)


def test_the_records_are_bounded():
    trend = WasteTrend()
    for tick in range(5000):
        trend.observe(at(tick / 10.0, 0.0))
    assert len(trend._marks) <= 32


def test_the_status_has_the_requests_within_targets_that_the_page_has():
    snapshot = rich_snapshot()
    shown = {
        (labels[0], labels[1], labels[2], labels[3]): value
        for family in families(snapshot)
        if family.metric.name == "tpw_server_slo_requests_total"
        for labels, value in family.samples
    }
    found = {
        (entry["name"], model["model"], slo, met): latency[met]  # type: ignore[literal-required]
        for entry in status(snapshot)["servers"]
        for model in entry["models"]
        for slo, latency in model["latency"].items()
        for met in ("yes", "no", "unknown")
    }
    assert found == shown != {}
