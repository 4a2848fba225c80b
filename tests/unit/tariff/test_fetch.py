"""Questions over HTTP, and what their answers mean."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tpw.model import Reason, SourceError
from tpw.tariff import entsoe, fetch, octopus
from tpw.tariff.fetch import Request, Response, body_of, over_http, secret_of
from tpw.tariff.intervals import PRESETS, FromAddress, FromFile, headers_of
from tpw.tariff.layout import Layout

CAPTURES = Path(__file__).parents[2] / "captures" / "tariff"
START, END = 1781474400.0, 1781560800.0  # 2026-06-14T22:00Z, a day


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/slow":
            threading.Event().wait(2)
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
            self.close_connection = True
            return
        if self.path == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                threading.Event().wait(0.05)
            return
        if self.path.startswith("/elsewhere/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/elsewhere/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/nonsense":
            self.wfile.write(b"220 smtp.example.org ready\r\n")
            self.close_connection = True
            return
        status = int(self.path[1:4]) if self.path[1:4].isdigit() else 200
        body = b"x" * 5000 if self.path == "/large" else json.dumps(dict(self.headers)).encode()
        self.send_response(status)
        self.send_header("Content-Length", "0" if status == 204 else str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested here."""


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    yield from served()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    yield from served()


def served() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(request: Request, **options: float) -> SourceError:
    with pytest.raises(SourceError) as raised:
        body_of(request, over_http(request, **options))  # type: ignore[arg-type]
    return raised.value


def test_answer_and_headers(base: str) -> None:
    request = Request(f"{base}/a", {"X-Key": "1"})
    sent = json.loads(body_of(request, over_http(request)))
    assert (sent["X-Key"], sent["User-Agent"]) == ("1", "tpw-exporter")


def test_a_token_goes_to_the_host_it_was_given_for_and_to_no_other(base: str, other: str) -> None:
    """An answer may send us on, and not to wherever it likes with what logs in here."""
    secrets = {"Authorization": "Bearer s3cret", "auth-token": "s3cret"}
    here = over_http(Request(f"{base}/elsewhere/{base}/a", secrets))
    assert json.loads(here.body)["Authorization"] == "Bearer s3cret"
    there = over_http(Request(f"{base}/elsewhere/{other}/a", secrets))
    assert (there.status, b"s3cret" in there.body) == (200, False)
    assert json.loads(there.body)["User-Agent"] == "tpw-exporter"


def test_body_is_posted(base: str) -> None:
    assert over_http(Request(f"{base}/a", {}, b'{"query": "x"}')).body == b'{"query": "x"}'


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (204, Reason.NOT_YET),
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.ABSENT),
        (410, Reason.ABSENT),
        (400, Reason.MALFORMED),
        (429, Reason.BROKEN),
        (500, Reason.BROKEN),
        (503, Reason.BROKEN),
    ],
)
def test_status_is_a_reason(base: str, status: int, reason: Reason) -> None:
    error = refusal(Request(f"{base}/{status}?securityToken=s3cret"))
    assert error.reason is reason
    assert str(status) in error.detail
    assert "s3cret" not in error.detail


def test_large_answer_is_refused(base: str) -> None:
    assert refusal(Request(f"{base}/large"), max_bytes=4096).reason is Reason.MALFORMED
    too_large = Response(200, b"x" * (fetch.MAX_BYTES + 1))
    with pytest.raises(SourceError, match="more than 8 MiB"):
        body_of(Request(base), too_large)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/cut", Reason.UNREACHABLE),
        ("/nonsense", Reason.UNREACHABLE),
        ("/slow", Reason.TIMEOUT),
        ("/drip", Reason.TIMEOUT),
    ],
)
def test_answer_that_fails_on_its_way(base: str, path: str, reason: Reason) -> None:
    assert refusal(Request(f"{base}{path}"), timeout_seconds=0.3).reason is reason


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert refusal(Request(f"http://127.0.0.1:{port}/a")).reason is Reason.UNREACHABLE
    assert refusal(Request("file:///etc/passwd")).reason is Reason.UNREACHABLE


