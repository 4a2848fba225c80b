"""Reading a server over HTTP: every answer becomes a reading or a reason."""

from __future__ import annotations

import gzip
import json
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.pageserver import NOT_FOUND, Asked, PageServer, answer, pages
from support.readings import totals_by_role
from tpw.model import Cadence, InFlight, KvTransfer, Load, Phase, ProcessIdentity, Reason, Role, SourceError
from tpw.tokens.dialects import Dialect
from tpw.tokens.engines import ENGINES, LLAMACPP, SGLANG, TRTLLM_SERVE, VLLM
from tpw.tokens.mapping import dialect_from_mapping
from tpw.tokens.scrape import ScrapeSource, recognise_at

CAPTURES = Path(__file__).parents[2] / "captures" / "servers"
VLLM_PAGE = (CAPTURES / "vllm-0.32.0-after-16-requests.txt").read_bytes()
LLAMA_PAGE = (CAPTURES / "llamacpp-b11669-after-16-requests.txt").read_bytes()
MODELS = answer(json.dumps({"data": [{"id": "smol"}]}), content_type="application/json")
VERSION = answer(json.dumps({"version": "0.32.0"}), content_type="application/json")


ALONE = KvTransfer()


@dataclass(frozen=True)
class Listening:
    pid: int
    started_wall_seconds: float
    keeps_counters: bool = False
    transfer: KvTransfer = ALONE


def failure_of(source: ScrapeSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        source.read()
    source.close()
    return caught.value


def test_the_engine_at_a_base_address_is_recognised_by_its_page():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE), "/version": VERSION})) as server:
        source = ScrapeSource("chat", server.url)
        reading = source.read()
        source.close()
    assert (reading.server, reading.engine, reading.version, reading.cadence) == (
        "chat",
        "vllm",
        "0.32.0",
        Cadence.STEP,
    )
    assert totals_by_role(reading.series) == {
        Role.OUTPUT: 384.0,
        Role.INPUT: 463.0,
        Role.CACHED_INPUT: 0.0,
        Role.ELSEWHERE: 0.0,
        Role.REQUESTS: 16.0,
    }
    assert reading.loads == (Load("tiny", 0.0, 0.0),)
    assert (reading.identity, reading.started_wall_seconds) == (ProcessIdentity(1795486027.04), 1795486027.04)


def test_a_configured_engine_is_read_at_its_own_path_only():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url + "/", VLLM)
        source.read()
        source.read()
        source.close()
    assert server.paths() == ["/metrics", "/version", "/metrics"]


def test_a_full_path_is_used_unchanged():
    with PageServer(pages({"/team/a?format=text": answer(LLAMA_PAGE), "/v1/models": MODELS})) as server:
        source = ScrapeSource("chat", server.url + "/team/a?format=text")
        reading = source.read()
        source.close()
    assert server.paths()[0] == "/team/a?format=text"
    assert {series.model for series in reading.series} == {"smol"}


def test_the_path_that_answered_is_reused():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url)
        source.read()
        before = len(server.asked)
        source.read()
        source.close()
    assert server.paths()[before:] == ["/metrics"]


def test_one_connection_serves_many_reads():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        for _ in range(5):
            source.read()
        source.close()
    assert server.connections == 1


def test_a_stale_connection_is_reopened_silently():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        source.read()
        server.hang_up()
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0
    assert server.connections == 2


def test_a_server_that_always_closes_the_connection_is_unreachable():
    with PageServer(lambda request: None) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert (failure.reason, server.connections) == (Reason.UNREACHABLE, 1)


