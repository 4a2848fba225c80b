"""The section site: what is checked, what is queried, and how the node's part is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import fsum
from urllib.parse import parse_qs, urlsplit

import pytest

from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.daemon import policy
from tpw.daemon.policy import IN_KUBERNETES, NO_SITE, Facts
from tpw.daemon.pricing import Feeds, Pricing
from tpw.http.messages import Answer, Request
from tpw.model import SourceError
from tpw.polling import SourceHealth
from tpw.tariff.context import FeedContext
from tpw.tariff.site import SiteReading, SiteSource

NOW = 1_791_000_000.0
"""2026-10-03T04:00:00Z."""
MONTH = 1_790_812_800.0
TARIFF = "tariff: {currency: EUR, energy: {kind: flat, price_per_kwh: 0.2}, fixed: {per_month: 3897.40}"
QUERY = "{url: 'http://prometheus:9090', query: 'sum(site_watts)'}"


@pytest.fixture(autouse=True)
def _outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IN_KUBERNETES, raising=False)


@pytest.mark.parametrize(
    ("site", "tariff", "problem"),
    [
        ("{name: s, by: gpu}", "}", "needs `total`"),
        ("{name: s, by: kw, total: 100}", "}", "needs `node`"),
        ("{name: s, by: gpu, node: 9, total: 8}", "}", "more than the total"),
        ("{name: s, by: energy}", "}", "needs `power`"),
        (f"{{name: s, by: energy, total: 8, power: {QUERY}}}", "}", "neither node nor total"),
        ("{name: s, total: 8}", ", demand: {price_per_kw_month: 12}}", "demand charges of a site need `power`"),
    ],
)
def test_what_a_site_lacks_is_refused(site: str, tariff: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(f"{TARIFF}{tariff}\nsite: {site}")


@pytest.mark.parametrize(
    ("site", "sentence"),
    [
        ("{name: s, total: 640}", "the GPUs of the node / 640 of the site"),
        ("{name: s, by: kw, node: 10.2, total: 1020}", "10.2 kW / 1020 of the site"),
        (f"{{name: s, total: {QUERY}}}", "the GPUs of the node / site.total of the site"),
        (f"{{name: s, by: energy, power: {QUERY}}}", "the energy of the node in a quarter-hour / that of the site"),
    ],
)
def test_how_the_part_is_found_is_named(site: str, sentence: str) -> None:
    settings = load(f"{TARIFF}}}\nsite: {site}").site
    assert settings is not None
    assert sentence in settings.sentence()


def prometheus(watts: Callable[[float], float | None], asked: list[tuple[float, float]]) -> Callable[[Request], Answer]:
    """Means of a power at the end of each step, and 640 for every instant query."""

    def fetch(request: Request) -> Answer:
        parts = urlsplit(request.url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/query"):
            data = {"resultType": "vector", "result": [{"metric": {}, "value": [NOW, "640"]}]}
        else:
            assert query["query"] == "avg_over_time((sum(site_watts))[900s:30s])"
            start, end, step = (float(query[name]) for name in ("start", "end", "step"))
            asked.append((start, end))
            times = [start + step * count for count in range(round((end - start) / step) + 1)]
            values = [[at, str(found)] for at in times if (found := watts(at)) is not None]
            data = {"resultType": "matrix", "result": [{"metric": {}, "values": values}] if values else []}
        return Answer(200, json.dumps({"status": "success", "data": data}).encode(), {})

    return fetch


def source(
    watts: Callable[[float], float | None], asked: list[tuple[float, float]], clock: Callable[[], float]
) -> SiteSource:
    config = load(f"{TARIFF}, demand: {{price_per_kw_month: 12}}}}\nsite: {{name: s, total: {QUERY}, power: {QUERY}}}")
    assert config.site is not None
    context = FeedContext(clock, prometheus(watts, asked))
    return SiteSource(config.site, config.tariff.months(), (900.0,), context)


def test_the_power_of_the_month_is_read_once_and_then_what_is_new() -> None:
    asked: list[tuple[float, float]] = []
    now = [NOW + 600.0]
    site = source(lambda at: 1000.0 + (at - MONTH) / 900.0, asked, lambda: now[0])
    first = site.read()
    assert first.total == 640.0
    assert (first.spans[0][0], first.spans[-1][1]) == (MONTH, NOW)
    assert len(first.spans) == (NOW - MONTH) / 900.0
    # The mean that Prometheus has at the end of a quarter is that of the quarter.
    assert first.spans[0] == (MONTH, MONTH + 900.0, 1001.0 * 900.0)
    assert site.read().spans == first.spans
    now[0] += 900.0
    assert len(site.read().spans) == len(first.spans) + 1
    assert asked == [(MONTH + 900.0, NOW), (NOW + 900.0, NOW + 900.0)]


def test_all_nodes_read_the_same_whenever_they_ask() -> None:
    early, late = (
        source(lambda at: at % 7777.0, [], lambda delay=delay: NOW + delay).read() for delay in (200.0, 800.0)
    )
    assert early == late


def test_what_prometheus_does_not_have_is_not_made_up() -> None:
    site = source(lambda at: None if MONTH + 9000.0 < at < MONTH + 18000.0 else 500.0, [], lambda: NOW)
    spans = site.read().spans
    assert not [start for start, end, _ in spans if start < MONTH + 18000.0 - 900.0 and end > MONTH + 9900.0]
    with pytest.raises(SourceError):
        source(lambda at: None, [], lambda: NOW).read()


def test_the_share_follows_the_queries() -> None:
    config = load(f"{TARIFF}}}\nsite: {{name: s, by: energy, power: {QUERY}}}")
    spans = ((NOW - 900.0, NOW, 100.0 * 3.6e6),)
    site = policy.policy(config, Facts(site=SiteReading(None, spans))).site
    assert site is not None
    assert site.month_kwh == {MONTH: 100.0}
    assert site.share(8, {NOW - 900.0: 25.0 * 3.6e6}) == 0.25
    assert site.share(8, {}) is None


def test_a_site_without_queries_is_no_source() -> None:
    config = load(f"{TARIFF}}}\nsite: {{name: s, total: 640}}")
    feeds = Feeds(config, SourceHealth, lambda: NOW)
    assert feeds.names == ("tariff",)
    site = policy.policy(config, feeds.facts).site
    assert site is not None and site.share(8, {}) == 8 / 640


# -------------------------------------------------------------------------------------------------------- in a cluster


def pricing(text: str) -> Pricing:
    config = load(text)
    return Pricing(config, Feeds(config, SourceHealth, lambda: NOW))


def test_in_kubernetes_charges_of_the_site_are_not_booked_by_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IN_KUBERNETES, "10.0.0.1")
    shared = pricing(TARIFF + "}")
    assert shared.policy.site is not None
    assert shared.policy.site.share(8, {}) is None
    assert NO_SITE in shared.notes()


def test_in_kubernetes_a_site_or_a_tariff_without_charges_is_as_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IN_KUBERNETES, "10.0.0.1")
    example = re.search("`(site: .*)`", NO_SITE)
    assert example is not None
    whole = pricing(f"{TARIFF}}}\n{example[1]}")
    assert whole.policy.site is not None and whole.policy.site.share(8, {}) == 1.0
    assert pricing("tariff: {currency: EUR, energy: {kind: flat, price_per_kwh: 0.2}}").policy.site is None


def test_outside_of_a_cluster_one_node_is_its_site() -> None:
    alone = pricing(TARIFF + "}")
    assert alone.policy.site is None
    assert fsum(charge.per_month for charge in alone.policy.standing_charges) == 3897.40
    assert NO_SITE not in alone.notes()
