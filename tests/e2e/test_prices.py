"""Prices from a real Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import pytest

from support.pageserver import NOT_FOUND, Asked, PageServer, answer
from support.servers import wait_until
from tpw.http.fetch import fetch
from tpw.model import Reason, SourceError
from tpw.tariff.context import FeedContext
from tpw.tariff.months import BillingMonths
from tpw.tariff.prometheus import FromPrometheus
from tpw.tariff.site import LATE_SECONDS, SiteQuery, SiteSettings, SiteSource


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_price_of_a_real_prometheus_changes_and_ends_where_its_target_goes(
    prometheus: Callable[..., Any], version: Literal["2", "3"]
) -> None:
    """A scrape that fails ends the series at once: its last price is not held for the five minutes of the lookback."""
    price: list[str | None] = ["80.25"]

    def page(asked: Asked) -> bytes:
        return NOT_FOUND if price[0] is None else answer(f'spot_price_eur_per_mwh{{zone="DE-LU"}} {price[0]}\n')

    begun = time.time()
    with PageServer(page) as target:
        server = prometheus({"prices": [target.url.removeprefix("http://")]}, version=version)
        server.wait_for("spot_price_eur_per_mwh == 80.25")
        price[0] = "-12.5"
        server.wait_for("spot_price_eur_per_mwh == -12.5")
        time.sleep(1.2)  # Prometheus' own clock: one more step with that price
        price[0] = None
        wait_until(lambda: not server.query("spot_price_eur_per_mwh"), "the series has ended")

    reader = FromPrometheus(
        server.url, 'avg(spot_price_eur_per_mwh{zone="DE-LU"})', fetch, step_seconds=1.0, factor=0.001
    )
    found = reader.read(begun, time.time() + 3600)
    assert [interval.price_per_kwh for interval in found] == pytest.approx([0.08025, -0.0125])
    assert found[0].end_seconds == found[1].start_seconds
    assert begun < found[0].start_seconds
    assert found[1].end_seconds <= time.time() + 1

    for query, reason, words in (
        ("avg(", Reason.MALFORMED, "parse error"),
        ("no_such_metric", Reason.ABSENT, "returns no series"),
        ('{job="prometheus"} or up or vector(1)', Reason.MALFORMED, "Aggregate it to one"),
    ):
        with pytest.raises(SourceError) as raised:
            FromPrometheus(server.url, query, fetch, step_seconds=1.0).read(begun, time.time())
        assert raised.value.reason is reason
        assert words in f"{raised.value.detail}. {raised.value.hint}"


def test_the_power_of_a_site_is_read_from_a_real_prometheus(prometheus: Callable[..., Any]) -> None:
    """Two meters of a site for two hours: the joules of a quarter-hour are those of both, and none are for other times."""
    quarters = 8
    end = int(time.time() - 600.0) // 900 * 900
    begin = end - 900 * quarters
    moments = range(begin + 30, end + 1, 30)

    def watts(at: int) -> int:
        return 1000 + 100 * ((at - begin - 1) // 900)

    lines = [f'site_watts{{meter="a"}} {watts(at)} {at}000' for at in moments]
    lines += [f'site_watts{{meter="b"}} 2500 {at}000' for at in moments]
    with PageServer(lambda _: answer("\n".join([*lines, ""]))) as target:
        server = prometheus({"site": [target.url.removeprefix("http://")]})
        wait_until(lambda: server.at("count(site_watts) == 2", end), "both meters")
    settings = SiteSettings(name="s", by="energy", power=SiteQuery(url=server.url, query="sum(site_watts)"))
    context = FeedContext(lambda: end + LATE_SECONDS, fetch)
    spans = SiteSource(settings, BillingMonths(), (900.0,), context).read().spans

    assert [(start, until) for start, until, _ in spans] == [
        (begin + 900.0 * number, begin + 900.0 * (number + 1)) for number in range(quarters)
    ]
    assert [joules for *_, joules in spans] == pytest.approx(
        [(3500.0 + 100.0 * number) * 900.0 for number in range(quarters)]
    )