def test_a_server_that_closes_after_every_answer_is_read():
    closing = answer(VLLM_PAGE, headers={"Connection": "close"})
    with PageServer(pages({"/metrics": closing})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        source.read()
        source.read()
        source.close()
    assert [request.path for request in server.asked].count("/metrics") == 2


def test_a_server_that_closes_after_every_answer_is_connected_with_the_secret_of_the_moment(tmp_path: Path):
    secrets = tmp_path / "token"
    closing = answer(VLLM_PAGE, headers={"Connection": "close"})
    with PageServer(lambda request: closing) as server:
        source = ScrapeSource("chat", server.url, VLLM, headers_file=secrets)
        for secret in ("one", "two"):
            secrets.write_text(secret)
            source.read()
        source.close()
    shown = [request.headers["authorization"] for request in server.asked if request.path == "/metrics"]
    assert shown == ["Bearer one", "Bearer two"]


def test_an_http_1_0_answer_without_a_length_is_read_to_its_end():
    old = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + VLLM_PAGE
    with PageServer(pages({"/metrics": old})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0


def test_a_number_at_the_end_of_an_answer_without_a_length_is_ignored():
    """The end of the connection may be the end of the server: 1200 truncated to 12 would fall and rise again."""
    page = b'vllm:prompt_tokens_total{model_name="m"} 70\nvllm:generation_tokens_total{model_name="m"} 1200'
    cut = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + page[:-2]
    with PageServer(pages({"/metrics": cut})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series) == {Role.PROMPT: 70.0}
    with PageServer(pages({"/metrics": answer(page)})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series) == {Role.PROMPT: 70.0, Role.OUTPUT: 1200.0}


def test_a_chunked_answer_is_read():
    half = len(VLLM_PAGE) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (VLLM_PAGE[:half], VLLM_PAGE[half:]))
    response = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    )
    with PageServer(pages({"/metrics": response})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        source.read()
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0
    assert server.connections == 1


def test_gzip_is_undone_though_it_was_not_asked_for():
    packed = answer(gzip.compress(VLLM_PAGE), headers={"Content-Encoding": "gzip"})
    with PageServer(pages({"/metrics": packed})) as server:
        source = ScrapeSource("chat", server.url, VLLM)
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0
    assert server.asked[0].headers["accept-encoding"] == "identity"
    assert server.asked[0].headers["accept"].startswith("text/plain;version=0.0.4")


def test_gzip_that_is_cut_off_is_malformed():
    packed = answer(gzip.compress(VLLM_PAGE)[:-200], headers={"Content-Encoding": "gzip"})
    with PageServer(pages({"/metrics": packed})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert (failure.reason, "cut off" in failure.detail) == (Reason.MALFORMED, True)


def test_a_gzip_bomb_is_refused():
    packed = answer(gzip.compress(b"x 1\n" * 1_000_000), headers={"Content-Encoding": "gzip"})
    with PageServer(pages({"/metrics": packed})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM, max_bytes=1 << 16))
    assert (failure.reason, "larger than 64 KiB" in failure.detail) == (Reason.MALFORMED, True)


def test_no_secret_is_sent_to_where_a_redirect_leads(tmp_path: Path):
    secrets = tmp_path / "token"
    secrets.write_text("s3cret\n")
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as other:
        moved = answer(status=302, headers={"Location": f"{other.url}/metrics"})
        with PageServer(pages({"/metrics": moved})) as server:
            failure = failure_of(ScrapeSource("chat", server.url, VLLM, headers_file=secrets))
    assert (failure.reason, other.asked) == (Reason.BROKEN, [])


def test_redirects_in_a_circle_end():
    with PageServer(lambda request: answer(status=302, headers={"Location": "/metrics"})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert (failure.reason, "circle" in failure.detail) == (Reason.BROKEN, True)


@pytest.mark.parametrize("status", [200, 302])
def test_a_path_that_is_not_ascii_is_asked_for_all_the_same(status: int):
    response = {
        "/m%C3%A9tricas": answer(VLLM_PAGE),
        "/moved": answer(status=302, headers={"Location": "/m\u00e9tricas"}),
    }
    path = "/m\u00e9tricas" if status == 200 else "/moved"
    with PageServer(lambda request: response.get(request.path, NOT_FOUND)) as server:
        source = ScrapeSource("chat", server.url + path, VLLM)
        reading = source.read()
        source.close()
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0


def test_a_host_that_no_name_can_be_is_unreachable():
    failure = failure_of(ScrapeSource("chat", f"http://{'x' * 70}.example:8000", VLLM))
    assert (failure.reason, failure.hint) == (Reason.UNREACHABLE, "Check the address.")


def test_a_port_without_a_listener_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = failure_of(ScrapeSource("chat", f"http://127.0.0.1:{port}", VLLM))
    assert failure.reason is Reason.UNREACHABLE
    assert failure.detail == f"http://127.0.0.1:{port}/metrics: connection refused"


def test_a_server_that_never_answers_times_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        failure = failure_of(
            ScrapeSource("chat", f"http://127.0.0.1:{listener.getsockname()[1]}", VLLM, timeout_seconds=0.05)
        )
    assert failure.reason is Reason.TIMEOUT


def test_an_answer_that_ends_before_its_length_is_malformed():
    cut = answer(VLLM_PAGE, headers={"Connection": "close"})[:-100]
    with PageServer(pages({"/metrics": cut})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert (failure.reason, "cut off" in failure.detail) == (Reason.MALFORMED, True)


def test_an_answer_that_is_not_http_is_malformed():
    with PageServer(lambda request: b"SSH-2.0-OpenSSH_9.6\r\n") as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert failure.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "response",
    [
        answer("[]", content_type="application/json"),
        answer("<html></html>", content_type="text/html; charset=utf-8"),
        answer("this is no page of metrics"),
    ],
)
def test_t13_json_and_garbage_are_malformed(response: bytes):
    with PageServer(pages({"/metrics": response})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert failure.reason is Reason.MALFORMED


@pytest.mark.parametrize("dialect", [None, VLLM, LLAMACPP])
def test_a_page_that_becomes_invalid_is_malformed_and_read_again_when_it_is_valid(dialect: Dialect | None):
    page = LLAMA_PAGE if dialect is LLAMACPP else VLLM_PAGE
    response = {"/metrics": answer(page)}
    with PageServer(pages(response)) as server:
        source = ScrapeSource("chat", server.url, dialect)
        before = source.read()
        response["/metrics"] = answer(b"\x7fELF\x02\x01 no page\nof metrics\n")
        with pytest.raises(SourceError) as caught:
            source.read()
        response["/metrics"] = answer(page)
        after = source.read()
        source.close()
    assert (caught.value.reason, "begins with b'\\x7fELF" in caught.value.detail) == (Reason.MALFORMED, True)
    assert after.series == before.series


def test_t13_an_openmetrics_page_is_read_by_its_content_type():
    body = b'# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{model_name="m"} 7 # {t="1"} 1\n# EOF\n'
    response = answer(body, content_type="application/openmetrics-text; version=1.0.0; charset=utf-8")
    with PageServer(pages({"/metrics": response})) as server:
        source = ScrapeSource("chat", server.url)
        reading = source.read()
        source.close()
    assert [(series.role, series.model, series.value) for series in reading.series] == [(Role.OUTPUT, "m", 7.0)]


def test_t13_an_openmetrics_page_without_its_end_is_malformed():
    response = answer(b"vllm:generation_tokens_total 7\n", content_type="application/openmetrics-text; version=1.0.0")
    with PageServer(pages({"/metrics": response})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert (failure.reason, "# EOF" in failure.detail) == (Reason.MALFORMED, True)


def test_t24_the_json_list_of_trtllm_is_not_drained():
    page = answer('trtllm_generation_tokens_total{model_name="m"} 5\n')
    with PageServer(
        pages({"/prometheus/metrics": page, "/metrics": answer("[]", content_type="application/json")})
    ) as s:
        source = ScrapeSource("chat", s.url)
        reading = source.read()
        source.close()
    assert reading.engine == "trtllm_serve"
    assert "/metrics" not in s.paths()
    assert TRTLLM_SERVE.paths == ("/prometheus/metrics",)


def test_an_unknown_page_names_the_settings_to_configure():
    with PageServer(pages({"/metrics": answer("go_goroutines 5\n")})) as server:
        failure = failure_of(ScrapeSource("chat", server.url))
    assert (failure.reason, "engine: custom" in failure.hint) == (Reason.DISABLED, True)


def test_vllm_without_statistics_is_disabled():
    with PageServer(pages({"/metrics": answer("process_start_time_seconds 5\n")})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert failure.reason is Reason.DISABLED
    assert "vllm:generation_tokens_total" in failure.detail
    assert "--disable-log-stats" in failure.hint


def test_t10_an_engine_is_read_before_the_first_request_creates_its_counters():
    with PageServer(pages({"/metrics": answer('sglang:num_running_reqs{model_name="m"} 0\n')})) as server:
        source = ScrapeSource("chat", server.url)
        reading = source.read()
        source.close()
    assert (reading.engine, reading.series, reading.loads) == ("sglang", (), (Load("m", 0.0, None),))


def test_an_empty_page_of_a_configured_late_engine_is_a_reading():
    with PageServer(pages({"/metrics": answer("")})) as server:
        source = ScrapeSource("chat", server.url, ENGINES["tgi"])
        reading = source.read()
        source.close()
    assert reading.series == ()


def test_another_engine_at_the_same_address_is_recognised():
    response = {"/metrics": answer(LLAMA_PAGE)}
    with PageServer(lambda request: response.get(request.path, NOT_FOUND)) as server:
        source = ScrapeSource("chat", server.url)
        first = source.read().engine
        response["/metrics"] = answer(VLLM_PAGE)
        second = source.read()
        source.close()
    assert (first, second.engine, totals_by_role(second.series)[Role.OUTPUT]) == ("llamacpp", "vllm", 384.0)


def test_an_engine_at_another_path_of_the_same_address_is_recognised():
    """trtllm-serve replaces vLLM: its /metrics is a list that reads empty, so it is not requested again."""
    response = {"/metrics": answer(VLLM_PAGE)}
    with PageServer(lambda request: response.get(request.path, NOT_FOUND)) as server:
        source = ScrapeSource("chat", server.url)
        first = source.read().engine
        response["/metrics"] = answer("[]", content_type="application/json")
        response["/prometheus/metrics"] = answer('trtllm_generation_tokens_total{model_name="m"} 5\n')
        with pytest.raises(SourceError):
            source.read()
        before = len(server.asked)
        second = source.read()
        source.close()
    assert (first, second.engine, totals_by_role(second.series)) == ("vllm", "trtllm_serve", {Role.OUTPUT: 5.0})
    assert "/metrics" not in server.paths()[before:]


def test_the_model_of_an_engine_without_labels_is_requested_once():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": MODELS})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP)
        first = source.read()
        source.read()
        source.close()
    assert {series.model for series in first.series} == {"smol"}
    assert first.loads == (Load("smol", 0.0, 0.0),)
    assert server.paths().count("/v1/models") == 1


def test_a_lookup_that_reconnects_does_not_mean_another_server():
    now = [0.0]
    closing = answer(LLAMA_PAGE, headers={"Connection": "close"})
    with PageServer(pages({"/metrics": closing, "/v1/models": MODELS})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP, clock=lambda: now[0])
        source.read()
        now[0] = 61.0
        source.read()
        source.close()
    assert server.paths().count("/v1/models") == 1


def test_a_configured_model_is_not_requested():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": MODELS})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP, model="mine")
        reading = source.read()
        source.close()
    assert {series.model for series in reading.series} == {"mine"}
    assert "/v1/models" not in server.paths()


def test_a_failed_lookup_of_the_model_leaves_it_unknown_and_changes_nothing_else():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP)
        reading = source.read()
        source.close()
    assert {series.model for series in reading.series} == {"unknown"}


def test_a_document_above_one_mebibyte_names_no_model():
    models = answer('{"data": [{"id": "smol"}]}' + " " * (1 << 20), content_type="application/json")
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": models})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP)
        reading = source.read()
        source.close()
    assert {series.model for series in reading.series} == {"unknown"}


def test_a_page_above_eight_mebibytes_is_refused():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE + b"# " * (4 << 20))})) as server:
        failure = failure_of(ScrapeSource("chat", server.url, VLLM))
    assert failure.reason is Reason.MALFORMED


