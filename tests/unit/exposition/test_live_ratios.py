from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from support.snapshots import BOOT, HARDWARE_PER_SECOND, PRICE, PUE, rich_snapshot, window
from tpw.exposition.families import families
from tpw.ledger.amounts import Amounts
from tpw.ledger.books import ServerAccount, WindowSample
from tpw.ledger.window import LiveRatios, live_ratios
from tpw.model import Boundary, Scope, TokenKind
from tpw.snapshot import Prices

NOW = BOOT + 1000.0


def account(samples: tuple[WindowSample, ...], seconds: float = 60.0) -> ServerAccount:
    return ServerAccount("s", up=True, models=("m",), window=samples, window_seconds=seconds)


def ratios(samples: tuple[WindowSample, ...], seconds: float = 60.0, *, priced: bool = True) -> LiveRatios:
    found = live_ratios(account(samples, seconds), (Scope.ENERGY, Scope.FULL) if priced else ())
    assert found is not None
    return found


def plus(sample: WindowSample, amounts: Amounts) -> WindowSample:
    return replace(sample, amounts={"m": sample.amounts["m"] + amounts})


def test_ratios_are_rise_over_rise_over_the_span_that_is_reported():
    found = ratios(window("m", 1000.0, NOW))
    model = found.models["m"]
    assert found.span_seconds == 60.0
    assert model.tokens_per_second == {"output": 400.0, "total": 600.0}
    assert model.tokens_per_joule == {
        ("output", Boundary.GPU): 400.0 / 1000.0,
        ("total", Boundary.GPU): 600.0 / 1000.0,
        ("output", Boundary.FACILITY): pytest.approx(400.0 / 1300.0),
        ("total", Boundary.FACILITY): pytest.approx(600.0 / 1300.0),
    }
    energy_per_second = 1000.0 * PUE / 3.6e6 * PRICE
    assert model.cost_per_token == {
        ("output", Scope.ENERGY): pytest.approx(energy_per_second / 400.0),
        ("total", Scope.ENERGY): pytest.approx(energy_per_second / 600.0),
        ("output", Scope.FULL): pytest.approx((energy_per_second + HARDWARE_PER_SECOND) / 400.0),
        ("total", Scope.FULL): pytest.approx((energy_per_second + HARDWARE_PER_SECOND) / 600.0),
    }
    assert model.watts == {Boundary.GPU: 1000.0, Boundary.FACILITY: pytest.approx(1300.0)}


def test_the_window_begins_at_the_sample_nearest_to_the_one_wanted():
    samples = window("m", 1000.0, NOW)
    assert ratios(samples, 30.0).span_seconds == 30.0
    assert ratios(samples, 29.6).span_seconds == 30.0
    assert ratios(samples, 30.4).span_seconds == 30.0
    assert ratios(samples, 29.5).span_seconds == 30.0  # equally near: the older one
    assert ratios(samples, 0.1).span_seconds == 1.0  # never the newest itself


def test_a_history_shorter_than_the_window_is_used_from_its_beginning():
    assert ratios(window("m", 1000.0, NOW)[-4:], 60.0).span_seconds == 3.0


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_is_not_enough_for_a_ratio(count: int):
    assert live_ratios(account(window("m", 1000.0, NOW)[:count]), (Scope.ENERGY, Scope.FULL)) is None


def test_two_samples_of_one_instant_have_no_ratio():
    sample = window("m", 1000.0, NOW)[-1]
    assert live_ratios(account((sample, sample)), (Scope.ENERGY, Scope.FULL)) is None


def test_without_tokens_the_ratio_is_zero_and_the_cost_unknown():
    model = ratios(window("m", 1000.0, NOW, busy=0.0)).models["m"]
    assert model.tokens_per_second == {"output": 0.0, "total": 0.0}
    assert set(model.tokens_per_joule.values()) == {0.0}
    assert model.cost_per_token == {}


def test_without_energy_there_is_no_ratio():
    model = ratios(window("m", 0.0, NOW)).models["m"]
    assert model.tokens_per_second == {"output": 400.0, "total": 600.0}
    assert model.tokens_per_joule == {}
    assert model.watts == {}


