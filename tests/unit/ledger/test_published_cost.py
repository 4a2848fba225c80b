"""The worked example of docs/costs.md: published costs of a million tokens, from their hourly cost and speed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from support.quarters import GPUS, POLICY, ticks
from tpw.config.load import load
from tpw.ledger.advance import advance
from tpw.ledger.books import Books
from tpw.model import TokenKind

PAGE = (Path(__file__).parents[3] / "docs" / "costs.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| [A-Z0-9 a-z]+ \| ([\d.]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
HOUR = re.compile(r"This is ([\d.]+) USD for the hardware and ([\d.]+) USD for all-in colocation: ([\d.]+) USD")


def test_the_example_has_two_rows() -> None:
    assert len(ROWS) == 2


@pytest.mark.parametrize(("hourly", "rate", "published", "ours"), ROWS)
def test_a_published_cost_is_booked(hourly: str, rate: str, published: str, ours: str) -> None:
    """An hour of one GPU in the ledger; the speed is that of the publication."""
    costs = load(f"tariff: {{currency: USD}}\ncosts: {{gpu_hour: {{price: {hourly}}}}}").costs
    policy, books = replace(POLICY, rates=costs.rates(), curve=None), Books()
    for tick in ticks(end=next(iter(ticks())).at.wall_seconds + 3600.0):
        books = advance(books, tick, policy)
    booked = sum(one.cost["gpu_hour"] for key, one in books.postings.items() if key.gpu == GPUS[0].uuid)
    assert books.servers["chat"].tokens["llama-3.3-70b", TokenKind.OUTPUT] > 0.0
    per_million = booked / (float(rate) * 3600.0) * 1e6
    assert per_million == pytest.approx(float(ours), rel=0.005)
    assert per_million == pytest.approx(float(published), rel=0.04)


def test_the_hour_from_its_parts_is_what_the_page_has() -> None:
    config = load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    hourly = {rate.component: rate.per_gpu_second * 3600.0 for rate in config.costs.rates()}
    found = HOUR.search(" ".join(PAGE.split()))
    assert found is not None
    hardware, hosting, whole = map(float, found.groups())
    assert hourly == {"hardware": pytest.approx(hardware, abs=0.006), "hosting": pytest.approx(hosting, abs=0.006)}
    assert sum(hourly.values()) == pytest.approx(whole, abs=0.006)