def test_a_failed_lookup_of_the_model_is_repeated():
    now = [0.0]
    response = {"/metrics": answer(LLAMA_PAGE)}
    with PageServer(lambda request: response.get(request.path, NOT_FOUND)) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP, clock=lambda: now[0])
        models = [source.read().series[0].model]
        response["/v1/models"] = MODELS
        for now[0] in (59.0, 60.0, 120.0, 180.0):
            models.append(source.read().series[0].model)
        source.close()
    assert models == ["unknown", "unknown", "smol", "smol", "smol"]
    assert server.paths().count("/v1/models") == 2


@pytest.mark.parametrize("response", [b'{"data": [{"id": "a\\ud800b"}]}', b"[" * 200_000])
def test_an_invalid_model_name_does_not_fail_the_read(response: bytes):
    """Half a surrogate pair is valid JSON and not valid UTF-8; and JSON may be nested too deep to parse."""
    document = answer(response, content_type="application/json")
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": document, "/props": document})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP)
        reading = source.read()
        source.close()
    assert {series.model for series in reading.series} == {"a?b" if b"data" in response else "unknown"}


def test_the_message_of_an_error_may_be_anything():
    for response in (b"[" * 4000, b"[]", b'{"error": {"message": "a\\ud800b"}}'):
        with PageServer(
            lambda request, response=response: answer(response, status=500, content_type="application/json")
        ) as server:  # type: ignore[misc]
            failure = failure_of(ScrapeSource("chat", server.url, LLAMACPP))
        assert failure.reason is Reason.BROKEN
        assert failure.detail.encode().startswith(f"{server.url}/metrics: HTTP 500".encode())


