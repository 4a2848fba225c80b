"""What feeds send, read as prices: every capture against its golden."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff import entsoe, octopus
from tpw.tariff.curve import PriceCurve
from tpw.tariff.intervals import PRESETS
from tpw.tariff.layout import Layout, read_table
from tpw.tariff.octopus import intervals_of

CAPTURES = Path(__file__).parents[2] / "captures" / "tariff"


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def from_preset(name: str, area: str = "", currency: str = "EUR") -> Callable[[bytes], Sequence[PriceInterval]]:
    reader = PRESETS[name].reader(area, currency, lambda request: pytest.fail("nothing is fetched"))
    return lambda body: read_table(body, reader.layout, until_seconds=None)


def from_octopus(body: bytes) -> Sequence[PriceInterval]:
    results = octopus._page(body)["results"]
    return intervals_of(results, "DIRECT_DEBIT", at("2026-06-01T00:00Z"), at("2026-06-16T00:00Z"))


def from_entsoe(body: bytes) -> Sequence[PriceInterval]:
    return entsoe.parse(body, "EUR")


def from_rows(**changes: object) -> Callable[[bytes], Sequence[PriceInterval]]:
    layout = Layout(**{"price": "p", "time": "t", **changes})  # type: ignore[arg-type]
    return lambda body: read_table(body, layout)


HOUR_ENDING = Layout(
    price="Preis ct/kWh",
    time="Ende",
    is_csv=True,
    delimiter=";",
    where={"Zone": "DE"},
    stamps_end=True,
    time_format="%d.%m.%Y %H:%M",
    timezone="Europe/Berlin",
    in_minor_units=True,
)
FALSE_Z = from_rows(ignores_offset=True, timezone="Europe/Berlin")

CASES: dict[str, Callable[[bytes], Sequence[PriceInterval]]] = {
    "entsoe-spring-92.xml": from_entsoe,
    "entsoe-autumn-100.xml": from_entsoe,
    "entsoe-two-auctions.xml": from_entsoe,
    "entsoe-hourly-a01-missing.xml": from_entsoe,
    "entsoe-half-hours.xml": from_entsoe,
    "entsoe-two-days-two-resolutions.xml": from_entsoe,
    "octopus-agile.json": from_octopus,
    "octopus-open-ended.json": from_octopus,
    "energy-charts-autumn-100.json": from_preset("energy_charts", "DE-LU"),
    "energidataservice-spring-92.json": from_preset("energidataservice", "DK1", "DKK"),
    "awattar.json": from_preset("awattar_de"),
    "elering.json": from_preset("elering", "ee"),
    "swiss.json": from_preset("swiss", currency="CHF"),
    "tibber.json": from_preset("tibber", "0", "NOK"),
    "hour-ending-local-autumn.csv": lambda body: read_table(body, HOUR_ENDING),
    "local-with-false-z.json": FALSE_Z,
    "entsoe-acknowledgement.xml": from_entsoe,
    "entsoe-refused.xml": from_entsoe,
    "octopus-nothing-yet.json": from_octopus,
    "bad/entsoe-truncated.xml": from_entsoe,
    "bad/entsoe-point-beyond.xml": from_entsoe,
    "bad/entsoe-point-twice.xml": from_entsoe,
    "bad/entsoe-other-currency.xml": from_entsoe,
    "bad/entsoe-no-zone.xml": from_entsoe,
    "bad/entsoe-not-divisible.xml": from_entsoe,
    "bad/entsoe-price-nan.xml": from_entsoe,
    "bad/entsoe-entities.xml": from_entsoe,
    "bad/entsoe-page-of-html.xml": from_entsoe,
    "bad/octopus-overlap.json": from_octopus,
    "bad/octopus-null-price.json": from_octopus,
    "bad/octopus-no-zone.json": from_octopus,
    "bad/rows-two-prices.json": from_rows(),
    "bad/rows-missing-hour-local.json": from_rows(timezone="Europe/Berlin"),
    "bad/rows-one-alone.json": from_rows(),
    "bad/rows-truncated.json": from_rows(),
    "bad/rows-infinite.json": from_rows(),
    "bad/rows-text-price.json": from_rows(),
    "bad/rows-without-field.json": from_rows(),
    "bad/rows-object.json": from_rows(),
    "bad/rows-wrong-year.json": from_rows(),
    "bad/rows-ends-before.json": from_rows(end="e"),
    "bad/table-short-line.csv": from_rows(is_csv=True, where={"x": "1"}),
    "bad/table-no-column.csv": from_rows(is_csv=True),
}


def shown(intervals: Sequence[PriceInterval]) -> str:
    return "".join(
        f"{datetime.fromtimestamp(each.start_seconds, UTC):%Y-%m-%dT%H:%MZ}"
        f" {datetime.fromtimestamp(each.end_seconds, UTC):%Y-%m-%dT%H:%MZ} {each.price_per_kwh:.6f} {each.state}\n"
        for each in intervals
    )


@pytest.mark.parametrize("name", CASES)
def test_body_is_read_as_its_golden_says(name: str) -> None:
    try:
        intervals = CASES[name]((CAPTURES / name).read_bytes())
        PriceCurve.from_intervals(intervals)
        actual = shown(intervals)
    except SourceError as error:
        actual = f"{error.reason}: {error.detail}{f' ({error.hint})' if error.hint else ''}\n"
    golden = CAPTURES / f"{name}.golden"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(actual)
    assert actual == golden.read_text()


def test_every_capture_has_a_case() -> None:
    captures = {
        str(path.relative_to(CAPTURES))
        for path in CAPTURES.rglob("*.*")
        if path.suffix in {".json", ".xml", ".csv"} and not path.name.startswith("urdb")
    }
    assert captures == set(CASES)


def covered(name: str) -> float:
    """Quarter-hours with a price."""
    intervals = CASES[name]((CAPTURES / name).read_bytes())
    return sum(each.end_seconds - each.start_seconds for each in intervals) / 900


@pytest.mark.parametrize(
    ("name", "quarters"),
    [
        ("entsoe-spring-92.xml", 92),
        ("entsoe-autumn-100.xml", 100),
        ("entsoe-two-auctions.xml", 96),
        ("entsoe-hourly-a01-missing.xml", 84),
        ("entsoe-half-hours.xml", 96),
        ("entsoe-two-days-two-resolutions.xml", 192),
        ("energidataservice-spring-92.json", 92),
        ("energy-charts-autumn-100.json", 99),
        ("hour-ending-local-autumn.csv", 100),
        ("octopus-agile.json", 96),
        ("awattar.json", 96),
    ],
)
def test_local_day_is_covered_to_its_true_length_and_missing_rows_stay_missing(name: str, quarters: int) -> None:
    assert covered(name) == quarters


def test_auctions_are_not_mixed() -> None:
    body = (CAPTURES / "entsoe-two-auctions.xml").read_bytes()
    first, second = entsoe.parse(body, "EUR", 1), entsoe.parse(body, "EUR", 2)
    assert (first[0].price_per_kwh, second[0].price_per_kwh) == pytest.approx((0.04716, 0.06448))
    with pytest.raises(SourceError, match="no series of auction 3") as raised:
        entsoe.parse(body, "EUR", 3)
    assert raised.value.reason is Reason.NOT_YET


def test_finer_resolution_wins_over_coarser() -> None:
    body = (CAPTURES / "entsoe-two-days-two-resolutions.xml").read_bytes()
    first_day = [each for each in entsoe.parse(body, "EUR") if each.start_seconds < at("2026-06-14T22:00Z")]
    assert min(each.end_seconds - each.start_seconds for each in first_day) == 900


def test_false_z_is_read_as_the_local_clock() -> None:
    [first, *_] = FALSE_Z((CAPTURES / "local-with-false-z.json").read_bytes())
    assert first.start_seconds == at("2026-06-14T00:00+02:00")


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("bad/")])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_body_is_refused_or_says_nothing_wrong(name: str, share: float) -> None:
    """Whatever is read of a body that ends early is part of what the whole body says."""
    body = (CAPTURES / name).read_bytes()
    try:
        part = CASES[name](body[: int(len(body) * share)])
    except SourceError:
        return
    whole = PriceCurve.from_intervals(CASES[name](body))
    for each in part[:-1]:
        found = whole.at(each.start_seconds)
        assert found is not None
        assert found.price_per_kwh == each.price_per_kwh


@pytest.mark.parametrize("read", [from_entsoe, from_octopus, from_rows(), from_rows(is_csv=True)])
@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\xff" * 5_000_000, b"[" * 100_000, b"{}" * 1000, b"null", b"[1, 2]", b'"a"']
)
def test_garbage_is_refused(read: Callable[[bytes], Sequence[PriceInterval]], garbage: bytes) -> None:
    with pytest.raises(SourceError) as raised:
        read(garbage)
    assert raised.value.reason in {Reason.MALFORMED, Reason.NOT_YET}
    assert len(raised.value.detail) < 400


def test_energy_identification_codes_carry_their_check_letter() -> None:
    for name, code in entsoe.ZONES.items():
        assert entsoe.area_code(name) == code
    for wrong in ("DE", "10YFR-RTE------D", "FR-", "10Y1001A1001A82"):
        with pytest.raises(ValueError, match="no bidding zone"):
            entsoe.area_code(wrong)


def test_octopus_tariff_codes() -> None:
    assert octopus.product_of("E-1R-AGILE-24-10-01-C") == "AGILE-24-10-01"
    for wrong in ("AGILE-24-10-01", "E-1R-AGILE-24-10-01-I", "G-1R-X-A"):
        with pytest.raises(ValueError, match="no tariff code"):
            octopus.product_of(wrong)
    with pytest.raises(ValueError, match="day and a night rate"):
        octopus.product_of("E-2R-VAR-22-11-01-A")
