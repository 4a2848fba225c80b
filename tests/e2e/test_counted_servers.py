"""Servers that publish no counters, counted on their way: by the proxy before a real llama-server, by the middleware in a
real ASGI server. Clients receive the same bytes as without the proxy; the counters equal the usage in the responses."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.servers import Child, clean_environment, exporter_command, free_port, http_get, http_request, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Counted:
    """A server of which something counts."""

    child: Child
    url: str

    def counter(self, name: str) -> float:
        """The sum of one of its counters over all models."""
        page = http_get(f"{self.url}/tpw/metrics").decode()
        return sum(float(line.split()[-1]) for line in page.splitlines() if re.match(rf"tpw_hook_{name}[ {{]", line))

    def counters(self) -> dict[str, float]:
        names = ("output_tokens_total", "prompt_tokens_total", "requests_total", "requests_without_usage_total")
        return {name.removesuffix("_total"): self.counter(name) for name in names}


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Counted]]:
    """Starts a command with a port in it."""
    with ExitStack() as stack:

        def started(name: str, command: list[str], port: int, path: str) -> Counted:
            path_of_python = {"PYTHONPATH": ":".join([*sys.path, str(TESTS)])}
            child = Child(f"{request.node.name}-{name}", command, clean_environment(**path_of_python))
            stack.callback(child.stop)
            child.wait_ready(f"http://127.0.0.1:{port}{path}")
            return Counted(child, f"http://127.0.0.1:{port}")

        yield started


@pytest.fixture
def proxy(start: Callable[..., Counted]) -> Callable[..., Counted]:
    """``proxy(upstream, *arguments)``."""

    def started(upstream: str, *arguments: str) -> Counted:
        port = free_port()
        flags = [f"--upstream={upstream}", f"--web.listen-address=127.0.0.1:{port}", *arguments]
        return start("proxy", exporter_command("proxy", *flags), port, "/tpw/metrics")

    return started


@pytest.fixture
def asgi(start: Callable[..., Counted]) -> Callable[[str], Counted]:
    """``asgi("counted")``: an application of support.asgi under uvicorn."""

    def started(application: str) -> Counted:
        port = free_port()
        options = [
            "--port",
            str(port),
            "--log-level",
            "warning",
            "--http",
            "h11",
            "--no-server-header",
            "--no-date-header",
        ]
        command = [sys.executable, "-m", "uvicorn", f"support.asgi:{application}", *options]
        return start(application, command, port, "/")

    return started


def ask(url: str, path: str, body: dict[str, Any], *, timeout: float = 60.0) -> bytes:
    return http_request(
        url + path, json.dumps(body).encode(), headers={"Content-Type": "application/json"}, timeout=timeout
    )


def comparable(answer: bytes) -> bytes:
    """Without what differs between two equal requests."""
    answer = re.sub(rb'"(id|system_fingerprint)":"[^"]*"', rb'"\1":""', answer)
    return re.sub(rb'"(created|[a-z_]+_ms|[a-z_]+_per_second|id_slot)":[-0-9.e+]+', rb'"\1":0', answer)


def usage_of(answer: bytes) -> tuple[int, int]:
    """Prompt and output tokens by the usage in a response; a stream has it at its end."""
    (text,) = re.findall(rb'"usage":(\{(?:[^{}]|\{[^{}]*\})*\})', answer)[-1:]
    usage = json.loads(text)
    return usage["prompt_tokens"], usage["completion_tokens"]


def drop_after(url: str, path: str, body: dict[str, Any], pieces: int) -> None:
    """Ask for a stream, read a few lines of it and hang up."""
    address = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(address[0], int(address[1]), timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    for _ in range(pieces):
        answer.readline()
    answer.close()
    connection.close()


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {"prompt": "Once upon a time", "max_tokens": 12}),
    (COMPLETIONS, {"prompt": "One", "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {"messages": [{"role": "user", "content": 'Print "usage": {}'}], "max_tokens": 8}),
    (
        CHAT,
        {
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 10,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
]
FIXED = {"temperature": 0, "seed": 1, "cache_prompt": False}


def test_llama_behind_the_proxy_answers_as_it_does_without_it_and_every_token_is_counted(llama, proxy):
    counted = proxy(llama.url)
    sums = [0, 0]
    for path, body in QUESTIONS:
        direct, through = ask(llama.url, path, {**body, **FIXED}), ask(counted.url, path, {**body, **FIXED})
        assert comparable(through) == comparable(direct)
        sums = [one + more for one, more in zip(sums, usage_of(through), strict=True)]
    assert http_get(f"{counted.url}/v1/models") == http_get(f"{llama.url}/v1/models")
    assert counted.counters() == {
        "prompt_tokens": sums[0],
        "output_tokens": sums[1],
        "requests": len(QUESTIONS),
        "requests_without_usage": 0,
    }
    assert sums[1] == 12 + 9 + 8 + 10


def test_many_at_once_are_counted_like_one_after_the_other(llama, proxy):
    counted = proxy(llama.url)
    before = llama_output(llama)
    work = [(path, {**body, "temperature": 1.0}) for path, body in QUESTIONS] * 3
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: ask(counted.url, *one), work))
    usages = [usage_of(answer) for answer in answers]
    assert counted.counters() == {
        "prompt_tokens": sum(prompt for prompt, _ in usages),
        "output_tokens": sum(output for _, output in usages),
        "requests": len(work),
        "requests_without_usage": 0,
    }
    assert counted.counter("output_tokens_total") == llama_output(llama) - before


def llama_output(llama: Any) -> float:
    (value,) = re.findall(r"^llamacpp:tokens_predicted_total ([0-9.e+]+)$", llama.metrics(), re.MULTILINE)
    return float(value)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one answer"])
def test_a_client_that_gives_up_stops_llama_through_the_proxy(llama, proxy, stream):
    """No response has the usage of a request that its client dropped, so none of its tokens is counted."""
    counted = proxy(llama.url)
    before = llama_output(llama)
    body = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": stream}
    if stream:
        drop_after(counted.url, COMPLETIONS, body, pieces=10)
    else:
        with pytest.raises(TimeoutError):
            ask(counted.url, COMPLETIONS, body, timeout=0.5)
    wait_until(lambda: counted.counter("requests_without_usage_total") == 1, "the aborted request")
    assert counted.counter("requests_running") == 0
    after = ask(counted.url, COMPLETIONS, {"prompt": "Once", "max_tokens": 3, "ignore_eos": True})
    assert counted.counter("output_tokens_total") == usage_of(after)[1] == 3
    assert llama_output(llama) - before < 600


def test_a_stream_without_requested_usage_is_counted_by_the_timings_of_llama_server(llama, proxy):
    counted = proxy(llama.url)
    chat = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "ignore_eos": True,
        "stream": True,
        **FIXED,
    }
    direct, through = ask(llama.url, CHAT, chat), ask(counted.url, CHAT, chat)
    assert b'"usage"' not in through
    assert comparable(through) == comparable(direct)
    assert (counted.counter("output_tokens_total"), counted.counter("requests_without_usage_total")) == (7, 0)


def test_the_exporter_reads_the_proxy(llama, proxy, exporter):
    counted = proxy(llama.url)
    daemon = exporter(
        {
            "accelerators": [],
            "host": {"meters": []},
            "discovery": {"processes": False},
            "servers": [{"name": "edge", "url": counted.url, "engine": "tpw_hook", "gpus": "none"}],
        }
    )
    wait_until(lambda: 'tpw_server_up{server="edge"} 1' in daemon.metrics(), "the proxy to be read")
    usage = usage_of(ask(counted.url, COMPLETIONS, {"prompt": "Once", "max_tokens": 6, "ignore_eos": True}))
    wait_until(
        lambda: (
            f'tpw_server_tokens_total{{kind="output",model="smollm",server="edge"}} {float(usage[1])}'
            in daemon.metrics()
        ),
        "the tokens of one request",
    )
    [info] = re.findall(r"^tpw_server_info\{(.*)\} 1", daemon.metrics(), re.MULTILINE)
    assert {'engine="tpw_hook"', 'server="edge"'} <= set(info.split(","))


def test_sigterm_lets_a_stream_end(llama, proxy):
    counted = proxy(llama.url)
    host, port = counted.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    body = {"prompt": "Once", "max_tokens": 60, "ignore_eos": True, "stream": True}
    connection.request("POST", COMPLETIONS, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    first = answer.readline()
    counted.child.process.send_signal(signal.SIGTERM)
    wait_until(lambda: refuses(host, int(port)), "the proxy to take no more")
    rest = answer.read()
    connection.close()
    assert (first + rest).count(b"data: ") == 60 + 2  # the end of the text, and [DONE]
    assert rest.endswith(b"data: [DONE]\n\n")
    assert counted.child.process.wait(60) == 0
    assert "proxy_stopped" in counted.child.tail()


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"prompt": 30, "tokens": 12}),
    (CHAT, {"prompt": 31, "tokens": 200, "stream": True, "stream_options": {"include_usage": True}}),
    ("/api/chat", {"prompt": 32, "tokens": 50}),
]
SUMS = {"prompt_tokens": 93.0, "output_tokens": 262.0, "requests": 3.0, "requests_without_usage": 0.0}


def raw(url: str, path: str, body: dict[str, Any]) -> bytes:
    """Everything that comes over the wire, head and framing included."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + content)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_the_middleware_changes_no_byte_and_counts_every_token(asgi):
    plain, counted = asgi("plain"), asgi("counted")
    for path, body in ASKED:
        assert raw(counted.url, path, body) == raw(plain.url, path, body)
    assert counted.counters() == SUMS