def test_the_model_is_requested_again_when_the_server_was_replaced():
    now = [0.0]
    names = ["old", "new"]

    def script(request: Asked) -> bytes:
        if request.path == "/v1/models":
            return answer(
                json.dumps({"data": [{"id": names[request.connection - 1]}]}), content_type="application/json"
            )
        return answer(LLAMA_PAGE) if request.path == "/metrics" else NOT_FOUND

    with PageServer(script) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP, clock=lambda: now[0])
        first = source.read()
        server.hang_up()
        now[0] = 61.0
        second = source.read()
        source.close()
    assert [reading.series[0].model for reading in (first, second)] == ["old", "new"]


def test_the_identity_is_the_process_if_the_page_has_none():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": MODELS})) as server:
        source = ScrapeSource("chat", server.url, LLAMACPP, process=lambda: Listening(42, 1700000000.5))
        reading = source.read()
        source.close()
    assert (reading.identity, reading.started_wall_seconds) == (ProcessIdentity(1700000000.5, 42), 1700000000.5)


def test_t09_a_process_that_may_continue_from_old_files_has_no_known_start_of_its_counters():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE), "/v1/models": MODELS})) as server:
        process = Listening(42, 1700000000.5, keeps_counters=True)
        source = ScrapeSource("chat", server.url, LLAMACPP, process=lambda: process)
        reading = source.read()
        source.close()
    assert (reading.identity, reading.started_wall_seconds) == (ProcessIdentity(1700000000.5, 42), None)


