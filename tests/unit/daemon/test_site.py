"""Nodes of one site, each a daemon: what their pages show of the site's charges."""

from __future__ import annotations

import json

import pytest

from support.pageserver import PageServer, answer
from support.scraped import Page, parse
from tpw.config.load import load
from tpw.daemon import reload
from tpw.daemon.daemon import Daemon
from tpw.daemon.policy import IN_KUBERNETES, NO_SITE
from tpw.exposition.render import Format
from tpw.exposition.render import Page as Rendered
from tpw.exposition.status import status
from tpw.power.simulated import SimulatedMeter

START = 1_790_812_800.0
"""2026-10-01T00:00:00Z."""
HOUR = 3600.0
MONTHLY = 3897.40
OF_AN_HOUR = MONTHLY / 31.0 / 24.0


class Node:
    """A daemon on a clock that the test moves."""

    def __init__(self, site: str = "", gpus: int = 2) -> None:
        self.now = START
        self.daemon = Daemon(
            self._config(site),
            clock=lambda: self.now - START,
            wall=lambda: self.now,
            accelerators=[SimulatedMeter(gpus=gpus)],
        )
        self.daemon.poll_all()

    @staticmethod
    def _config(site: str) -> object:
        return load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            tariff:
              currency: EUR
              energy: {{kind: flat, price_per_kwh: 0.2}}
              fixed: {{per_month: {MONTHLY}}}
            {site}
            """
        )  # type: ignore[no-any-return]

    def reload(self, site: str) -> None:
        config = self._config(site)
        node = self.daemon._node
        reload.apply(node, config, reload.prepare(node, config, self.now))  # type: ignore[arg-type]

    def hour(self) -> None:
        self.now += HOUR
        self.daemon.read_feeds()
        self.daemon.tick()

    def page(self) -> Page:
        return parse(Rendered().body(self.daemon.snapshot, Format.TEXT).decode())

    def fixed(self) -> float:
        return self.page().sum("tpw_gpu_state_cost_total", component="fixed")

    def notes(self) -> str:
        return " ".join(status(self.daemon.snapshot)["notes"])


def test_nodes_of_a_site_book_its_charges_once_by_their_gpus() -> None:
    nodes = [Node("site: {name: berlin, total: 10}", gpus) for gpus in (2, 3, 5)]
    for node in nodes:
        node.hour()
    assert sum(node.fixed() for node in nodes) == pytest.approx(OF_AN_HOUR, rel=1e-9)
    shares = [node.page().value("tpw_site_share_ratio", site="berlin", by="gpu") for node in nodes]
    assert shares == [0.2, 0.3, 0.5]
    assert "this node books 20 % of the site's charges: 2 of 10 GPUs" in nodes[0].notes()
    assert status(nodes[0].daemon.snapshot)["site"] == {
        "name": "berlin",
        "by": "gpu",
        "node": 2.0,
        "total": 10.0,
        "share": 0.2,
    }
    for node in nodes:
        node.daemon.stop()


def test_one_node_alone_is_its_site() -> None:
    node = Node()
    node.hour()
    assert node.fixed() == pytest.approx(OF_AN_HOUR, rel=1e-9)
    assert node.page().sum("tpw_site_share_ratio") == 0.0
    assert status(node.daemon.snapshot)["site"] is None
    node.daemon.stop()


def test_in_kubernetes_charges_wait_for_the_site_and_are_booked_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IN_KUBERNETES, "10.0.0.1")
    node = Node()
    node.hour()
    assert node.fixed() == 0.0
    assert node.page().sum("tpw_gpu_state_cost_total", component="energy") > 0.0
    assert NO_SITE in node.notes()
    node.reload("site: {name: berlin, total: 8}")
    node.hour()
    assert node.fixed() == pytest.approx(2.0 * OF_AN_HOUR / 4.0, rel=1e-9)
    assert NO_SITE not in node.notes()
    node.daemon.stop()


def test_a_total_that_prometheus_does_not_return_defers_the_charges() -> None:
    up = [False]

    def script(_: object) -> bytes:
        result = [{"metric": {}, "value": [START, "4"]}] if up[0] else []
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return answer(json.dumps(body), content_type="application/json")

    with PageServer(script) as prometheus:
        url = f"http://127.0.0.1:{prometheus.port}"
        node = Node(f"site: {{name: berlin, total: {{url: '{url}', query: gpus}}}}")
        node.hour()
        assert node.fixed() == 0.0
        assert node.page().value("tpw_source_up", source="site") == 0.0
        assert "not known yet" in node.notes()
        up[0] = True
        node.hour()
        assert node.fixed() == pytest.approx(2.0 * OF_AN_HOUR / 2.0, rel=1e-9)
        assert node.page().value("tpw_source_up", source="site") == 1.0
        node.daemon.stop()
