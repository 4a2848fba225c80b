"""Prices, cost rates and references from the configuration."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tpw.config import Config, load, load_file
from tpw.http.messages import Answer, Request
from tpw.model import PriceState, Reason, SourceError, StandingCharge
from tpw.tariff.context import FeedContext
from tpw.tariff.demand import DemandRules
from tpw.tariff.layers import Layers
from tpw.tariff.months import BillingMonths

CAPTURES = Path(__file__).parents[2] / "captures"
CONTRACT = CAPTURES / "config" / "good" / "contract.yaml"


def price_at(text: str, moment: str) -> float:
    source = load(text).tariff.prices(FeedContext())
    assert source is not None
    at = datetime.fromisoformat(moment).timestamp()
    [interval] = source.intervals(at, at + 1)
    return interval.price_per_kwh


def test_no_tariff_is_no_source() -> None:
    assert Config().tariff.prices(FeedContext()) is None
    assert load("tariff: {currency: EUR}").tariff.prices(FeedContext()) is None


@pytest.mark.parametrize(
    ("moment", "price"),
    [
        ("2026-11-24T12:00+01:00", 0.20),
        ("2026-11-24T17:00+01:00", 0.30),
        ("2026-11-24T20:00+01:00", 0.20),
        ("2026-11-28T17:00+01:00", 0.20),
        ("2026-07-01T17:00+02:00", 0.20),
        ("2026-07-01T22:00+02:00", 0.10),
        ("2026-07-02T05:59+02:00", 0.10),
    ],
)
def test_example_of_the_contract(moment: str, price: float) -> None:
    assert price_at(CONTRACT.read_text(), moment) == price


def test_layers_and_vat() -> None:
    text = """
    tariff:
      currency: EUR
      vat: 0.19
      energy: {price_per_kwh: 0.10}
      grid: {kind: flat, price_per_kwh: 0.06}
      levies: {price_per_kwh: 0.02, includes_vat: true}
    """
    assert price_at(text, "2026-01-01T00:00+00:00") == pytest.approx(0.16 * 1.19 + 0.02)


def test_holidays_listed() -> None:
    text = """
    tariff:
      currency: EUR
      timezone: Europe/Berlin
      energy:
        kind: time_of_use
        price_per_kwh: 0.1
        zones: [{price_per_kwh: 0.3, days: mon-fri}]
        holidays: [2026-12-25]
    """
    assert price_at(text, "2026-12-24T12:00+01:00") == 0.3
    assert price_at(text, "2026-12-25T12:00+01:00") == 0.1


def test_demand_rules() -> None:
    config = load((CAPTURES / "config" / "good" / "carbon.yaml").read_text())
    (rules,) = config.tariff.demand_rules()
    assert rules == DemandRules(
        price_per_kw_month=24.37, window_seconds=1800, ratchet=0.8, ratchet_months=11, months=BillingMonths("UTC", 15)
    )
    assert Config().tariff.demand_rules() == ()


def test_standing_charges() -> None:
    text = """
        tariff:
          currency: EUR
          vat: 0.20
          energy: {price_per_kwh: 0.1}
          capacity: {kw: 40, price_per_kw_month: 9.5}
          fixed: {per_month: 120, per_day: 0.5}
    """
    assert load(text).tariff.standing_charges() == (
        StandingCharge("capacity", per_month=pytest.approx(456.0)),
        StandingCharge("fixed", per_month=pytest.approx(144.0), per_day=pytest.approx(0.6)),
    )
    assert Config().tariff.standing_charges() == ()


def test_blocks_are_steps_of_the_month_with_value_added_tax() -> None:
    text = """
        tariff:
          currency: EUR
          timezone: Europe/Berlin
          vat: 0.10
          billing_day: 3
          energy:
            price_per_kwh: 0.20
            blocks:
              - {above_kwh: 100, price_per_kwh: 0.15}
              - {above_kwh: 300, price_per_kwh: 0.18}
          grid: {price_per_kwh: 0.05}
    """
    source = load(text).tariff.prices(FeedContext())
    assert source is not None
    change = datetime.fromisoformat("2026-03-02T23:00+00:00").timestamp()
    before, after = source.intervals(change - 3600, change + 3600)
    assert (before.end_seconds, after.start_seconds, after.month_start_seconds) == (change, change, change)
    assert before.month_start_seconds == datetime.fromisoformat("2026-02-02T23:00+00:00").timestamp()
    assert before.price_per_kwh == pytest.approx(0.275)
    assert before.steps == ((100, pytest.approx(-0.055)), (300, pytest.approx(0.033)))


def test_rates_by_component() -> None:
    config = load(
        """
        tariff: {currency: EUR}
        costs:
          hardware: {price_per_gpu: 35040, years: 4}
          gpu_hour: {price: 3.6}
          hosting: {price_per_kw_month: 730, kw_per_gpu: 1}
          operations: {price_per_gpu_month: 73}
        """
    )
    per_hour = {rate.component: rate.per_gpu_second * 3600 for rate in config.costs.rates()}
    assert per_hour == pytest.approx({"hardware": 1.0, "gpu_hour": 3.6, "hosting": 1.0, "operations": 0.1})
    assert Config().costs.rates() == ()


def test_references_of_the_contract() -> None:
    rented, api = (item.reference() for item in load_file(CONTRACT).references)
    assert (rented.name, rented.price_per_gpu_second) == ("rented-h100", pytest.approx(2.69 / 3600))
    assert (api.name, sorted(api.price_per_token)) == ("api-70b", ["cached_input", "input", "output"])


# --------------------------------------------------------------------------------------------------------------- feeds

NOON = datetime(2026, 6, 14, 10, tzinfo=UTC).timestamp()


def body(name: str) -> bytes:
    return (CAPTURES / "tariff" / name).read_bytes()


class World:
    """A clock, and answers by the start of the address."""

    def __init__(self, **answers: bytes | int) -> None:
        self.answers = answers
        self.requests: list[str] = []

    def fetch(self, request: Request) -> Answer:
        self.requests.append(request.url)
        for part, answer in self.answers.items():
            if part in request.address:
                return Answer(answer, b"") if isinstance(answer, int) else Answer(200, answer)
        raise SourceError(Reason.UNREACHABLE, f"no server at {request.address}")

    def source(self, tariff: str, directory: Path) -> Layers:
        config = load(f"tariff: {tariff}", str(directory / "tpw.yaml"))
        found = config.tariff.prices(FeedContext(lambda: NOON, self.fetch, directory / "prices", 0.0))
        assert found is not None
        return found


@pytest.mark.parametrize(
    ("tariff", "answers", "price"),
    [
        (
            "{currency: EUR, vat: 0.19, energy: {kind: entsoe, area: DE-LU, token_file: token}}",
            {"entsoe": "entsoe-two-auctions.xml"},
            -0.02058 * 1.19,
        ),
        (
            "{currency: GBP, energy: {kind: octopus, tariff_code: E-1R-AGILE-24-10-01-C}}",
            {"octopus": "octopus-agile.json"},
            -0.039192,
        ),
        (
            "{currency: EUR, energy: {kind: intervals, preset: awattar_de}}",
            {"awattar": "awattar.json"},
            -0.01262,
        ),
        (
            "{currency: NOK, vat: 0.25, energy: {kind: intervals, preset: tibber, token_file: token}}",
            {"tibber": "tibber.json"},
            0.2107,
        ),
        (
            (
                "{currency: EUR, timezone: Europe/Berlin, energy: {kind: intervals, url: 'https://a.example/p', time: t,"
                " price: p, ignore_offset: true}}"
            ),
            {"a.example": "local-with-false-z.json"},
            -0.06193,
        ),
        (
            (
                "{currency: USD, timezone: America/Los_Angeles, energy: {kind: urdb, api_key_file: token,"
                " label: 68c0cb49d7afaa668b0dc6fc}}"
            ),
            {"openei": "urdb-smud-ci-tod4-2025.json"},
            0.1154,
        ),
    ],
)
def test_a_feed_of_each_kind_is_made_fetched_and_cached(
    tmp_path: Path, tariff: str, answers: dict[str, str], price: float
) -> None:
    (tmp_path / "token").write_text("t0ken")
    world = World(**{part: body(name) for part, name in answers.items()})
    [interval] = world.source(tariff, tmp_path).intervals(NOON, NOON + 60)
    assert interval.price_per_kwh == pytest.approx(price)
    assert interval.state is PriceState.FINAL
    after_restart = World().source(tariff, tmp_path)
    assert after_restart.intervals(NOON, NOON + 60) == (interval,)


def test_a_file_is_not_cached(tmp_path: Path) -> None:
    (tmp_path / "rate.json").write_bytes(body("urdb-smud-ci-tod4-2025.json"))
    (tmp_path / "fees.csv").write_text("t,e,ct\n2026-06-14T00:00Z,2026-06-15T00:00Z,5\n")
    tariff = (
        "{currency: USD, timezone: America/Los_Angeles, energy: {kind: urdb, file: rate.json},"
        " grid: {kind: intervals, file: fees.csv, format: csv, time: t, end: e, price: ct, minor_units: true}}"
    )
    world = World()
    [interval] = world.source(tariff, tmp_path).intervals(NOON, NOON + 60)
    assert interval.price_per_kwh == pytest.approx(0.1154 + 0.05)
    assert world.requests == []
    assert not (tmp_path / "prices").exists()


def test_a_feed_that_is_down_is_an_error_without_a_fallback(tmp_path: Path) -> None:
    tariff = "{{currency: EUR, vat: 0.19, energy: {{kind: intervals, preset: awattar_de{}}}}}"
    source = World(awattar=503).source(tariff.format(""), tmp_path)
    with pytest.raises(SourceError, match="HTTP 503"):
        source.intervals(NOON, NOON + 60)
    with_fallback = World(awattar=503).source(tariff.format(", fallback_price_per_kwh: 0.10"), tmp_path)
    [interval] = with_fallback.intervals(NOON, NOON + 60)
    assert interval.price_per_kwh == pytest.approx(0.119)
    assert interval.state is PriceState.FALLBACK
    assert with_fallback.error is not None
    assert with_fallback.error.reason is Reason.BROKEN


def test_two_feeds_do_not_share_a_file(tmp_path: Path) -> None:
    tariff = "{{currency: EUR, energy: {{kind: intervals, preset: elering, area: {}}}}}"
    for area in ("ee", "fi"):
        World(elering=body("elering.json")).source(tariff.format(area), tmp_path).intervals(NOON, NOON + 60)
    assert len(list((tmp_path / "prices").iterdir())) == 2


LIST = "{{currency: EUR, timezone: {zone}, energy: {{kind: intervals, url: 'https://a.example', time: t, price: p{more}}}}}"
RATE = (
    "{{currency: USD, timezone: {zone}, energy: {{kind: urdb, api_key_file: token, label: 68c0cb49d7afaa668b0dc6fc}}}}"
)


@pytest.mark.parametrize(
    ("tariff", "zone", "more"),
    [
        (LIST, "Europe/Berlin", ", minor_units: true"),
        (LIST, "Europe/Berlin", ", per: MWh"),
        (LIST, "Europe/Berlin", ", stamp: end"),
        (LIST, "Europe/Berlin", ", ignore_offset: true"),
        (LIST, "Europe/Berlin", ", resolution: 30m"),
        (LIST, "Europe/London", ""),
        (RATE, "America/New_York", ""),
    ],
)
def test_a_corrected_configuration_does_not_use_prices_cached_with_other_settings(
    tmp_path: Path, tariff: str, zone: str, more: str
) -> None:
    """Prices read with a wrong setting must not survive its correction in the cache."""
    (tmp_path / "token").write_text("t0ken")
    answers = {"a.example": body("local-with-false-z.json"), "openei": body("urdb-smud-ci-tod4-2025.json")}
    before = tariff.format(zone="Europe/Berlin" if tariff is LIST else "America/Los_Angeles", more="")
    World(**answers).source(before, tmp_path).intervals(NOON, NOON + 60)
    assert World().source(before, tmp_path).intervals(NOON, NOON + 60)

    with pytest.raises(SourceError, match="no server at"):
        World().source(tariff.format(zone=zone, more=more), tmp_path).intervals(NOON, NOON + 60)