def test_ranks_without_counters_have_watts_but_no_tokens():
    samples = tuple(replace(sample, tokens={}) for sample in window("m", 1000.0, NOW))
    model = ratios(samples).models["m"]
    assert model.tokens_per_second == {}
    assert model.tokens_per_joule == {}
    assert model.cost_per_token == {}
    assert model.watts[Boundary.GPU] == 1000.0


@pytest.mark.parametrize("known_in_the_window", [False, True])
def test_a_server_that_spans_nodes_has_no_ratio_over_joules(known_in_the_window: bool):
    """Its energy on the other nodes is unknown here. Applies from the first tick with ``spans_nodes``."""
    samples = window("m", 1000.0, NOW)
    samples = tuple(
        replace(sample, single_node=known_in_the_window and index < len(samples) - 1)
        for index, sample in enumerate(samples)
    )
    model = ratios(samples).models["m"]
    assert model.tokens_per_second == {"output": 400.0, "total": 600.0}
    assert model.watts[Boundary.GPU] == 1000.0
    assert (model.tokens_per_joule, model.cost_per_token) == ({}, {})


def test_an_engine_without_output_tokens_has_a_total_only():
    key = ("m", TokenKind.INPUT)
    samples = tuple(replace(sample, tokens={key: sample.tokens[key]}) for sample in window("m", 1000.0, NOW))
    assert ratios(samples).models["m"].tokens_per_second == {"total": 150.0}


def unmetered(samples: Sequence[WindowSample], seconds: Collection[int]) -> tuple[WindowSample, ...]:
    """The samples with 1000 J lost in each of these seconds."""
    lost = [1000.0 * sum(second <= index for second in seconds) for index in range(len(samples))]
    return tuple(replace(sample, lost_joules=joules) for sample, joules in zip(samples, lost, strict=True))


def test_up_to_a_twentieth_of_the_joules_of_the_window_can_be_unknown():
    samples = window("m", 1000.0, NOW)
    assert ratios(unmetered(samples, (10, 20, 30))).models["m"].tokens_per_joule
    model = ratios(unmetered(samples, (10, 20, 30, 40))).models["m"]
    assert model.tokens_per_joule == {}
    assert model.cost_per_token == {}
    assert model.tokens_per_second == {"output": 400.0, "total": 600.0}


def test_what_a_gpu_that_is_down_may_have_used_is_unknown():
    samples = window("m", 1000.0, NOW)
    for awaited, shown in ((3000.0, True), (4000.0, False)):
        late = (*samples[:-1], replace(samples[-1], awaited_joules=awaited))
        assert bool(ratios(late).models["m"].tokens_per_joule) is shown


def test_unmetered_time_before_the_window_does_not_count():
    samples = unmetered(window("m", 1000.0, NOW), range(31))
    assert ratios(samples, 30.0).models["m"].tokens_per_joule


def test_a_joule_without_a_price_makes_the_cost_unknown():
    samples = window("m", 1000.0, NOW)
    late = (*samples[:-1], plus(samples[-1], Amounts(unpriced_joules=5.0)))
    model = ratios(late).models["m"]
    assert model.cost_per_token == {}
    assert model.tokens_per_joule
    before = tuple(plus(sample, Amounts(unpriced_joules=5.0)) for sample in samples)
    assert ratios(before).models["m"].cost_per_token


def test_energy_that_is_priced_later_has_the_preliminary_cost_meanwhile():
    """A market that publishes after the fact: the same cost as if the price had been known."""
    known = window("m", 1000.0, NOW)
    samples = tuple(
        replace(
            sample,
            amounts={
                "m": replace(
                    amounts,
                    cost={**amounts.cost, "energy": 0.0},
                    unpriced_joules=amounts.facility_joules,
                )
            },
        )
        for sample in known
        for amounts in (sample.amounts["m"],)
    )
    assert ratios(samples).models["m"].cost_per_token == {}
    found = live_ratios(account(samples), (Scope.ENERGY, Scope.FULL), preliminary_price=PRICE)
    assert found is not None
    assert found.models["m"].cost_per_token == pytest.approx(ratios(known).models["m"].cost_per_token)


def test_without_a_currency_there_is_no_cost():
    assert ratios(window("m", 1000.0, NOW), priced=False).models["m"].cost_per_token == {}


