"""Advice over HTTP: ``/api/v1/advice``, as JSON and as a page, and its savings for the metrics page.

It is calculated by another process and off the tick: a request starts a calculation where none of the last hour is there,
and is answered at once. Nothing here is loaded before the first request, unless the metric is wanted.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from tpw.exposition.figures import figure
from tpw.exposition.http1 import Request, Response
from tpw.exposition.landing import content_security_policy, document
from tpw.snapshot import Snapshot

KEEP_SECONDS = 3600.0
"""Advice is from weeks: it changes by little in an hour."""
_RETRY_SECONDS = 60.0
"""After a calculation that failed."""
_STALE_SECONDS = 3 * KEEP_SECONDS
"""Older advice is not exposed as a metric: what cannot be calculated any more is absent."""
_NO_STORE = ("Cache-Control", "no-store")
_SOON = (_NO_STORE, ("Retry-After", "3"), ("Refresh", "3"))
_FOOT = '<a href="advice">as JSON</a> <a href="../../">status page</a>'


@dataclass(frozen=True, slots=True)
class Calculated:
    """The end of one calculation."""

    document: Mapping[str, Any] | None = None
    """As of ``tpw-exporter advise --format=json``; None where there is none."""
    problem: str = ""


def _in_background(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="advice", daemon=True).start()


class Advice:
    """The newest advice. From any thread.

    Args:
        calculate: makes advice; takes seconds, and never raises.
        clock: monotonic seconds.
        start: runs a calculation elsewhere.
    """

    def __init__(
        self,
        calculate: Callable[[], Calculated],
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = _in_background,
    ) -> None:
        self._calculate, self._clock, self._start = calculate, clock, start
        self._lock = threading.Lock()
        self._is_running = False
        self._newest: tuple[float, Calculated] | None = None
        self._last: tuple[float, Mapping[str, float]] | None = None
        """When there was advice, and its savings by kind."""
        self._attached: tuple[Snapshot, Snapshot] | None = None

    def newest(self) -> Calculated | None:
        """The end of the newest calculation; None before the first. Starts another where it is old."""
        newest, now = self._newest, self._clock()
        if newest is not None and now - newest[0] < (KEEP_SECONDS if newest[1].document else _RETRY_SECONDS):
            return newest[1]
        with self._lock:
            is_due, self._is_running = not self._is_running, True
        if is_due:
            try:
                self._start(self._run)
            except RuntimeError:  # no thread can be started now
                self._is_running = False
        newest = self._newest
        return None if newest is None else newest[1]

    def _run(self) -> None:
        try:
            found = self._calculate()
            self._newest = self._clock(), found
            if found.document is not None:
                self._last = self._clock(), savings(found.document)
        finally:
            self._is_running = False

    def with_savings(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the savings by kind; itself where there are none. The same object for the same snapshot: its
        page is rendered once."""
        self.newest()
        if self._last is None or self._clock() - self._last[0] > _STALE_SECONDS:
            return snapshot
        attached = self._attached
        if attached is None or attached[0] is not snapshot:
            self._attached = attached = snapshot, replace(snapshot, advice=self._last[1])
        return attached[1]

    def __call__(self, request: Request) -> Response:
        """Answer a request: the newest advice, or that it is being calculated."""
        found = self.newest()
        is_page = request.query.get("view") == ["html"]
        if found is None or found.document is None:
            problem = "it is being calculated: ask again in some seconds" if found is None else found.problem
            headers = _SOON if found is None else (_NO_STORE, ("Retry-After", f"{_RETRY_SECONDS:.0f}"))
            return Response(f"no advice yet: {problem}\n".encode("utf-8", "replace"), 503, headers=headers)
        if is_page:
            policy = ("Content-Security-Policy", content_security_policy())
            return Response(page(found.document), 200, "text/html; charset=utf-8", (_NO_STORE, policy))
        body = json.dumps(found.document, allow_nan=False).encode()
        return Response(body, 200, "application/json; charset=utf-8", (_NO_STORE,))


def savings(found: Mapping[str, Any]) -> dict[str, float]:
    """Money a month by kind: 0 where the books show that there is nothing to save, absent where they do not show it."""
    result = dict.fromkeys(found["answered"], 0.0)
    for one in found["advice"]:
        result[one["kind"]] = result.get(one["kind"], 0.0) + one["saving_per_month"]["value"]
    return result


def page(found: Mapping[str, Any]) -> bytes:
    """The advice as a page."""
    head = f"<h1>Advice</h1><p class=note>{escape(found['start'])} to {escape(found['end'])}</p>"
    lines = found["advice"]
    table = "<p>Nothing would save money, as far as these books show.</p>"
    if lines:
        heads = (f"{found['currency']} a month", "low", "high", "of it paid", "kind", "subject")
        names = "".join(f"<th{_NUMBER if place < 4 else ''}>{escape(name)}</th>" for place, name in enumerate(heads))
        rows = "".join(_row(line, heads) for line in lines)
        table = f"<div class=scroll><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>"
    lacks = "".join(f"<li>{escape(one['text'])}</li>" for one in found["missing"])
    rest = f"<h2>What the books do not show</h2><ul>{lacks}</ul>" if lacks else ""
    body = (
        f"<main class=text>{head}{table}{''.join(map(_paragraphs, lines))}<p>{escape(found['note'])}</p>{rest}</main>"
    )
    return document("tpw-exporter: advice", body, _FOOT)


_NUMBER = " class=n"


def _row(line: Mapping[str, Any], heads: Sequence[str]) -> str:
    saving = line["saving_per_month"]
    amounts = (saving["value"], saving["low"], saving["high"], line["paid_per_month"])
    cells = enumerate(zip((*map(figure, amounts), line["kind"], line["subject"]), heads, strict=True))
    return "<tr>{}</tr>".format(
        "".join(
            f'<td{_NUMBER if place < 4 else ""} data-head="{escape(head)}">{escape(cell)}</td>'
            for place, (cell, head) in cells
        )
    )


def _paragraphs(line: Mapping[str, Any]) -> str:
    since = f" Since {escape(line['since'])}." if line["since"] else ""
    texts: Sequence[str] = (escape(line["why"]) + since, f"<code>{escape(line['how'])}</code>")
    return f"<h2>{escape(line['what'])}</h2>" + "".join(f"<p>{text}</p>" for text in texts)
