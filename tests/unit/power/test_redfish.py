"""The node's power over Redfish, from a controller of our own in the form of DMTF's mockups."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tpw.model import Reason, SourceError
from tpw.power import host_meter
from tpw.power.redfish import RedfishMeter, power_of


class Controller:
    """A BMC with sessions, one system and some chassis."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {
            "/redfish/v1/Systems": members("/redfish/v1/Systems/HGX_Baseboard_0", "/redfish/v1/Systems/1"),
            "/redfish/v1/Systems/1": {"Links": {"Chassis": [{"@odata.id": "/redfish/v1/Chassis/Self"}]}},
            "/redfish/v1/Systems/HGX_Baseboard_0": {"Links": {"Chassis": [{"@odata.id": "/redfish/v1/Chassis/HGX"}]}},
            "/redfish/v1/Chassis": members("/redfish/v1/Chassis/HGX", "/redfish/v1/Chassis/Self"),
            "/redfish/v1/Chassis/HGX": {
                "EnvironmentMetrics": {"@odata.id": "/redfish/v1/Chassis/HGX/EnvironmentMetrics"}
            },
            "/redfish/v1/Chassis/HGX/EnvironmentMetrics": {"PowerWatts": {"Reading": 4000}},
            "/redfish/v1/Chassis/Self": {"Power": {"@odata.id": "/redfish/v1/Chassis/Self/Power/"}},
            "/redfish/v1/Chassis/Self/Power": {
                "PowerControl": [{"MemberId": "0", "PowerConsumedWatts": 5000, "PowerCapacityWatts": 12000}]
            },
        }
        self.tokens: set[str] = set()
        self.sessions = True
        self.logins = 0
        self.requests: list[tuple[str, str]] = []
        controller = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def send(self, status: int, document: Any = None, **headers: str) -> None:
                body = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                controller.requests.append(("POST", self.path))
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not controller.sessions:
                    return self.send(405)
                if (body["UserName"], body["Password"]) != ("reader", "secret: with colon"):
                    return self.send(401)
                controller.logins += 1
                token = f"token-{controller.logins}"
                controller.tokens.add(token)
                location = f"/redfish/v1/SessionService/Sessions/{controller.logins}"
                return self.send(201, {}, X_Auth_Token=token, Location=location)

            def do_DELETE(self) -> None:
                controller.requests.append(("DELETE", self.path))
                controller.tokens.discard(self.headers.get("X-Auth-Token", ""))
                self.send(204)

            def do_GET(self) -> None:
                controller.requests.append(("GET", self.path))
                basic = "Basic " + base64.b64encode(b"reader:secret: with colon").decode()
                known = self.headers.get("X-Auth-Token") in controller.tokens
                if not (known or self.headers.get("Authorization") == basic):
                    return self.send(401)
                document = controller.documents.get(self.path)
                return self.send(404) if document is None else self.send(200, document)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


def members(*paths: str) -> dict[str, Any]:
    return {"Members": [{"@odata.id": path} for path in paths]}


@pytest.fixture
def controller() -> Any:
    controller = Controller()
    yield controller
    controller.close()


@pytest.fixture
def credentials(tmp_path: Path) -> str:
    file = tmp_path / "bmc"
    file.write_text("reader:secret: with colon\n")
    return str(file)


def meter(controller: Controller, clock: Any, credentials: str, **options: Any) -> RedfishMeter:
    return RedfishMeter(clock, url=controller.url, credentials_file=credentials, **options)


