from __future__ import annotations

from dataclasses import replace
from functools import reduce
from math import inf, nan
from operator import add

import pytest

from support.snapshots import EPOCH, empty_snapshot, fleet_snapshot, posting, rich_snapshot, uuid
from tpw.exposition.catalogue import CATALOGUE, Kind
from tpw.exposition.families import DROPPED, Drops, ExpositionError, Sheet, families
from tpw.exposition.reference import sections
from tpw.exposition.render import Format, Page
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import Check, PostingKey, ServerAccount
from tpw.model import (
    Attribution,
    Cadence,
    Phase,
    PriceInterval,
    PriceState,
    ServerWorkload,
    SourceStatus,
    State,
    TokenKind,
)
from tpw.snapshot import Prices, Snapshot

STATES = [state for state in State if state is not State.PLANNED_OFF]
"""Of a node without planned pauses."""


def series(snapshot: Snapshot) -> dict[str, dict[tuple[str, ...], float]]:
    return {family.metric.name: dict(family.samples) for family in families(snapshot)}


def with_books(snapshot: Snapshot, **changes: object) -> Snapshot:
    return replace(snapshot, books=replace(snapshot.books, **changes))


# -------------------------------------------------------------------------------------------------------- validation


def test_a_name_outside_the_catalogue_is_rejected():
    sheet = Sheet()
    sheet["tpw_invented"].append(((), 1.0))
    with pytest.raises(ExpositionError, match="tpw_invented is not in the catalogue"):
        sheet.families()


def test_a_missing_label_is_rejected():
    sheet = Sheet()
    sheet["tpw_gpu_up"].append((("0",), 1.0))
    with pytest.raises(ExpositionError, match="1 label values"):
        sheet.families()


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_value_that_is_not_finite_is_rejected(value: float):
    sheet = Sheet()
    sheet["tpw_poll_lag_seconds"].append(((), value))
    with pytest.raises(ExpositionError, match="tpw_poll_lag_seconds is"):
        sheet.families()


def test_two_samples_of_one_series_are_rejected():
    sheet = Sheet()
    sheet["tpw_polls_total"].extend([((), 1.0), ((), 2.0)])
    with pytest.raises(ExpositionError, match="same labels"):
        sheet.families()


def test_in_production_invalid_samples_are_dropped_and_counted_and_the_others_stay():
    sheet = Sheet()
    sheet["tpw_invented"].append(((), 1.0))
    sheet["tpw_gpu_up"].extend([(("0",), 1.0), (("0", "GPU-a"), 1.0)])
    sheet["tpw_poll_lag_seconds"].append(((), nan))
    drops = Drops()
    kept = {family.metric.name: family.samples for family in sheet.families(drops)}
    assert kept == {"tpw_gpu_up": [(("0", "GPU-a"), 1.0)]}
    assert drops.count == 3
    assert set(drops.problems) == {"tpw_invented", "tpw_gpu_up", "tpw_poll_lag_seconds"}


def test_the_count_of_dropped_samples_is_a_metric():
    shown = {family.metric.name: family.samples for family in families(rich_snapshot(), Drops(count=4))}
    assert shown["tpw_exposition_dropped_samples_total"] == [((), 4.0)]


# ----------------------------------------------------------------------------------------------------------- catalogue