def test_the_proxy_changes_no_byte_on_the_wire(asgi, proxy):
    plain = asgi("plain")
    counted = proxy(plain.url)
    for path, body in ASKED:
        assert raw(counted.url, path, body) == raw(plain.url, path, body)
    assert counted.counters() == SUMS


def test_many_streams_at_once_are_counted_by_the_middleware(asgi):
    counted = asgi("counted")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda one: ask(counted.url, *one), ASKED * 20))
    assert counted.counters() == {name: value * 20 for name, value in SUMS.items()}


def test_dropped_streams_are_reported_and_leave_nothing_behind(asgi):
    counted = asgi("counted")
    endless = {"prompt": 1, "tokens": 300, "stream": True, "pause": 0.005, "stream_options": {"include_usage": True}}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: drop_after(counted.url, CHAT, endless, pieces=5), range(8)))
    wait_until(lambda: counted.counter("requests_running") == 0, "all to be over")
    assert counted.counter("requests_total") + counted.counter("requests_without_usage_total") == 8
    ask(counted.url, *ASKED[0])
    assert counted.counter("errors_total") == 0


def test_a_counter_with_a_fault_harms_no_answer(asgi):
    plain, broken = asgi("plain"), asgi("broken")
    for path, body in ASKED:
        assert raw(broken.url, path, body) == raw(plain.url, path, body)
    assert broken.counter("errors_total") == len(ASKED)


def test_the_proxy_requests_usage_when_configured_and_hides_it_from_the_client(asgi, proxy):
    plain = asgi("plain")
    counted = proxy(plain.url, "--inject-usage")
    stream = {"prompt": 5, "tokens": 40, "stream": True}
    assert ask(counted.url, CHAT, stream) == ask(plain.url, CHAT, stream)
    assert counted.counters() == {
        "prompt_tokens": 5,
        "output_tokens": 40,
        "requests": 1,
        "requests_without_usage": 0,
    }
    untouched = proxy(plain.url)
    assert ask(untouched.url, CHAT, stream) == ask(plain.url, CHAT, stream)
    assert (untouched.counter("output_tokens_total"), untouched.counter("requests_without_usage_total")) == (0, 1)