def test_the_systems_own_chassis_is_found_and_read(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()

    (sample,) = redfish.read().samples
    redfish.close()

    assert (sample.component, sample.power_watts, sample.energy_joules) == ("node", 5000.0, 0.0)
    assert sample.max_power_watts == 20_000.0


def test_power_is_integrated_over_the_time_between_reads(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()
    redfish.read()
    clock.advance(30.0)
    controller.documents["/redfish/v1/Chassis/Self/Power"]["PowerControl"][0]["PowerConsumedWatts"] = 6000
    second = redfish.read().samples[0].energy_joules
    clock.advance(3600.0)
    after_gap = redfish.read().samples[0].energy_joules
    redfish.close()

    assert (second, after_gap) == (30.0 * 5500, 30.0 * 5500)


def test_a_session_that_expired_is_opened_again(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()
    controller.tokens.clear()

    assert redfish.read().samples[0].power_watts == 5000.0
    assert controller.logins == 2
    redfish.close()


def test_it_logs_out(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()
    redfish.close()

    assert controller.tokens == set()
    assert controller.requests[-1] == ("DELETE", "/redfish/v1/SessionService/Sessions/1")


def test_a_controller_without_sessions_is_asked_with_the_password(
    controller: Controller, clock: Any, credentials: str
) -> None:
    controller.sessions = False
    redfish = meter(controller, clock, credentials)
    redfish.open()

    assert redfish.read().samples[0].power_watts == 5000.0
    redfish.close()


def test_a_wrong_password_is_unauthorized(controller: Controller, clock: Any, tmp_path: Path) -> None:
    file = tmp_path / "wrong"
    file.write_text("reader:guess")
    redfish = meter(controller, clock, str(file))

    with pytest.raises(SourceError) as caught:
        redfish.open()

    assert caught.value.reason is Reason.UNAUTHORIZED
    redfish.close()


def test_a_chassis_can_be_named(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials, chassis="/redfish/v1/Chassis/HGX/")
    redfish.open()

    assert redfish.read().samples[0].power_watts == 4000.0
    redfish.close()


def test_the_gpus_baseboard_is_no_node_whatever_the_system_is_called(
    controller: Controller, clock: Any, credentials: str
) -> None:
    documents = controller.documents
    documents["/redfish/v1/Systems"] = members("/redfish/v1/Systems/HGX_Baseboard_0", "/redfish/v1/Systems/System_0")
    documents["/redfish/v1/Systems/System_0"] = documents["/redfish/v1/Systems/1"]
    redfish = meter(controller, clock, credentials)
    redfish.open()

    assert redfish.read().samples[0].power_watts == 5000.0
    redfish.close()


def test_a_node_can_draw_the_capacity_its_controller_reports(
    controller: Controller, clock: Any, credentials: str
) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()
    most = [redfish.read().samples[0].max_power_watts]
    controller.documents["/redfish/v1/Chassis/Self/Power"]["PowerControl"][0]["PowerCapacityWatts"] = 132_000
    most.append(redfish.read().samples[0].max_power_watts)

    assert most == [20_000.0, 132_000.0]
    redfish.close()


def test_a_controller_without_power_is_an_error(controller: Controller, clock: Any, credentials: str) -> None:
    controller.documents["/redfish/v1/Chassis/HGX/EnvironmentMetrics"] = {"PowerWatts": {"Reading": None}}
    controller.documents["/redfish/v1/Chassis/Self/Power"] = {"PowerControl": []}
    redfish = meter(controller, clock, credentials)

    with pytest.raises(SourceError) as caught:
        redfish.open()

    assert caught.value.reason is Reason.UNSUPPORTED
    assert "/redfish/v1/Chassis/Self" in caught.value.detail
    redfish.close()


def test_zero_watts_are_no_reading(controller: Controller, clock: Any, credentials: str) -> None:
    redfish = meter(controller, clock, credentials)
    redfish.open()
    controller.documents["/redfish/v1/Chassis/Self/Power"]["PowerControl"][0]["PowerConsumedWatts"] = 0

    with pytest.raises(SourceError) as caught:
        redfish.read()

    assert caught.value.reason is Reason.BROKEN
    redfish.close()


def test_a_credentials_file_that_cannot_be_read_is_named_without_its_content(
    controller: Controller, clock: Any, tmp_path: Path
) -> None:
    redfish = meter(controller, clock, str(tmp_path / "absent"))

    with pytest.raises(SourceError) as caught:
        redfish.open()

    assert caught.value.reason is Reason.PERMISSION
    redfish.close()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"PowerWatts": {"Reading": 812.5}}, (812.5, 0.0)),
        ({"PowerControl": [{"PowerConsumedWatts": 590, "PowerCapacityWatts": 1600}]}, (590.0, 1600.0)),
        # The members after the first are its parts: the CPUs' power is not the node's while that is not known.
        ({"PowerControl": [{"PowerConsumedWatts": None}, {"Name": "CPU", "PowerConsumedWatts": 7}]}, None),
        ({"PowerControl": [{"PowerConsumedWatts": 590}, {"Name": "CPU", "PowerConsumedWatts": 200}]}, (590.0, 0.0)),
        ({"PowerControl": {"PowerConsumedWatts": 590}}, None),
        ({"PowerWatts": {"Reading": float("inf")}}, None),
        ({"PowerWatts": {"Reading": float("nan")}}, None),
        ({"PowerWatts": {"Reading": -3}}, None),
        ({"PowerWatts": {"Reading": True}}, None),
        ({"PowerWatts": None, "PowerControl": None}, None),
        ([], None),
    ],
)
def test_power_of_a_resource(document: Any, expected: tuple[float, float] | None) -> None:
    assert power_of(document) == expected


def test_the_table_takes_its_options_and_it_is_slow(clock: Any) -> None:
    redfish = host_meter("redfish", clock, url="https://127.0.0.1:1", every_seconds=45.0)

    assert (redfish.name, redfish.every_seconds) == ("redfish", 45.0)
