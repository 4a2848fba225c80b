"""The account of a run is the rise of the status between two readings."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.snapshots import rich_snapshot
from tpw.exposition.status import Status, status
from tpw.measuring.account import BackwardsError, account

SECONDS = 20.0


def pair() -> tuple[Status, Any]:
    """Two equal readings, the second ``SECONDS`` later, to be changed by the test."""
    before = status(rich_snapshot())
    after: Any = copy.deepcopy(before)
    after["at"] += SECONDS
    return before, after


def chat(status_: Any) -> Any:
    return next(server for server in status_["servers"] if server["name"] == "chat")


def rise(after: Any, *, output: float = 0.0, joules: float = 0.0, cost: dict[str, float] | None = None) -> None:
    """The server and its first GPU gain so much, active."""
    model = chat(after)["models"][0]
    model["tokens"]["output"] = model["tokens"].get("output", 0.0) + output
    for states in (model["states"], after["gpus"][0]["states"]):
        states["active"]["joules"] += joules
        states["active"]["facility_joules"] += 1.5 * joules
        for component, money in (cost or {}).items():
            states["active"]["cost"][component] = states["active"]["cost"].get(component, 0.0) + money


def test_totals_are_rises_and_ratios_are_made_of_them():
    before, after = pair()
    rise(after, output=600.0, joules=3000.0, cost={"energy": 0.25, "hardware": 0.5})
    run = account(before, after)
    model = next(server for server in run["servers"] if server["name"] == "chat")["models"][0]
    assert run["seconds"] == SECONDS
    assert model["tokens"]["output"] == 600.0
    assert model["joules"]["active"] == pytest.approx(3000.0)
    assert model["facility_joules"] == pytest.approx(4500.0)
    assert model["tokens_per_second"]["output"] == pytest.approx(30.0)
    assert model["tokens_per_watt"]["output"] == pytest.approx(0.2)
    assert model["cost"] == {"energy": pytest.approx(0.25), "full": pytest.approx(0.75)}
    assert model["cost_per_token"]["full"]["output"] == pytest.approx(0.75 / 600.0)
    assert run["gpus"][0]["total_joules"] == pytest.approx(3000.0)
    assert run["coverage"] == {"metered": 1.0, "attributed": pytest.approx(1.0)}


def test_the_joules_have_their_own_begin_and_end():
    before, after = pair()
    for status_, at in ((before, 100.0), (after, 119.5)):
        for gpu in status_["gpus"]:
            gpu["energy_at"] = at if gpu["index"] in chat(after)["gpus"] else None
    run = account(before, after)
    assert (run["energy_begin"], run["energy_end"]) == (100.0, 119.5)


def test_nothing_that_a_negative_price_paid_back_is_charged():
    before, after = pair()
    rise(after, output=1.0, joules=1.0, cost={"energy": 0.25})
    chat(after)["models"][0]["states"]["active"]["credit"] += 0.4
    assert account(before, after, "chat")["servers"][0]["models"][0]["cost"]["energy"] == pytest.approx(-0.15)


def test_while_some_energy_has_no_price_there_is_no_cost():
    before, after = pair()
    rise(after, output=1.0, joules=1000.0, cost={"hardware": 0.5})
    chat(after)["models"][0]["states"]["active"]["unpriced_joules"] += 1500.0
    model = account(before, after, "chat")["servers"][0]["models"][0]
    assert model["cost"] == {}
    assert model["cost_per_token"] == {}
    assert model["tokens_per_watt"]["output"] == pytest.approx(0.001)


def test_books_that_began_anew_are_no_account():
    before, after = pair()
    rise(after, output=-1.0)
    with pytest.raises(BackwardsError, match="tokens"):
        account(before, after)


def test_without_a_new_snapshot_there_is_no_account():
    before, _ = pair()
    with pytest.raises(BackwardsError):
        account(before, before)


def test_one_server_is_accounted_with_its_own_gpus_only():
    before, after = pair()
    run = account(before, after, "chat")
    assert [server["name"] for server in run["servers"]] == ["chat"]
    assert [gpu["index"] for gpu in run["gpus"]] == chat(after)["gpus"]


def test_a_server_with_unmetered_gpus_has_totals_and_no_ratios():
    before, after = pair()
    rise(after, output=600.0, joules=3000.0, cost={"energy": 0.25, "hardware": 0.5})
    after["gpus"][0]["unmetered_seconds"] += 2.0
    run = account(before, after, "chat")
    model = run["servers"][0]["models"][0]
    assert (model["tokens"]["output"], model["tokens_per_watt"], model["cost_per_token"]) == (600.0, {}, {})
    count = len(run["gpus"])
    assert run["coverage"]["metered"] == pytest.approx(1.0 - 2.0 / (SECONDS * count))
    assert any("GPU 0" in problem for problem in run["problems"])


def test_a_server_that_spans_nodes_has_no_ratios():
    before, after = pair()
    rise(after, output=600.0, joules=3000.0)
    chat(after)["spans_nodes"] = True
    model = account(before, after, "chat")["servers"][0]["models"][0]
    assert model["tokens_per_watt"] == {}


def test_the_stated_error_is_of_independent_meters_and_of_the_shares():
    before, after = pair()
    for index, gpu in enumerate(after["gpus"]):
        owner = index in chat(after)["gpus"]
        gpu.update(power_watts=400.0, energy_error_ratio=0.1, shares={"chat": 0.5} if owner else {})
        gpu["share_error_ratios"] = {"chat": 0.02} if owner else {}
    count = len(chat(after)["gpus"])
    error = account(before, after, "chat")["servers"][0]["error_ratio"]
    # Of each GPU 10 % of the server's 200 W, and 2 % of all 400 W.
    assert error == pytest.approx((20.0**2 + 8.0**2) ** 0.5 * count**0.5 / (200.0 * count))


def test_an_unknown_error_of_one_gpu_makes_the_error_unknown():
    before, after = pair()
    after["gpus"][0]["energy_error_ratio"] = None
    assert account(before, after, "chat")["servers"][0]["error_ratio"] is None


def test_reads_that_failed_during_the_run_are_reported():
    before, after = pair()
    after["sources"][0]["failures"] = {**after["sources"][0]["failures"], "timeout": 7}
    name = after["sources"][0]["name"]
    assert any(name in problem and "7" in problem for problem in account(before, after)["problems"])


def test_latency_is_the_share_of_requests_within_the_target_as_bounds():
    before, after = pair()
    first = {"target_seconds": 2.0, "yes": 10.0, "no": 5.0, "unknown": 1.0, "total_seconds": 40.0}
    chat(before)["models"][0]["latency"] = {"ttft": first}
    last = {"target_seconds": 2.0, "yes": 16.0, "no": 6.0, "unknown": 4.0, "total_seconds": 55.0}
    chat(after)["models"][0]["latency"] = {"ttft": last, "all": {**last, "total_seconds": None, "yes": 0.0}}
    found = account(before, after, "chat")["servers"][0]["models"][0]["latency"]
    assert found["ttft"] == {
        "target_seconds": 2.0, "requests": 10.0, "within_at_least": 0.6, "within_at_most": 0.9, "mean_seconds": 1.5,
    }  # fmt: skip
    assert found["all"]["mean_seconds"] is None
