"""Requests of the price feeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpw.http.messages import Answer, Request
from tpw.model import Reason, SourceError
from tpw.tariff import entsoe, octopus
from tpw.tariff.intervals import PRESETS
from tpw.tariff.layout import Layout
from tpw.tariff.lists import FromAddress, FromFile

CAPTURES = Path(__file__).parents[2] / "captures" / "tariff"
START, END = 1781474400.0, 1781560800.0  # 2026-06-14T22:00Z, a day


class Recorder:
    """A fetch that answers with given bodies and records the requests."""

    def __init__(self, *answers: bytes | Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        answer = self.answers[len(self.requests) - 1]
        return answer if isinstance(answer, Answer) else Answer(200, answer)


def capture(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


class TestQuestions:
    """Requests of the readers."""

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
    def test_a_preset_requests_its_area_and_days(
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
        assert sum(price.end_seconds - price.start_seconds for price in reader.read(START, END)) == 86400
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

    @pytest.mark.parametrize(
        ("address", "urls"),
        [
            ("{start}..{end}", ["2026-06-14T22%3A00%3A00Z..2026-06-15T22%3A00%3A00Z"]),
            ("{start:%Y%m%dT%H:%M-0000}", ["20260614T22%3A00-0000"]),
            ("{local_start:%Y%m%d%H%M}-{local_end:%H%M}", ["202606150000-0000"]),
            ("{date}", ["2026-06-15"]),
            ("{date:%Y/%m-%d}_SE3.json", ["2026/06-15_SE3.json"]),
            ("{week:unix_ms}.json", ["1781474400000.json"]),
            ("{week:unix}.json", ["1781474400.json"]),
            ("{date:%Y%m}", ["202606"]),
            ("{fiscal_year}", ["2026"]),
            ("{other}", ["{other}"]),
        ],
    )
    def test_an_address_names_times_and_days(self, address: str, urls: list[str]) -> None:
        fetched = Recorder(*[b"[]"] * len(urls))
        layout = Layout(price="p", time="t", timezone="Europe/Berlin")
        with pytest.raises(SourceError):
            FromAddress(f"https://a.example/{address}", layout, fetched).read(START, END)
        assert [request.url for request in fetched.requests] == [f"https://a.example/{url}" for url in urls]

    def test_each_day_is_requested_until_one_is_not_published(self) -> None:
        """A day of which there is no list, in the past, hides no other; a page in place of a list is none."""

        def day(date: str) -> bytes:
            rows = [{"t": f"{date}T{hour:02}:00", "p": hour} for hour in range(24)]
            return json.dumps(rows).encode()

        fetched = Recorder(
            Answer(404, b"no"), day("2026-06-14"), day("2026-06-15"), Answer(200, b"<html>not yet</html>"), b"not asked"
        )
        layout = Layout(price="p", time="t", timezone="Europe/Berlin")
        reader = FromAddress("https://a.example/{date}", layout, fetched)
        found = reader.read(START - 2 * 86400, END + 2 * 86400)
        assert [request.url[-10:] for request in fetched.requests] == [f"2026-06-{day}" for day in range(13, 17)]
        assert (found[0].start_seconds, found[-1].end_seconds) == (START - 86400, END)
        assert reader.requests_made == 4

    def test_the_fiscal_year_begins_in_april(self) -> None:
        fetched = Recorder(b"[]", b"[]")
        reader = FromAddress("https://a.example/{fiscal_year}", Layout("p", "t", timezone="Asia/Tokyo"), fetched)
        with pytest.raises(SourceError):
            reader.read(1774875600.0, 1775048400.0)  # 30 March to 1 April
        assert [request.url[-4:] for request in fetched.requests] == ["2025", "2026"]

    def test_two_lists_with_two_prices_of_one_moment_are_refused(self) -> None:
        both = [b'[{"t": "2026-06-15T00:00Z", "e": "2026-06-15T01:00Z", "p": %d}]' % price for price in (1, 2)]
        reader = FromAddress("https://a.example/{date}", Layout("p", "t", "e"), Recorder(*both))
        with pytest.raises(ValueError, match="two prices"):
            reader.read(START, END)

    def test_headers_file_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "headers").write_text("X-Key: k")
        fetched = Recorder(b'[{"t": "2026-06-15T00:00Z", "e": "2026-06-15T01:00Z", "p": 0.1}]')
        layout = Layout(price="p", time="t", end="e")
        FromAddress("https://a.example/p", layout, fetched, headers_file=str(tmp_path / "headers")).read(START, END)
        assert fetched.requests[0].headers == {"X-Key": "k"}

    def test_a_file_is_read_whole(self, tmp_path: Path) -> None:
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
        assert sum(price.end_seconds - price.start_seconds for price in found) == 86400
        assert fetched.requests[0].url == (
            "https://api.octopus.energy/v1/products/AGILE-24-10-01/electricity-tariffs/E-1R-AGILE-24-10-01-C/standard-unit-rates/"
            "?page_size=1500&period_from=2026-06-13T22:00Z&period_to=2026-06-15T22:00Z"
        )
        assert fetched.requests[1].url == f"{octopus.BASE}/v1/more/?page=2"

    def test_octopus_follows_no_page_on_another_host_and_no_endless_pages(self) -> None:
        page = json.loads(capture("octopus-agile.json"))
        elsewhere = json.dumps({**page, "next": "https://evil.example/"}).encode()
        with pytest.raises(SourceError, match="another host"):
            octopus.Octopus("E-1R-AGILE-24-10-01-C", Recorder(elsewhere)).read(START, END)
        endless = json.dumps({**page, "next": f"{octopus.BASE}/v1/more/"}).encode()
        with pytest.raises(SourceError, match="more than 20 pages"):
            octopus.Octopus("E-1R-AGILE-24-10-01-C", Recorder(*[endless] * 25)).read(START, END)

    def test_entsoe_requests_its_zone_with_the_token(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0ken\n")
        fetched = Recorder(capture("entsoe-two-auctions.xml"))
        entsoe.Entsoe("DE-LU", str(tmp_path / "token"), "EUR", fetched).read(START, END)
        assert fetched.requests[0].url == (
            "https://web-api.tp.entsoe.eu/api?documentType=A44&contract_MarketAgreement.type=A01"
            "&in_Domain=10Y1001A1001A82H&out_Domain=10Y1001A1001A82H&periodStart=202606142200&periodEnd=202606152200&securityToken=t0ken"
        )

    def test_an_acknowledgement_is_not_yet_published_with_either_status(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0ken")
        body = capture("entsoe-acknowledgement.xml")
        for answer in (Answer(200, body), Answer(400, body)):
            with pytest.raises(SourceError) as raised:
                entsoe.Entsoe("DE-LU", str(tmp_path / "token"), "EUR", Recorder(answer)).read(START, END)
            assert raised.value.reason is Reason.NOT_YET
