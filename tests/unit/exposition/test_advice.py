"""Advice over HTTP, and its savings as a metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from support.snapshots import rich_snapshot
from tpw.exposition.advice import KEEP_SECONDS, Advice, Calculated
from tpw.exposition.http1 import Request

LINE: dict[str, Any] = {
    "kind": "idle",
    "subject": "GPU 1",
    "saving_per_month": {"value": 700.0, "low": 690.0, "high": 710.0},
    "paid_per_month": 10.0,
    "what": "Release <GPU 1>.",
    "why": "It is idle.",
    "how": "nvidia-smi",
    "since": None,
    "details": {},
}
DOCUMENT: dict[str, Any] = {
    "currency": "EUR",
    "start": "2026-10-01T00:00:00+00:00",
    "end": "2026-10-29T00:00:00+00:00",
    "advice": [LINE, LINE],
    "answered": ["idle", "parked"],
    "note": "Alone.",
    "missing": [{"kind": "schedule", "subject": "chat", "text": "No start was measured."}],
}


class Bench:
    """A calculation that ends when the test wants."""

    def __init__(self, *results: Calculated) -> None:
        self.now, self.results, self.waiting = 0.0, list(results), list[Callable[[], None]]()
        self.advice = Advice(lambda: self.results.pop(0), lambda: self.now, self.waiting.append)

    def get(self, **query: str) -> Any:
        return self.advice(Request("GET", "/api/v1/advice", {name: [value] for name, value in query.items()}))

    def end(self) -> None:
        self.waiting.pop(0)()


def test_a_request_starts_one_calculation_and_is_answered_at_once() -> None:
    bench = Bench(Calculated(DOCUMENT))
    assert [bench.get().status, bench.get().status, len(bench.waiting)] == [503, 503, 1]
    bench.end()
    assert (bench.get().status, json.loads(bench.get().body)) == (200, DOCUMENT)
    bench.now = KEEP_SECONDS - 1.0
    assert bench.get().status == 200
    assert bench.waiting == []


def test_old_advice_is_answered_while_newer_is_calculated() -> None:
    bench = Bench(Calculated(DOCUMENT), Calculated({**DOCUMENT, "currency": "USD"}))
    bench.get()
    bench.end()
    bench.now = KEEP_SECONDS
    assert json.loads(bench.get().body)["currency"] == "EUR"
    bench.end()
    assert json.loads(bench.get().body)["currency"] == "USD"


def test_a_problem_is_answered_and_tried_again_after_a_minute() -> None:
    bench = Bench(Calculated(problem="the books hold 3.0 days"), Calculated(DOCUMENT))
    bench.get()
    bench.end()
    assert (bench.get().status, bench.get().body) == (503, b"no advice yet: the books hold 3.0 days\n")
    assert bench.waiting == []
    bench.now = 61.0
    assert bench.get().status == 503
    bench.end()
    assert bench.get().status == 200


def test_the_page_shows_every_line_and_escapes_it() -> None:
    bench = Bench(Calculated(DOCUMENT))
    bench.get()
    bench.end()
    answer = bench.get(view="html")
    text = answer.body.decode()
    assert answer.content_type.startswith("text/html")
    assert text.count('<td data-head="subject">GPU 1</td>') == 2
    assert "Release &lt;GPU 1&gt;." in text
    assert "No start was measured." in text


def test_savings_are_sums_by_kind_and_leave_when_they_are_old() -> None:
    bench, snapshot = Bench(Calculated(DOCUMENT), Calculated(problem="gone")), rich_snapshot()
    assert bench.advice.with_savings(snapshot) is snapshot
    bench.end()
    exposed = bench.advice.with_savings(snapshot)
    assert exposed.advice == {"idle": 1400.0, "parked": 0.0}
    assert bench.advice.with_savings(snapshot) is exposed, "rendered once"
    bench.now = 2.0 * KEEP_SECONDS
    assert bench.advice.with_savings(snapshot) is exposed
    bench.end()
    assert bench.advice.with_savings(snapshot) is exposed, "the calculation failed once"
    bench.now = 4.0 * KEEP_SECONDS
    assert bench.advice.with_savings(snapshot) is snapshot