def test_names_follow_the_conventions():
    for metric in CATALOGUE:
        assert metric.name.startswith("tpw_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert len(set(metric.labels)) == len(metric.labels)
        assert metric.help.endswith("."), metric.name


def test_no_label_is_one_that_the_scrape_sets():
    """Prometheus would rename it (exported_instance), or take it for the target's own. The info metric of servers has
    them by the contract: without ``honor_labels`` they are ``exported_namespace`` and so on."""
    taken = {"job", "instance", "cluster", "namespace", "node", "pod", "container", "service", "endpoint", "replica"}
    assert [metric.name for metric in CATALOGUE if taken & set(metric.labels)] == ["tpw_server_info"]


def test_units_are_base_units():
    wrong = ("milliwatts", "kilowatt", "kwh_total", "milliseconds", "percent", "megabytes", "_mb", "_ms", "wh_total")
    assert [metric.name for metric in CATALOGUE if any(part in metric.name for part in wrong)] == []


def test_every_metric_of_the_catalogue_is_emitted():
    shown = {
        family.metric.name
        for snapshot in (replace(rich_snapshot(), planned_servers=frozenset()), of_published_model(rich_snapshot()))
        for family in families(snapshot, Drops())
    }
    assert {metric.name for metric in CATALOGUE} - shown == set()


def of_published_model(snapshot: Snapshot) -> Snapshot:
    """The server chat with a model of which figures are published."""
    chat = snapshot.books.servers["chat"]
    tokens = {("Llama-3.3-70B-Instruct", kind): value for (_, kind), value in chat.tokens.items()}
    servers = {**snapshot.books.servers, "chat": replace(chat, tokens=tokens)}
    return replace(snapshot, books=replace(snapshot.books, servers=servers))


def test_a_server_is_compared_with_the_published_figure_of_its_model():
    shown = series(of_published_model(rich_snapshot()))
    # 70 billion parameters, two H100, 12 requests in flight: 3.847 J at 8; the best of that size has 0.3731 J.
    who = ("chat", "Llama-3.3-70B-Instruct")
    assert shown["tpw_server_published_tokens_per_watt"] == {(*who, "mlenergy-v3"): pytest.approx(1.0 / 3.847)}
    assert shown["tpw_server_highest_plausible_tokens_per_watt"][who] == pytest.approx(4.0 / 0.3731)


def test_families_come_in_the_order_of_the_catalogue():
    order = [metric.name for metric in CATALOGUE]
    shown = [family.metric.name for family in families(rich_snapshot())]
    assert shown == sorted(shown, key=order.index)


def test_label_values_are_plain_strings():
    for family in families(rich_snapshot()):
        for labels, value in family.samples:
            assert {type(label) for label in labels} <= {str}, family.metric.name
            assert type(value) is float, family.metric.name


# ------------------------------------------------------------------------------------------------- sharing, correction


def test_how_a_gpu_is_shared_is_shown_with_its_method():
    shown = series(rich_snapshot())["tpw_server_gpu_share_ratio"]
    assert {(labels[0], labels[1], labels[3]): ratio for labels, ratio in shown.items()} == {
        ("chat", "0", "sole"): 1.0,
        ("chat", "1", "sole"): 1.0,
        ("embed", "2", "gpm"): 0.375,
    }


def test_estimates_are_shown_for_the_instances_there_are_by_method():
    shown = series(rich_snapshot())["tpw_gpu_instance_estimated_energy_joules_total"]
    assert {labels[2:]: joules for labels, joules in shown.items()} == {
        ("MIG-2a", "3g.40gb", "gpm"): 250_000.5,
        ("MIG-2a", "3g.40gb", "slices"): 1000.0,
        ("MIG-2b", "1g.10gb", "gpm"): 90_000.0,
    }


def test_calibration_and_the_method_of_the_host_share_are_shown():
    shown = series(rich_snapshot())
    assert list(shown["tpw_gpu_calibration_gain_ratio"].values()) == [1.02]
    assert list(shown["tpw_gpu_calibration_offset_watts"].values()) == [-3.5]
    assert shown["tpw_host_share_info"] == {("components",): 1.0}


# ---------------------------------------------------------------------------------------------------------------- GPUs


def test_energy_of_the_states_sums_to_the_total_to_the_last_bit():
    shown = series(rich_snapshot())
    by_state = shown["tpw_gpu_state_energy_joules_total"]
    for (index, gpu), total in shown["tpw_gpu_energy_joules_total"].items():
        assert total == reduce(add, [by_state[index, gpu, state] for state in STATES])


def test_all_states_of_a_gpu_are_emitted_from_the_start():
    snapshot = with_books(rich_snapshot(), postings={})
    shown = series(snapshot)
    states = {
        labels[2]: value for labels, value in shown["tpw_gpu_state_energy_joules_total"].items() if labels[0] == "0"
    }
    assert states == dict.fromkeys(STATES, 0.0)
    assert shown["tpw_gpu_energy_joules_total"]["0", uuid(0)] == 0.0
    assert shown["tpw_gpu_state_cost_total"]["0", uuid(0), "idle", "energy", "EUR"] == 0.0


def test_a_planned_pause_is_shown_where_one_is_configured_and_where_one_was_booked():
    name = "tpw_gpu_state_seconds_total"
    assert not any("planned_off" in labels for labels in series(rich_snapshot())[name])
    shown = series(replace(rich_snapshot(), planned_servers=frozenset({"embed"})))
    assert shown[name]["3", uuid(3), "planned_off"] == 0.0
    assert shown["tpw_server_energy_joules_total"]["embed", "acme/embed", "planned_off"] == 0.0
    assert {labels: value for labels, value in shown["tpw_server_planned_off"].items() if value} == {("embed",): 1.0}
    key = PostingKey(uuid(3), "", "", State.PLANNED_OFF)
    booked = with_books(rich_snapshot(), postings={key: Amounts(60.0, 4200.0)})
    assert series(booked)[name]["3", uuid(3), "planned_off"] == 60.0


def test_every_counter_that_will_be_booked_starts_at_zero():
    """Prometheus computes no increase from the first sample of a counter: it must exist before it grows."""
    snapshot = rich_snapshot()
    bare = replace(snapshot, components=("hardware", "hosting", "fixed", "demand"))
    ranks = ServerAccount("big", models=("m",), gpus=frozenset({uuid(0)}))
    counted = ServerAccount("new", up=True, models=("m",), tokens={("m", TokenKind.OUTPUT): 0.0})
    shown = series(with_books(bare, postings={}, servers={"big": ranks, "new": counted}))
    components = {"energy", "hardware", "hosting", "fixed", "demand"}
    for name, where in (("tpw_gpu_state_cost_total", ("0", uuid(0))), ("tpw_server_cost_total", ("big", "m"))):
        rows = {labels: value for labels, value in shown[name].items() if labels[:2] == where}
        assert {labels[3] for labels in rows} == components
        assert set(rows.values()) == {0.0}
    assert shown["tpw_server_energy_joules_total"] == {
        ("big", "m", state): 0.0 for state in ("active", "parked", "starting")
    }
    assert shown["tpw_server_emissions_grams_total"]["big", "m", "active", "location"] == 0.0
    assert shown["tpw_gpu_state_emissions_grams_total"]["0", uuid(0), "idle", "location"] == 0.0
    assert shown["tpw_server_reference_cost_total"] == {
        ("big", "m", "rented-h100", "EUR"): 0.0,
        ("new", "m", "api-70b", "EUR"): 0.0,
    }


def test_a_server_on_gpus_without_energy_has_no_energy_from_the_start():
    ranks = ServerAccount("odd", models=("m",), gpus=frozenset({"sim:odd"}))
    shown = series(with_books(rich_snapshot(), postings={}, servers={"odd": ranks}))
    assert "tpw_server_energy_joules_total" not in shown


def test_the_order_of_the_postings_changes_no_counter():
    snapshot = rich_snapshot()
    spread = {
        PostingKey(uuid(0), f"server-{n}", "m", State.ACTIVE): posting(0.1 * 3**n, 333.3 / (n + 1)) for n in range(12)
    }
    forward = with_books(snapshot, postings=spread)
    backward = with_books(snapshot, postings=dict(reversed(spread.items())))
    assert series(forward) == series(backward)


def test_a_lost_gpu_keeps_its_counters_and_shows_no_gauges():
    shown = series(rich_snapshot())
    lost = ("4", uuid(4))
    assert shown["tpw_gpu_up"][lost] == 0.0
    assert shown["tpw_gpu_energy_joules_total"][lost] == 500_000.0
    assert shown["tpw_gpu_unmetered_seconds_total"][lost] == 812.0
    for gauge in ("power_watts", "power_limit_watts", "utilization_ratio", "memory_used_bytes", "temperature_celsius"):
        assert lost not in shown[f"tpw_gpu_{gauge}"]


def test_a_gpu_that_does_not_answer_shows_no_gauges_even_with_an_old_sample():
    snapshot = rich_snapshot()
    account = replace(snapshot.books.gpus[uuid(0)], up=False)
    shown = series(with_books(snapshot, gpus={uuid(0): account}))
    assert "tpw_gpu_power_watts" not in shown


def test_a_gpu_that_reports_no_energy_shows_time_but_no_joules():
    shown = series(rich_snapshot())
    odd = ("5", "sim:odd")
    assert shown["tpw_gpu_state_seconds_total"][*odd, "idle"] == 0.0
    assert shown["tpw_gpu_utilization_ratio"][odd] == 0.5
    assert odd not in shown["tpw_gpu_power_watts"]
    assert odd not in shown["tpw_gpu_energy_joules_total"]
    assert odd not in shown["tpw_energy_unpriced_joules_total"]
    costs = {labels[3] for labels in shown["tpw_gpu_state_cost_total"] if labels[1] == "sim:odd"}
    assert costs == {"hardware"}


def test_a_server_on_gpus_without_energy_shows_none():
    snapshot = rich_snapshot()
    shown = series(
        with_books(
            snapshot,
            postings={PostingKey("sim:odd", "odd", "m", State.ACTIVE): posting(10.0, 0.0)},
            servers={"odd": ServerAccount("odd", up=True, gpus=frozenset({"sim:odd"}), models=("m",))},
        )
    )
    assert "tpw_server_energy_joules_total" not in shown
    assert {labels[3] for labels in shown["tpw_server_cost_total"]} == {"hardware"}


def test_facility_energy_of_the_gpus_is_that_of_the_servers_and_of_idle_time():
    shown = series(rich_snapshot())
    gpus = shown["tpw_gpu_state_facility_energy_joules_total"]
    servers = shown["tpw_server_facility_energy_joules_total"]
    for state in ("active", "parked"):
        expected = sum(value for labels, value in servers.items() if labels[2] == state)
        assert sum(value for labels, value in gpus.items() if labels[2] == state) == pytest.approx(expected, rel=1e-12)
    assert gpus["3", uuid(3), "idle"] == 7200.0 * 70.5 * 1.3
    assert ("5", "sim:odd", "idle") not in gpus


def test_credit_of_a_gpu_is_emitted_from_the_start_for_all_states():
    """`cost - credit` is then the net cost of every GPU, and rate() misses no first payment."""
    shown = series(rich_snapshot())
    credit = shown["tpw_gpu_state_credit_total"]
    assert credit["2", uuid(2), "active", "EUR"] == 0.0125
    assert sum(credit.values()) == sum(shown["tpw_server_credit_total"].values())
    priced = {labels[:3] for labels in shown["tpw_gpu_state_cost_total"] if labels[3] == "energy"}
    assert {labels[:3] for labels in credit} == priced
    assert "tpw_gpu_state_credit_total" not in series(fleet_snapshot(priced=False))


def test_emissions_are_emitted_for_all_states_once_any_are_known():
    """rate() then misses nothing when a server is parked for the first time."""
    shown = series(rich_snapshot())["tpw_server_emissions_grams_total"]
    assert {labels[2]: grams for labels, grams in shown.items() if labels[0] == "code"} == {
        "active": 1.75,
        "parked": 0.0,
        "starting": 0.0,
    }


def test_anomalies_are_shown_only_where_they_happened():
    shown = series(rich_snapshot())
    assert shown["tpw_gpu_energy_anomalies_total"] == {
        ("4", uuid(4), "implausible"): 2.0,
        ("4", uuid(4), "reset"): 1.0,
    }


# ------------------------------------------------------------------------------------------------------------- servers


def test_server_energy_is_the_sum_over_its_gpus():
    snapshot = rich_snapshot()
    shown = series(snapshot)
    expected = sum(
        item.joules for key, item in snapshot.books.postings.items() if key.server == "chat" and key.state == "active"
    )
    assert shown["tpw_server_energy_joules_total"]["chat", "acme/chat-70b", "active"] == expected


def test_energy_of_servers_others_and_idle_is_the_energy_of_the_gpus():
    shown = series(rich_snapshot())
    servers = sum(shown["tpw_server_energy_joules_total"].values())
    idle = sum(
        value for labels, value in shown["tpw_gpu_state_energy_joules_total"].items() if labels[2] in ("idle", "other")
    )
    assert servers + idle == pytest.approx(sum(shown["tpw_gpu_energy_joules_total"].values()), rel=1e-15)


def test_every_component_of_cost_of_servers_others_and_idle_is_that_of_the_gpus():
    shown = series(rich_snapshot())
    for component in ("energy", "hardware"):
        servers = sum(value for labels, value in shown["tpw_server_cost_total"].items() if labels[3] == component)
        by_gpu = {
            labels: value for labels, value in shown["tpw_gpu_state_cost_total"].items() if labels[3] == component
        }
        idle = sum(value for labels, value in by_gpu.items() if labels[2] in ("idle", "other"))
        assert servers + idle == pytest.approx(sum(by_gpu.values()), rel=1e-14)


def test_all_states_of_a_server_are_emitted_from_the_start():
    snapshot = with_books(rich_snapshot(), postings={})
    shown = series(snapshot)
    chat = {
        labels[2]: value for labels, value in shown["tpw_server_energy_joules_total"].items() if labels[0] == "chat"
    }
    assert chat == {"active": 0.0, "parked": 0.0, "starting": 0.0}


def test_a_server_without_known_gpus_shows_no_energy():
    snapshot = with_books(
        rich_snapshot(), postings={}, servers={"alone": ServerAccount("alone", up=True, models=("m",))}
    )
    shown = series(snapshot)
    assert "tpw_server_energy_joules_total" not in shown
    assert "tpw_server_cost_total" not in shown


def test_a_server_that_is_down_keeps_counters_but_no_requests():
    shown = series(rich_snapshot())
    model = rich_snapshot().books.servers["code"].models[0]
    assert shown["tpw_server_up"]["code",] == 0.0
    assert shown["tpw_server_tokens_total"]["code", model, "output"] == 250.0
    assert ("code", model) not in shown["tpw_server_requests_running"]


def test_a_server_that_is_no_longer_configured_keeps_only_its_counters():
    shown = series(rich_snapshot())
    assert ("gone",) not in shown["tpw_server_up"]
    assert all(labels[0] != "gone" for labels in shown["tpw_server_info"])
    assert shown["tpw_server_tokens_total"]["gone", "acme/old", "output"] == 9e6


def test_ranks_without_an_address_have_no_up_but_own_gpus():
    ranks = ServerAccount("big", attribution=Attribution.CONFIGURED, gpus=frozenset({uuid(0)}), models=("big-model",))
    shown = series(with_books(rich_snapshot(), servers={"big": ranks}))
    assert "tpw_server_up" not in shown
    assert shown["tpw_server_gpu"] == {("big", "0", uuid(0)): 1.0}
    assert shown["tpw_server_info"] == {("big", "", str(Cadence.UNKNOWN), "", "configured", *[""] * 7): 1.0}


def test_the_role_of_an_instance_of_a_pair_is_a_label_of_its_info():
    prefill = ServerAccount("p", up=True, phase=Phase.PREFILL)
    shown = series(with_books(rich_snapshot(), servers={"p": prefill}))
    assert [labels[-1] for labels in shown["tpw_server_info"]] == ["prefill"]


def test_cached_tokens_by_tier_are_a_part_of_cached_input():
    shown = series(rich_snapshot())
    tiers = shown["tpw_server_cached_tokens_total"]
    assert {labels[2] for labels in tiers} == {"device", "host"}
    server, model, _ = next(iter(tiers))
    assert 0.0 < sum(tiers.values()) <= shown["tpw_server_tokens_total"][server, model, "cached_input"]


def test_allowed_pod_labels_are_on_the_info_of_every_server():
    owner = ServerWorkload("chat", "deployment", "prod", labels=(("label_team", "search"), ("label_cost_centre", "7")))
    snapshot = replace(rich_snapshot(), owners={"chat": owner})
    [info] = [family for family in families(snapshot) if family.metric.name == "tpw_server_info"]

    assert info.metric.labels[-2:] == ("label_team", "label_cost_centre")
    assert {labels[0]: labels[-2:] for labels, _ in info.samples} == {
        "chat": ("search", "7"),
        "code": ("", ""),
        "embed": ("", ""),
    }
    page = Page()
    assert b'label_team="search"' in page.body(snapshot, Format.TEXT)
    assert b"label_team" not in page.body(rich_snapshot(), Format.TEXT)


def test_requests_waiting_are_absent_if_the_engine_does_not_report_them():
    shown = series(rich_snapshot())
    assert shown["tpw_server_requests_running"]["embed", "acme/embed"] == 0.0
    assert ("embed", "acme/embed") not in shown["tpw_server_requests_waiting"]


def test_credit_of_a_server_and_late_prices_start_at_zero():
    """They rise by hours at once after an outage of the daemon or the feed, and rate() ignores the first sample."""
    shown = series(rich_snapshot())
    credit, cost = shown["tpw_server_credit_total"], shown["tpw_server_cost_total"]
    model = rich_snapshot().books.servers["code"].models[0]
    assert {labels: value for labels, value in credit.items() if value} == {("code", model, "active", "EUR"): 0.0125}
    assert set(credit) == {(*labels[:3], labels[4]) for labels in cost if labels[3] == "energy"}
    assert set(shown["tpw_energy_late_priced_joules_total"]) == set(shown["tpw_energy_unpriced_joules_total"])
    unpriced = series(fleet_snapshot(priced=False))
    assert not {"tpw_server_credit_total", "tpw_energy_late_priced_joules_total"} & set(unpriced)


# --------------------------------------------------------------------------------------------------------------- money


def test_without_a_currency_there_is_no_cost():
    shown = series(fleet_snapshot(2, 1, priced=False))
    assert [name for name in shown if "cost" in name or "price" in name or "unpriced" in name] == []


def test_costs_that_are_not_energy_do_not_make_electricity_free():
    snapshot = fleet_snapshot(2, 1)
    hardware_only = {
        key: replace(item, cost={"hardware": item.cost["hardware"]}) for key, item in snapshot.books.postings.items()
    }
    shown = series(replace(with_books(snapshot, postings=hardware_only), prices=Prices()))
    assert {labels[3] for labels in shown["tpw_gpu_state_cost_total"]} == {"hardware"}
    assert "tpw_cost_per_token" not in shown


def test_the_price_in_force_and_its_change():
    shown = series(rich_snapshot())
    assert shown["tpw_electricity_price_per_kwh"] == {("EUR",): 0.25}
    assert shown["tpw_electricity_price_state"] == {("final",): 1.0}
    assert shown["tpw_electricity_price_next_change_timestamp_seconds"] == {(): EPOCH + 3 * 3600.0}
    assert shown["tpw_electricity_price_next_per_kwh"] == {("EUR",): 0.10}


@pytest.mark.parametrize("now", [None, PriceInterval(0.0, 1.0, 0.3, PriceState.MISSING)])
def test_a_missing_price_is_a_state_not_a_number(now: PriceInterval | None):
    shown = series(replace(rich_snapshot(), prices=Prices("EUR", now)))
    assert shown["tpw_electricity_price_state"] == {("missing",): 1.0}
    assert "tpw_electricity_price_per_kwh" not in shown
    assert "tpw_electricity_price_next_per_kwh" not in shown


# -------------------------------------------------------------------------------------------------- sources, exporter


def test_a_source_that_was_never_read_has_no_timestamp():
    snapshot = replace(empty_snapshot(), sources=(SourceStatus("nvml", up=False),))
    shown = series(snapshot)
    assert shown["tpw_source_up"] == {("nvml",): 0.0}
    assert shown["tpw_source_reads_total"] == {("nvml",): 0.0}
    assert "tpw_source_last_success_timestamp_seconds" not in shown
    assert "tpw_source_read_duration_seconds" not in shown


def test_an_empty_machine_shows_the_exporter_alone():
    exporter = {metric for title, rows in sections() if title == "The exporter itself" for metric in rows}
    always = {metric.name for metric in exporter if not metric.absent} - {DROPPED}
    assert set(series(empty_snapshot())) == {*always, "tpw_facility_pue_ratio"}


def test_the_floor_of_power_smoothing_is_shown_for_gpus_that_have_one():
    snapshot = rich_snapshot()

    expected = {
        (str(account.gpu.index), account.gpu.uuid): account.sample.power_floor_watts
        for account in snapshot.books.gpus.values()
        if account.sample is not None and account.sample.power_floor_watts is not None
    }

    assert len(expected) == 1
    assert series(snapshot)["tpw_gpu_power_smoothing_floor_watts"] == expected


def test_the_energy_method_of_a_gpu_with_a_distrusted_counter_is_the_one_in_use():
    snapshot = rich_snapshot()
    gpus = {
        name: replace(account, check=Check(distrusted=True)) if account.gpu.index == 0 else account
        for name, account in snapshot.books.gpus.items()
    }

    before, after = (
        {labels[0]: labels[-1] for labels in series(shown)["tpw_gpu_info"]}
        for shown in (snapshot, with_books(snapshot, gpus=gpus))
    )

    assert (before["0"], after["0"]) == ("counter", "instant_power")
    assert {index: how for index, how in after.items() if index != "0"} == {
        index: how for index, how in before.items() if index != "0"
    }
