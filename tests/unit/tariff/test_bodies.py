"""Bodies of feeds: every capture is read through the settings beside it and compared with its golden.

The settings of a capture are in the ``.yaml`` with the longest name that begins the capture's, here or in the folder above.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tpw.config import load
from tpw.http.messages import Answer
from tpw.model import PriceInterval, Reason, SourceError
from tpw.tariff import LAYERS, entsoe, octopus
from tpw.tariff.context import FeedContext
from tpw.tariff.curve import PriceCurve
from tpw.tariff.feed import Reader
from tpw.tariff.intervals import PRESETS

CAPTURES = Path(__file__).parents[2] / "captures" / "tariff"
NAMES = sorted(
    str(path.relative_to(CAPTURES))
    for path in CAPTURES.rglob("*.*")
    if path.suffix in {".json", ".xml", ".csv", ".zip"}
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


START, END = at("2026-06-01T00:00Z"), at("2026-06-16T00:00Z")


def settings_file(name: str) -> Path:
    body = CAPTURES / name
    for folder in (body.parent, CAPTURES):
        found = [path for path in folder.glob("*.yaml") if body.stem.startswith(path.stem)]
        if found:
            return max(found, key=lambda path: len(path.stem))
    pytest.fail(f"{name} has no settings: write them into a .yaml beside it")


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Sequence[PriceInterval]]:
    """Reads a body by the settings of a capture."""
    (tmp_path / "secret").write_text("s3cret")

    def read_body(name: str, body: bytes | None = None) -> Sequence[PriceInterval]:
        settings = yaml.safe_load(settings_file(name).read_text())
        tariff = load(yaml.safe_dump({"tariff": settings}), str(tmp_path / "tpw.yaml")).tariff
        content = (CAPTURES / name).read_bytes() if body is None else body
        answer = Answer(200, content)
        if file := settings["energy"].get("file"):
            (tmp_path / file).write_bytes(content)
        source: Any = tariff.energy[0].source(tariff, FeedContext(fetch=lambda request: answer))
        reader: Reader = source._reader
        return reader.read(START, END)

    return read_body


Read = Callable[..., Sequence[PriceInterval]]


def shown(intervals: Sequence[PriceInterval]) -> str:
    return "".join(
        f"{datetime.fromtimestamp(price.start_seconds, UTC):%Y-%m-%dT%H:%MZ}"
        f" {datetime.fromtimestamp(price.end_seconds, UTC):%Y-%m-%dT%H:%MZ} {price.price_per_kwh:.6f} {price.state}\n"
        for price in intervals
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_read_to_its_golden(name: str, read: Read) -> None:
    try:
        intervals = read(name)
        PriceCurve.from_intervals(intervals)
        actual = shown(intervals)
    except SourceError as error:
        actual = f"{error.reason}: {error.detail}{f' ({error.hint})' if error.hint else ''}\n"
    golden = CAPTURES / f"{name}.golden"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(actual)
    assert actual == golden.read_text()


def test_every_source_and_preset_has_a_capture() -> None:
    layers = [yaml.safe_load(settings_file(name).read_text())["energy"] for name in NAMES if "bad/" not in name]
    assert {layer["kind"] for layer in layers} == set(LAYERS) - {"flat", "time_of_use"}
    layouts = [PRESETS[layer["preset"]].layout for layer in layers if "preset" in layer]
    assert [name for name, preset in PRESETS.items() if preset.layout not in layouts] == []


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
def test_a_local_day_has_its_true_length_and_missing_rows_are_not_covered(name: str, quarters: int, read: Read) -> None:
    assert sum(price.end_seconds - price.start_seconds for price in read(name)) / 900 == quarters


def test_auctions_are_not_mixed() -> None:
    body = (CAPTURES / "entsoe-two-auctions.xml").read_bytes()
    first, second = entsoe.parse(body, "EUR", 1), entsoe.parse(body, "EUR", 2)
    assert (first[0].price_per_kwh, second[0].price_per_kwh) == pytest.approx((0.04716, 0.06448))
    with pytest.raises(SourceError, match="no series of auction 3") as raised:
        entsoe.parse(body, "EUR", 3)
    assert raised.value.reason is Reason.NOT_YET


def test_prices_of_the_intraday_auctions_are_not_those_of_the_day_ahead_market(read: Read) -> None:
    """Spain publishes both in one document."""
    first, *_ = read("entsoe-es-intraday-auctions.xml")
    assert (first.start_seconds, first.price_per_kwh) == (at("2026-06-14T22:00Z"), pytest.approx(0.0516))


def test_finer_resolution_wins_over_coarser() -> None:
    body = (CAPTURES / "entsoe-two-days-two-resolutions.xml").read_bytes()
    first_day = [price for price in entsoe.parse(body, "EUR") if price.start_seconds < at("2026-06-14T22:00Z")]
    assert min(price.end_seconds - price.start_seconds for price in first_day) == 900


def test_a_wrong_z_is_read_as_local_time(read: Read) -> None:
    [first, *_] = read("local-with-false-z.json")
    assert first.start_seconds == at("2026-06-14T00:00+02:00")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("bad/")])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_body_is_refused_or_read_in_part(name: str, share: float, read: Read) -> None:
    """Prices of a truncated body are prices of the whole body."""
    body = (CAPTURES / name).read_bytes()
    try:
        part = read(name, body[: int(len(body) * share)])
    except SourceError:
        return
    whole = PriceCurve.from_intervals(read(name))
    for price in part[:-1]:
        found = whole.at(price.start_seconds)
        assert found is not None
        assert found.price_per_kwh == price.price_per_kwh


@pytest.mark.parametrize("name", {settings_file(name): name for name in NAMES}.values())
@pytest.mark.parametrize(
    "garbage", [b"", b"\x00\xff" * 5_000_000, b"[" * 100_000, b"{}" * 1000, b"null", b"[1, 2]", b'"a"']
)
def test_garbage_is_refused(name: str, garbage: bytes, read: Read) -> None:
    with pytest.raises(SourceError) as raised:
        read(name, garbage)
    assert raised.value.reason in {Reason.MALFORMED, Reason.NOT_YET, Reason.ABSENT}
    assert len(raised.value.detail) < 400


def test_a_period_of_more_points_than_several_years_is_refused() -> None:
    body = (CAPTURES / "entsoe-spring-92.xml").read_bytes()
    for name, time in ((b"start", b"1970-01-01T00:00Z"), (b"end", b"2026-01-01T00:00Z")):
        body = re.sub(rb"<%s>[^<]*</%s>" % (name, name), b"<%s>%s</%s>" % (name, time, name), body)
    with pytest.raises(SourceError, match="cannot be cut"):
        entsoe.parse(body, "EUR")


def test_energy_identification_codes_carry_their_check_letter() -> None:
    for name, code in entsoe.ZONES.items():
        assert entsoe.area_code(name) == code
    for wrong in ("DE", "10YFR-RTE------D", "FR-", "10Y1001A1001A82"):
        with pytest.raises(ValueError, match="not a bidding zone"):
            entsoe.area_code(wrong)


def test_octopus_tariff_codes() -> None:
    assert octopus.product_of("E-1R-AGILE-24-10-01-C") == "AGILE-24-10-01"
    for wrong in ("AGILE-24-10-01", "E-1R-AGILE-24-10-01-I", "G-1R-X-A"):
        with pytest.raises(ValueError, match="not a tariff code"):
            octopus.product_of(wrong)
    with pytest.raises(ValueError, match="day and a night rate"):
        octopus.product_of("E-2R-VAR-22-11-01-A")
