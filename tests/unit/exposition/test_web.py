"""What is answered where. Requests go to the handler; the way over a socket is tested beside it."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.realparts import prometheus_dir
from support.snapshots import empty_snapshot, fleet_snapshot, rich_snapshot
from tpw.exposition import landing
from tpw.exposition.actions import BusyError
from tpw.exposition.http1 import Request, Response
from tpw.exposition.process import ProcessTail
from tpw.exposition.render import Format, Page
from tpw.exposition.serving import Server
from tpw.exposition.web import Web
from tpw.model import SourceStatus
from tpw.snapshot import DemandNow, Snapshot


class Current:
    """Returns the current snapshot, and counts the calls."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.taken = 0

    def __call__(self) -> Snapshot:
        self.taken += 1
        return self.snapshot


def web(snapshot: Snapshot, **settings: object) -> Web:
    return Web(Current(snapshot), Page(), **settings)  # type: ignore[arg-type]


def get(
    handler: Web, path: str, method: str = "GET", query: dict[str, list[str]] | None = None, **headers: str
) -> Response:
    return handler(
        Request(method, path, query or {}, {name.replace("_", "-"): value for name, value in headers.items()})
    )


# ------------------------------------------------------------------------------------------------------------- metrics


def test_the_metrics_page_is_text_unless_asked_otherwise():
    snapshot = rich_snapshot()
    answer = get(web(snapshot), "/metrics")
    assert (answer.status, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"\ntpw_exposition_dropped_samples_total 0.0\n" in answer.body
    openmetrics = get(web(snapshot), "/metrics", accept="application/openmetrics-text")
    assert openmetrics.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert openmetrics.body.endswith(b"# EOF\n")


def test_the_metrics_page_is_compressed_if_the_client_accepts_it():
    snapshot = rich_snapshot()
    handler = web(snapshot)
    answer = get(handler, "/metrics", accept_encoding="gzip")
    assert ("Content-Encoding", "gzip") in answer.headers
    assert ("Vary", "Accept, Accept-Encoding") in answer.headers
    assert gzip.decompress(answer.body) == get(handler, "/metrics").body


def test_the_metrics_page_can_be_filtered():
    answer = get(web(rich_snapshot()), "/metrics", query={"name[]": ["tpw_polls_total", "tpw_gpu_up"]})
    names = {line.split("{")[0].split(" ")[0] for line in answer.body.decode().splitlines() if not line.startswith("#")}
    assert names == {"tpw_polls_total", "tpw_gpu_up"}


def test_a_scrape_reads_the_snapshot_once():
    current = Current(rich_snapshot())
    Web(current, Page())(Request("GET", "/metrics"))
    assert current.taken == 1


def test_the_metrics_path_can_be_configured():
    handler = web(rich_snapshot(), telemetry_path="gpu/metrics/")
    assert get(handler, "/gpu/metrics").body.startswith(b"# HELP")
    assert get(handler, "/metrics").status == 404
    assert b'href="gpu/metrics"' in get(handler, "/").body


def test_the_metrics_can_be_at_the_root():
    assert get(web(rich_snapshot(), telemetry_path="/"), "/").body.startswith(b"# HELP")


def test_a_bug_in_rendering_fails_that_request_and_is_logged_once(monkeypatch: pytest.MonkeyPatch):
    handler = web(rich_snapshot())

    def fail(*arguments: object, **settings: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(handler._page, "body", fail)
    with capture_logs() as logs:
        assert [get(handler, "/metrics").status for _ in range(3)] == [500, 500, 500]
        assert get(handler, "/-/healthy").status == 200
    assert [(entry["event"], entry["error"]) for entry in logs] == [("http_request_failed", "RuntimeError: a bug")]


def test_a_bug_in_rendering_ahead_does_not_affect_the_tick(monkeypatch: pytest.MonkeyPatch):
    handler = web(rich_snapshot())

    def fail(snapshot: Snapshot) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(handler._page, "prepare", fail)
    with capture_logs() as logs:
        handler.prepare(rich_snapshot(1))
        handler.prepare(rich_snapshot(2))
    assert [entry["event"] for entry in logs] == ["http_request_failed"]


def test_a_value_that_is_not_finite_is_dropped_counted_and_logged_once():
    snapshot = replace(rich_snapshot(), poll_lag_seconds=float("nan"))
    current = Current(snapshot)
    handler = Web(current, Page())
    with capture_logs() as logs:
        assert b"\ntpw_poll_lag_seconds" not in get(handler, "/metrics").body
        current.snapshot = replace(snapshot)
        second = get(handler, "/metrics").body
    assert b"\ntpw_exposition_dropped_samples_total 1.0\n" in second
    assert [(entry["event"], entry["metric"]) for entry in logs] == [("sample_dropped", "tpw_poll_lag_seconds")]


# -------------------------------------------------------------------------------------------------------------- health


def test_healthy_until_the_ticks_are_stuck():
    reasons = [""]
    waited: list[float] = []
    handler = web(empty_snapshot(), stuck=lambda: reasons[0], wait=waited.append)
    assert get(handler, "/-/healthy").status == 200
    assert waited == []
    reasons[0] = "polling is stuck"
    answer = get(handler, "/-/healthy")
    assert (answer.status, answer.body) == (503, b"unhealthy: polling is stuck\n")


def test_healthy_after_a_suspension_of_the_whole_process():
    reasons = ["polling is stuck"]
    handler = web(empty_snapshot(), stuck=lambda: reasons[-1], wait=lambda seconds: reasons.append(""))
    assert get(handler, "/-/healthy").status == 200


def test_ready_once_nothing_is_awaited_and_then_for_good():
    awaited = ["meter nvml", "server chat"]
    handler = Web(Current(empty_snapshot()), Page(), awaited=lambda: awaited)
    answer = get(handler, "/-/ready")
    assert (answer.status, answer.body) == (503, b"not ready; awaited:\nmeter nvml\nserver chat\n")
    awaited.clear()
    assert get(handler, "/-/ready").status == 200
    awaited.append("server new")
    assert get(handler, "/-/ready").status == 200


def test_metrics_cannot_replace_a_probe():
    """Probes need no password, so metrics under their path would need none either."""
    handler = Web(Current(rich_snapshot()), Page(), telemetry_path="/-/healthy")
    assert b"tpw_" not in get(handler, "/-/healthy").body


# -------------------------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    ("action", "problems", "status", "words"),
    [
        ("reload", (), 200, b"reloaded"),
        (
            "reload",
            ("tpw.yml:3: polling.intervall is not known", "tpw.yml:9: no"),
            400,
            b"tpw.yml:3: polling.intervall is not known",
        ),
        ("release", (), 200, b"released"),
        ("release", ("a driver call does not return",), 503, b"a driver call does not return"),
        ("resume", (), 200, b"resumed"),
        ("resume", ("no tick came",), 503, b"no tick came"),
    ],
)
def test_an_action_is_answered_with_its_result(
    method: str, action: str, problems: Sequence[str], status: int, words: bytes
):
    handler = web(rich_snapshot(), is_lifecycle_enabled=True, **{action: lambda: problems})
    answer = get(handler, f"/-/{action}", method, host="localhost:10101")
    assert answer.status == status
    assert words in answer.body


@pytest.mark.parametrize("action", ["reload", "release", "resume"])
def test_no_action_runs_by_get_or_for_another_site(action: str):
    called = []
    handler = web(rich_snapshot(), is_lifecycle_enabled=True, **{action: lambda: called.append(1) or ()})
    assert get(handler, f"/-/{action}", host="localhost").status == 405
    refused = get(handler, f"/-/{action}", "POST", host="localhost", origin="http://evil.example")
    assert refused.status == 403
    assert b"another site" in refused.body
    assert called == []
    assert get(handler, f"/-/{action}", "POST", host="localhost", origin="http://localhost").status == 200
    assert called == [1]


@pytest.mark.parametrize(("action", "signal"), [("reload", "SIGHUP"), ("release", "SIGUSR1"), ("resume", "SIGUSR2")])
def test_actions_are_not_enabled_by_default(action: str, signal: str):
    called = []
    handler = web(rich_snapshot(), **{action: lambda: called.append(1) or ()})
    answer = get(handler, f"/-/{action}", "POST", host="localhost")
    assert (answer.status, called) == (403, [])
    assert b"--web.enable-lifecycle" in answer.body
    assert signal.encode() in answer.body


def test_pages_are_answered_for_every_host_name():
    """Scrapers use whatever name their discovery has."""
    for path in ("/metrics", "/", "/api/v1/status", "/-/healthy", "/-/ready"):
        assert get(web(rich_snapshot()), path, host="node-7.example", origin="http://grafana.example").status == 200


def test_a_reload_that_raises_is_a_500():
    def fail() -> Sequence[str]:
        raise RuntimeError("a bug")

    handler = web(rich_snapshot(), is_lifecycle_enabled=True, reload=fail)
    with capture_logs():
        assert get(handler, "/-/reload", "POST", host="localhost").status == 500


def test_when_too_many_wait_for_an_action_the_next_is_refused():
    def busy() -> Sequence[str]:
        raise BusyError

    answer = get(web(rich_snapshot(), is_lifecycle_enabled=True, reload=busy), "/-/reload", "POST", host="localhost")
    assert (answer.status, answer.headers) == (503, (("Retry-After", "1"),))


@pytest.mark.parametrize("action", ["reload", "release", "resume"])
def test_an_action_that_is_not_available_is_a_404(action: str):
    answer = get(web(rich_snapshot(), is_lifecycle_enabled=True), f"/-/{action}", "POST", host="localhost")
    assert (answer.status, answer.body) == (404, f"nothing to {action}\n".encode())


# -------------------------------------------------------------------------------------------------------------- others


def test_an_unknown_path_is_answered_with_the_known_ones():
    answer = get(web(rich_snapshot()), "/metric")
    assert answer.status == 404
    assert b"/metrics" in answer.body


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/status", "/api/v1/prices", "/docs/metrics", "/runbooks/"],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_other_methods_are_answered_with_the_allowed_ones(path: str, method: str):
    answer = get(web(rich_snapshot()), path, method)
    assert (answer.status, answer.headers) == (405, (("Allow", "GET, HEAD"),))


def test_the_status_is_strict_json():
    answer = get(web(rich_snapshot()), "/api/v1/status")
    assert answer.content_type == "application/json; charset=utf-8"
    found = json.loads(answer.body, parse_constant=pytest.fail)
    assert found["currency"] == "EUR"
    assert [gpu["state"] for gpu in found["gpus"]] == ["active", "active", "parked", "idle", None, "idle"]


# ------------------------------------------------------------------------------------------------- the landing page


class Outline(HTMLParser):
    """Collects open tags and text; fails if tags are not closed in order."""

    _VOID = frozenset({"meta", "link", "br", "rect", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(document: bytes) -> Outline:
    parser = Outline()
    parser.feed(document.decode())
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("snapshot", [rich_snapshot, empty_snapshot, lambda: fleet_snapshot(2, 2, priced=False)])
def test_the_page_is_well_formed_and_self_contained(snapshot: object):
    answer = get(web(snapshot(), host="node-1"), "/")  # type: ignore[operator]
    page = outline(answer.body)
    links = [value for _, attributes in page.seen for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert [link for link in links if link is None or "//" in link.removeprefix("data:image/svg+xml,")[:8]] == []
    assert not any(name == "style" or name.startswith("on") for _, attributes in page.seen for name in attributes)


def test_the_policy_allows_exactly_the_style_and_script_of_the_page():
    answer = get(web(rich_snapshot()), "/")
    policy = dict(answer.headers)["Content-Security-Policy"]
    text = answer.body.decode()
    style = text.split("<style>")[1].split("</style>")[0]
    script = text.split("<script>")[1].split("</script>")[0]
    assert f"style-src 'sha256-{landing._digest(style)}'" in policy
    assert f"script-src 'sha256-{landing._digest(script)}'" in policy
    assert "default-src 'none'" in policy


def test_external_names_cannot_become_markup():
    evil = "<script>alert(1)</script>\"'&"
    snapshot = rich_snapshot()
    server = replace(
        snapshot.books.servers["chat"], name=evil, engine=evil, version=evil, models=(evil,), gpus=frozenset()
    )
    account = snapshot.books.gpus["sim:odd"]
    gpu = replace(account, gpu=replace(account.gpu, name=evil, uuid=evil, method_note=evil))
    books = replace(snapshot.books, servers={evil: server}, gpus={evil: gpu})
    source = SourceStatus(evil, up=False, read_duration_seconds=0.1, detail=evil, hint=evil)
    snapshot = replace(snapshot, books=books, sources=(source,), notes=(evil,))
    answer = get(web(snapshot, host=evil), "/")
    page = outline(answer.body)
    assert [tag for tag, _ in page.seen].count("script") == 1
    assert answer.body.count(b"<script>alert") == 0
    assert evil in "".join(page.text)


def test_the_page_shows_the_numbers():
    handler = web(rich_snapshot(), host="node-1")
    text = " ".join(outline(get(handler, "/").body).text)
    for part in ("node-1", "400", "1,399", "0.301", "0.898", "0.250", "2 of 6 sources cannot be read", "acme/chat-70b"):
        assert part in text
    assert "connection refused at 127.0.0.1:8081" in text
    assert "is the server running?" in text


def test_the_page_shows_pue_host_carbon_and_demand():
    text = " ".join(" ".join(outline(get(web(rich_snapshot()), "/").body).text).split())
    for part in (
        "PUE 1.30",
        "Host cpu 142 W, dram \u2013 CPU and memory meters",
        "Grid carbon 388 g CO\u2082e per kWh location",
        "Demand interval 4,120 W peak this month 4,650 W, 14.2 EUR per kW",
    ):
        assert part in text
    began = replace(rich_snapshot(), demand=DemandNow(4120.0, 0.0, 14.2))
    text = " ".join(" ".join(outline(get(web(began), "/").body).text).split())
    assert "Demand interval 4,120 W no peak yet, 14.2 EUR per kW" in text
    text = " ".join(" ".join(outline(get(web(empty_snapshot()), "/").body).text).split())
    assert "PUE 1.00 Host \u2013 not counted in facility energy" in text
    assert "Demand" not in text
    assert "Grid" not in text


def test_the_page_shows_the_periods_to_date():
    text = " ".join(" ".join(outline(get(web(rich_snapshot()), "/").body).text).split())
    for part in (
        "today since 2026-01-01 00:00:00 UTC 2.88M 3.53 4.49 \u2013",
        "this month since 2026-01-01 00:00:00 UTC 2.88M 3.53 4.49 1,659 EUR",
        "tpw-exporter report",
    ):
        assert part in text
    assert "today" not in " ".join(outline(get(web(empty_snapshot()), "/").body).text)
    handler = web(rich_snapshot())
    day = json.loads(get(handler, "/api/v1/status").body)["periods"][0]
    lines = get(handler, "/metrics").body.decode().splitlines()
    costs = [line for line in lines if line.startswith("tpw_period_cost{") and 'period="day"' in line]
    assert day["cost"] == pytest.approx(sum(float(line.split(" ")[1]) for line in costs))


def test_what_is_wrong_is_linked_to_its_runbook():
    failed = replace(rich_snapshot(), config_reload_successful=False)
    page = outline(get(web(failed), "/").body)
    links = {attributes["href"] for tag, attributes in page.seen if tag == "a"} - {None}
    runbooks = {link for link in links if link.startswith("runbooks/Tpw")}  # type: ignore[union-attr]
    names = ("TpwSourceDown", "TpwGpuLost", "TpwConfigReloadFailed", "TpwWasteHigh")
    assert runbooks == {f"runbooks/{name}" for name in names}
    assert [link for link in runbooks if get(web(failed), f"/{link}").status != 200] == []


def test_a_shared_gpu_shows_how_it_is_shared():
    page = outline(get(web(rich_snapshot()), "/").body)
    titles = [attributes["title"] for tag, attributes in page.seen if tag == "td" and attributes.get("title")]
    assert (
        "shared by instance, weighted by how busy each is; instances: 3g.40gb about 38 %, 1g.10gb about 12 %" in titles
    )
    assert "embed 38 %" in page.text


def test_the_first_paint_and_the_refresh_are_one_rendering():
    handler = web(rich_snapshot(), host="node-1")
    get(handler, "/")
    part = get(handler, "/api/v1/status", query={"view": ["html"]})
    assert part.content_type == "text/html; charset=utf-8"
    assert part.body in get(handler, "/").body


def test_empty_sections_have_a_hint():
    text = " ".join(outline(get(web(empty_snapshot()), "/").body).text)
    for part in ("No GPU found", "No inference server found", "add tariff:", "no sources yet"):
        assert part in text


def test_without_a_tariff_waste_is_in_watts():
    text = "".join(outline(get(web(fleet_snapshot(3, 1, priced=False)), "/").body).text)
    assert "Wasted" in text
    assert "2 GPUs parked or idle" in text
    assert "no tariff configured" in text


def test_the_reference_page_has_every_metric():
    text = "".join(outline(get(web(rich_snapshot()), "/docs/metrics").body).text)
    assert "tpw_cost_per_token" in text
    assert "Absent if: " in text


# -------------------------------------------------------------------------------------------------- over a real socket


@pytest.mark.rules
def test_promtool_accepts_the_page_as_served(tmp_path: Path):
    promtool = prometheus_dir("3") / "promtool"
    handler = Web(Current(rich_snapshot()), Page(ProcessTail()))
    server = Server(["127.0.0.1:0"], handler)
    server.start()
    try:
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{server.ports[0]}/metrics", timeout=10) as answer:
            page = answer.read()
    finally:
        server.stop()
    assert page.endswith(handler._page.body(handler._get_snapshot(), Format.TEXT)[-50:])
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