def test_the_instant_lies_between_the_request_and_the_answer():
    ticks = iter(range(1000))
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, VLLM, clock=lambda: float(next(ticks)), timeout_seconds=500.0)
        reading = source.read()
        source.close()
    assert 0.0 < reading.at_seconds < 20.0


def test_headers_are_read_again_at_every_connect(tmp_path: Path):
    secrets = tmp_path / "headers"
    secrets.write_text("# rotated daily\nAuthorization: Bearer one\nX-Team: a\n")

    def script(request: Asked) -> bytes:
        if request.headers.get("authorization") != "Bearer two":
            return answer("{}", status=401, content_type="application/json")
        return answer(VLLM_PAGE) if request.path == "/metrics" else NOT_FOUND

    with PageServer(script) as server:
        source = ScrapeSource("chat", server.url, VLLM, headers_file=secrets)
        with pytest.raises(SourceError) as caught:
            source.read()
        secrets.write_text("Authorization: Bearer two\nX-Team: a\n")
        reading = source.read()
        source.close()
    assert caught.value.reason is Reason.UNAUTHORIZED
    assert server.asked[0].headers["x-team"] == "a"
    assert totals_by_role(reading.series)[Role.OUTPUT] == 384.0


def test_a_bare_token_is_sent_as_a_bearer_token(tmp_path: Path):
    secrets = tmp_path / "token"
    secrets.write_text("s3cret\n")
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, VLLM, headers_file=secrets)
        source.read()
        source.close()
    assert server.asked[0].headers["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("text", ["no header at all\nsecond\n", "Bad Name: secret\n", "A: b\x07\n"])
def test_an_invalid_headers_file_is_refused_without_the_secret_in_the_message(tmp_path: Path, text: str):
    secrets = tmp_path / "headers"
    secrets.write_text(text)
    failure = failure_of(ScrapeSource("chat", "http://127.0.0.1:9", VLLM, headers_file=secrets))
    assert failure.reason is Reason.PERMISSION
    assert "secret" not in failure.detail


def test_a_missing_headers_file_has_the_reason_permission(tmp_path: Path):
    failure = failure_of(ScrapeSource("chat", "http://127.0.0.1:9", VLLM, headers_file=tmp_path / "none"))
    assert failure.reason is Reason.PERMISSION


def test_t29_the_cadence_of_a_server_with_another_engine_s_names_can_be_configured():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        source = ScrapeSource("chat", server.url, VLLM, cadence=Cadence.FINISH)
        reading = source.read()
        source.close()
    assert reading.cadence is Cadence.FINISH


def test_a_custom_mapping_is_read():
    dialect = dialect_from_mapping(
        {"output": "my_generated_tokens_total", "input": {"metric": "my_prompt_tokens_sum", "match": {"stage": "all"}}}
    )
    body = 'my_generated_tokens_total 5\nmy_prompt_tokens_sum{stage="all"} 7\nmy_prompt_tokens_sum{stage="part"} 3\n'
    with PageServer(pages({"/metrics": answer(body)})) as server:
        source = ScrapeSource("edge", server.url + "/metrics", dialect, model="m")
        reading = source.read()
        source.close()
    assert [(series.role, series.model, series.value) for series in reading.series] == [
        (Role.OUTPUT, "m", 5.0),
        (Role.INPUT, "m", 7.0),
    ]


def test_a_custom_mapping_without_a_match_on_the_page_is_disabled():
    dialect = dialect_from_mapping({"output": "my_generated_tokens_total"})
    with PageServer(pages({"/metrics": answer("other_total 5\n")})) as server:
        failure = failure_of(ScrapeSource("edge", server.url + "/metrics", dialect))
    assert failure.reason is Reason.DISABLED
    assert "my_generated_tokens_total" in failure.detail


def test_an_invalid_url_is_refused_by_the_constructor():
    with pytest.raises(ValueError, match="not an http"):
        ScrapeSource("chat", "127.0.0.1:8000")


def test_sglang_is_recognised_and_its_live_counter_shows_tokens_in_flight():
    page = (CAPTURES / "sglang-0.5.23-collectors.txt").read_bytes()
    later = page.replace(b'tp_rank="0"} 272.0', b'tp_rank="0"} 300.0')
    response = {"/metrics": answer(page)}
    with PageServer(lambda request: response.get(request.path, NOT_FOUND)) as server:
        source = ScrapeSource("chat", server.url)
        reading = source.read()
        response["/metrics"] = answer(later)
        after = source.read()
        source.close()
    assert (reading.engine, reading.cadence, SGLANG.name) == ("sglang", Cadence.STEP, "sglang")
    assert totals_by_role(reading.series)[Role.OUTPUT] == 240.0
    assert (reading.in_flight, after.in_flight) == ((), (InFlight("demo-model", 28.0),))


def test_an_address_is_recognised_at_the_paths_of_the_expected_engine_only():
    with PageServer(pages({"/metrics": answer(LLAMA_PAGE)})) as server:
        assert recognise_at(server.url, expected=(LLAMACPP,)) is LLAMACPP
    assert server.paths()[0] == "/metrics"


def test_an_expected_engine_is_accepted_on_a_page_without_a_mark():
    with PageServer(pages({"/metrics": answer("")})) as server:
        assert recognise_at(server.url, expected=(ENGINES["tgi"],)) is ENGINES["tgi"]


def test_an_expected_engine_without_counters_names_the_setting_that_enables_them():
    with (
        PageServer(pages({"/metrics": answer("process_start_time_seconds 5\n")})) as server,
        pytest.raises(SourceError) as caught,
    ):
        recognise_at(server.url, expected=(VLLM,))
    assert (caught.value.reason, "--disable-log-stats" in caught.value.hint) == (Reason.DISABLED, True)


def test_an_expected_engine_without_counters_may_contain_the_middleware():
    """``vllm serve --disable-log-stats --middleware tpw.hook.TokenCounter``; enabled counters of its own have priority."""
    ours = answer('tpw_hook_output_tokens_total{model="m"} 5\n')
    off = answer("process_start_time_seconds 5\n")
    for page, engine in ((off, ENGINES["tpw_hook"]), (answer(VLLM_PAGE), VLLM)):
        with PageServer(pages({"/metrics": page, "/tpw/metrics": ours})) as server:
            assert recognise_at(server.url, expected=(VLLM,)) is engine


def test_t24_the_list_of_an_expected_trtllm_is_never_requested():
    with PageServer(pages({"/prometheus/metrics": answer("trtllm_something_total 1\n")})) as server:
        assert recognise_at(server.url, expected=(TRTLLM_SERVE,)) is TRTLLM_SERVE
    with PageServer(lambda request: NOT_FOUND) as silent, pytest.raises(SourceError):
        recognise_at(silent.url, expected=(TRTLLM_SERVE,))
    assert "/metrics" not in {*server.paths(), *silent.paths()}


def test_an_address_may_have_another_dialect_than_the_name_of_its_process():
    with PageServer(pages({"/metrics": answer(VLLM_PAGE)})) as server:
        assert recognise_at(server.url, expected=(LLAMACPP,)) is VLLM


def test_if_every_path_is_refused_the_usual_one_is_reported():
    with PageServer(lambda request: answer("{}", status=401, content_type="application/json")) as server:
        failure = failure_of(ScrapeSource("chat", server.url))
    assert (failure.reason, failure.detail) == (Reason.UNAUTHORIZED, f"{server.url}/metrics: HTTP 401")


def test_of_several_failures_the_most_informative_one_is_reported():
    off = answer("{}", status=501, content_type="application/json")
    with PageServer(pages({"/v1/metrics": off})) as server:
        failure = failure_of(ScrapeSource("chat", server.url))
    assert (failure.reason, failure.detail) == (Reason.DISABLED, f"{server.url}/v1/metrics: HTTP 501")


@pytest.mark.parametrize("page", ["", ":/metrics"])
def test_a_server_on_a_unix_socket_is_read(tmp_path: Path, page: str):
    with PageServer(pages({"/metrics": answer(VLLM_PAGE), "/version": VERSION}), unix=f"{tmp_path}/x.sock") as server:
        source = ScrapeSource("chat", server.url + page)
        reading = source.read()
        source.close()
    assert (reading.engine, reading.version) == ("vllm", "0.32.0")
    assert reading.address == f"unix:{tmp_path}/x.sock{page or ':'}"


def test_a_redirect_on_a_unix_socket_is_followed_within_it(tmp_path: Path):
    moved = answer("", status=307, headers={"Location": "/metrics/"})
    with PageServer(pages({"/metrics": moved, "/metrics/": answer(VLLM_PAGE)}), unix=f"{tmp_path}/x.sock") as server:
        source = ScrapeSource("chat", server.url)
        assert source.read().engine == "vllm"
        source.close()


def test_a_unix_socket_that_nobody_listens_on_is_unreachable(tmp_path: Path):
    failure = failure_of(ScrapeSource("chat", f"unix:{tmp_path}/x.sock"))
    assert failure.reason is Reason.UNREACHABLE
    assert f"unix:{tmp_path}/x.sock:/" in failure.detail


def test_a_gateway_has_the_role_of_a_router_unless_another_is_configured():
    page = (CAPTURES / "dynamo_frontend-1.6.1-after-17-requests.txt").read_bytes()
    with PageServer(pages({"/metrics": answer(page)})) as server:
        for configured, phase in ((None, Phase.ROUTER), (Phase.BOTH, Phase.BOTH)):
            source = ScrapeSource("front", server.url, phase=configured)
            assert source.read().phase is phase
            source.close()