class TestSecrets:
    """Keys and headers come from files."""

    def test_bare_value(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text(" abc \n")
        assert secret_of(str(tmp_path / "key"), "a key") == "abc"

    @pytest.mark.parametrize("text", ["", "\n", "a\nb"])
    def test_anything_else_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "key").write_text(text)
        with pytest.raises(SourceError, match="on one line"):
            secret_of(str(tmp_path / "key"), "a key")

    def test_missing_file(self) -> None:
        with pytest.raises(SourceError) as raised:
            secret_of("/nowhere/key", "a key")
        assert raised.value.reason is Reason.ABSENT

    def test_headers(self, tmp_path: Path) -> None:
        path = tmp_path / "headers"
        path.write_text("# a comment\nX-Api-Key: a:b\n\nAccept: text/csv\n")
        assert headers_of(str(path)) == {"X-Api-Key": "a:b", "Accept": "text/csv"}
        path.write_text("no colon here")
        with pytest.raises(SourceError, match="line 1"):
            headers_of(str(path))


class Recorder:
    """A fetch that answers with given bodies and remembers the questions."""

    def __init__(self, *answers: bytes | Response) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers[len(self.requests) - 1]
        return answer if isinstance(answer, Response) else Response(200, answer)


def capture(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


class TestQuestions:
    """What the readers ask, and where."""

    @pytest.mark.parametrize(
        ("preset", "area", "currency", "body", "url"),
        [
            (
                "energy_charts",
                "DE-LU",
                "EUR",
                "energy-charts-autumn-100.json",
                "https://api.energy-charts.info/price?bzn=DE-LU&start=2026-06-15&end=2026-06-16",
            ),
            (
                "energidataservice",
                "DK1",
                "DKK",
                "energidataservice-spring-92.json",
                (
                    "https://api.energidataservice.dk/dataset/DayAheadPrices?start=2026-06-15T00%3A00"
                    "&end=2026-06-16T00%3A00&filter=%7B%22PriceArea%22:[%22DK1%22]%7D&limit=0"
                ),
            ),
            (
                "awattar_at",
                "",
                "EUR",
                "awattar.json",
                "https://api.awattar.at/v1/marketdata?start=1781474400000&end=1781560800000",
            ),
            (
                "elering",
                "fi",
                "EUR",
                "elering.json",
                "https://dashboard.elering.ee/api/nps/price?start=2026-06-14T22%3A00%3A00Z&end=2026-06-15T22%3A00%3A00Z",
            ),
        ],
    )
    def test_preset_asks_for_its_area_and_days(
        self, preset: str, area: str, currency: str, body: str, url: str
    ) -> None:
        fetched = Recorder(capture(body))
        reader = PRESETS[preset].reader(area, currency, fetched)
        assert reader.read(START, END)
        assert [request.url for request in fetched.requests] == [url]
        assert fetched.requests[0].body is None

    def test_tibber_posts_its_query_with_the_token(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0ken")
        fetched = Recorder(capture("tibber.json"))
        reader = PRESETS["tibber"].reader("0", "NOK", fetched, token_file=str(tmp_path / "token"))
        assert sum(each.end_seconds - each.start_seconds for each in reader.read(START, END)) == 86400
        [request] = fetched.requests
        assert request.headers["Authorization"] == "Bearer t0ken"
        assert "priceInfo" in json.loads(request.body or b"")["query"]
        assert "t0ken" not in repr(request)

    def test_address_of_a_swiss_utility_is_the_configured_one(self) -> None:
        fetched = Recorder(capture("swiss.json"))
        url = "https://api.tariffs.example.ch/v2/tariffs?start_timestamp={start}&end_timestamp={end}"
        PRESETS["swiss"].reader("", "CHF", fetched, url=url).read(START, END)
        assert fetched.requests[0].url.endswith(
            "start_timestamp=2026-06-14T22%3A00%3A00Z&end_timestamp=2026-06-15T22%3A00%3A00Z"
        )

    def test_headers_file_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "headers").write_text("X-Key: k")
        fetched = Recorder(b'[{"t": "2026-06-15T00:00Z", "e": "2026-06-15T01:00Z", "p": 0.1}]')
        layout = Layout(price="p", time="t", end="e")
        FromAddress("https://a.example/p", layout, fetched, headers_file=str(tmp_path / "headers")).read(START, END)
        assert fetched.requests[0].headers == {"X-Key": "k"}

    def test_file_says_all_it_knows(self, tmp_path: Path) -> None:
        path = tmp_path / "prices.csv"
        path.write_text("t,e,p\n2020-01-01T00:00Z,2020-01-01T01:00Z,0.1\n")
        reader = FromFile(str(path), Layout(price="p", time="t", end="e", is_csv=True))
        assert len(reader.read(START, END)) == 1
        path.unlink()
        with pytest.raises(SourceError, match="No such file"):
            reader.read(START, END)

    def test_octopus_follows_its_pages(self) -> None:
        page = json.loads(capture("octopus-agile.json"))
        first = {**page, "results": page["results"][:20], "next": f"{octopus.BASE}/v1/more/?page=2"}
        second = {**page, "results": page["results"][20:]}
        fetched = Recorder(json.dumps(first).encode(), json.dumps(second).encode())
        found = octopus.Octopus("E-1R-AGILE-24-10-01-C", fetched).read(START - 86400, END)
        assert sum(each.end_seconds - each.start_seconds for each in found) == 86400
        assert fetched.requests[0].url == (
            "https://api.octopus.energy/v1/products/AGILE-24-10-01/electricity-tariffs/E-1R-AGILE-24-10-01-C/standard-unit-rates/"
            "?page_size=1500&period_from=2026-06-13T22:00Z&period_to=2026-06-15T22:00Z"
        )
        assert fetched.requests[1].url == f"{octopus.BASE}/v1/more/?page=2"

    def test_octopus_does_not_follow_a_page_elsewhere_or_without_end(self) -> None:
        page = json.loads(capture("octopus-agile.json"))
        elsewhere = json.dumps({**page, "next": "https://evil.example/"}).encode()
        with pytest.raises(SourceError, match="another host"):
            octopus.Octopus("E-1R-AGILE-24-10-01-C", Recorder(elsewhere)).read(START, END)
        endless = json.dumps({**page, "next": f"{octopus.BASE}/v1/more/"}).encode()
        with pytest.raises(SourceError, match="more than 20 pages"):
            octopus.Octopus("E-1R-AGILE-24-10-01-C", Recorder(*[endless] * 25)).read(START, END)

    def test_entsoe_asks_for_its_zone_with_the_token(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0ken\n")
        fetched = Recorder(capture("entsoe-two-auctions.xml"))
        entsoe.Entsoe("DE-LU", str(tmp_path / "token"), "EUR", fetched).read(START, END)
        assert fetched.requests[0].url == (
            "https://web-api.tp.entsoe.eu/api?documentType=A44&in_Domain=10Y1001A1001A82H&out_Domain=10Y1001A1001A82H"
            "&periodStart=202606142200&periodEnd=202606152200&securityToken=t0ken"
        )

    def test_entsoe_says_not_yet_with_either_status(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0ken")
        body = capture("entsoe-acknowledgement.xml")
        for answer in (Response(200, body), Response(400, body)):
            with pytest.raises(SourceError) as raised:
                entsoe.Entsoe("DE-LU", str(tmp_path / "token"), "EUR", Recorder(answer)).read(START, END)
            assert raised.value.reason is Reason.NOT_YET