def test_negative_prices_make_a_negative_cost_per_token():
    samples = tuple(
        plus(sample, Amounts(credit=3.0 * sample.amounts["m"].cost["energy"])) for sample in window("m", 1000.0, NOW)
    )
    assert ratios(samples).models["m"].cost_per_token["output", Scope.ENERGY] < 0.0


def test_the_page_shows_these_ratios():
    shown = {family.metric.name: dict(family.samples) for family in families(rich_snapshot())}
    chat = ("chat", "acme/chat-70b")
    assert shown["tpw_window_seconds"]["chat",] == 60.0
    assert shown["tpw_tokens_per_second"][*chat, "output"] == pytest.approx(400.0)
    assert shown["tpw_tokens_per_watt"][*chat, "output", "gpu"] == pytest.approx(400.0 / 1210.5)
    assert shown["tpw_tokens_per_watt"]["embed", "acme/embed", "total", "gpu"] == 0.0
    assert (*chat, "output", "full", "EUR") in shown["tpw_cost_per_token"]
    assert not any(labels[0] == "embed" for labels in shown["tpw_cost_per_token"])


def test_a_token_of_a_phase_costs_its_joules_at_the_cost_of_the_window() -> None:
    shown = {one.metric.name: dict(one.samples) for one in families(rich_snapshot())}
    joules, cost = shown["tpw_phase_energy_joules_per_token"], shown["tpw_phase_cost_per_token"]
    assert joules
    assert {labels[:3]: value for labels, value in cost.items()} == {
        labels: pytest.approx(value * PUE * PRICE / 3.6e6) for labels, value in joules.items()
    }


def costs_of(components: tuple[str, ...], price: Prices, booked: dict[str, float]) -> dict[tuple[str, str], float]:
    """Cost of the tokens of a minute, by (kind, scope), where so much was booked per second."""
    samples = tuple(
        replace(
            sample,
            amounts={
                "m": replace(
                    sample.amounts["m"],
                    cost={name: (sample.at_seconds - NOW) * cost for name, cost in booked.items()},
                )
            },
        )
        for sample in window("m", 1000.0, NOW)
    )
    snapshot = rich_snapshot()
    books = replace(snapshot.books, servers={"s": account(samples)})
    found = families(replace(snapshot, books=books, prices=price, components=components))
    shown = {family.metric.name: family.samples for family in found}
    assert {labels[0] for labels, _ in shown["tpw_cost_components_info"]} == {
        *components,
        *(("energy",) if price.currency else ()),
    }
    return {(labels[2], labels[3]): value for labels, value in shown.get("tpw_cost_per_token", [])}


ELECTRICITY = Prices("EUR")
NO_ELECTRICITY = Prices()


@pytest.mark.parametrize(
    ("components", "price", "booked", "scopes"),
    [
        ((), ELECTRICITY, {"energy": 4.0}, {"energy": 4.0}),
        (("hosting",), ELECTRICITY, {"energy": 4.0, "hosting": 2.0}, {"energy": 4.0, "operating": 6.0}),
        (("hardware",), ELECTRICITY, {"energy": 4.0, "hardware": 8.0}, {"energy": 4.0, "full": 12.0}),
        (("gpu_hour",), NO_ELECTRICITY, {"gpu_hour": 8.0}, {"full": 8.0}),
        (("hosting",), NO_ELECTRICITY, {"hosting": 2.0}, {"operating": 2.0}),
        (("hardware", "hosting"), NO_ELECTRICITY, {"hardware": 8.0, "hosting": 2.0}, {"operating": 2.0, "full": 10.0}),
        (("hardware",), NO_ELECTRICITY, {"hardware": 8.0}, {}),
        (("hardware", "operations"), NO_ELECTRICITY, {"hardware": 8.0, "operations": 1.0}, {}),
        # A tariff that was taken out: its energy of before is in the books, and rises no more.
        (("gpu_hour",), NO_ELECTRICITY, {"energy": 0.0, "gpu_hour": 8.0}, {"full": 8.0}),
    ],
)
def test_a_scope_is_shown_where_all_that_it_promises_is_booked(
    components: tuple[str, ...], price: Prices, booked: dict[str, float], scopes: dict[str, float]
) -> None:
    found = costs_of(components, price, booked)
    expected = {("output", scope): pytest.approx(cost / 400.0) for scope, cost in scopes.items()}
    assert {key: cost for key, cost in found.items() if key[0] == "output"} == expected
