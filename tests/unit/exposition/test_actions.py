"""Who may ask for an action, and how many requests share one run."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.exposition.actions import BusyError, Hosts, Shared
from tpw.exposition.http1 import Request


def refusal(headers: Mapping[str, str], **settings: object) -> str:
    hosts = Hosts(["0.0.0.0:10101"], machine="node-1.example", **settings)  # type: ignore[arg-type]
    return hosts.refusal(Request("POST", "/-/reload", {}, headers))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:10101",
        "LOCALHOST.:10101",
        "127.0.0.1:10101",
        "[::1]:10101",
        "[::1]",
        "10.1.2.3:8080",
        "node-1.example:10101",
        "node-1:10101",
        "0.0.0.0:10101",
    ],
)
def test_the_names_of_this_machine_and_ip_addresses_are_known(host: str):
    assert refusal({"host": host}) == ""
    assert refusal({"host": host, "origin": f"http://{host}"}) == ""
    assert refusal({"host": host, "referer": f"http://{host}/", "sec-fetch-site": "same-origin"}) == ""


@pytest.mark.parametrize(
    "host", ["evil.example:10101", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "a b"]
)
def test_another_name_is_refused_with_the_setting_that_allows_it(host: str):
    """DNS rebinding: the site's own name points at this host, so that Origin and Host agree."""
    text = refusal({"host": host, "origin": f"http://{host}"})
    assert "web.allowed_hosts" in text or host == "[::1"
    assert text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:8080"},
        {"origin": "http://localhost.evil.example:10101"},
        {"origin": "http://localhost:10101@evil.example"},
        {"origin": "http://["},
        {"referer": "http://evil.example/form.html"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none", "origin": "http://evil.example"},
    ],
)
def test_a_browser_that_asks_for_another_site_is_refused(headers: dict[str, str]):
    assert "another site" in refusal({"host": "localhost:10101", **headers})


def test_configured_names_are_known():
    assert refusal({"host": "tpw.svc"}, allowed=["tpw.svc"]) == ""
    proxied = {"host": "10.0.0.7:10101", "origin": "https://mon.example"}
    assert refusal(proxied, external_url="https://mon.example/tpw/") == ""
    assert refusal({"host": "mon.example"}, external_url="https://mon.example/tpw/") == ""
    assert refusal(proxied) != ""


class Gated:
    """An action that a test lets go on, run by run."""

    def __init__(self) -> None:
        self.began: SimpleQueue[None] = SimpleQueue()
        self.goes_on: SimpleQueue[Sequence[str]] = SimpleQueue()

    def __call__(self) -> Sequence[str]:
        self.began.put(None)
        problems = self.goes_on.get(timeout=10)
        if "raise" in problems:
            raise ValueError("raised")
        return problems


def ask(shared: Shared, results: SimpleQueue[object]) -> threading.Thread:
    def run() -> None:
        try:
            results.put(shared())
        except (BusyError, ValueError) as error:
            results.put(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(("answer", "result"), [((), ()), (("line 3",), ("line 3",)), (("raise",), ValueError)])
def test_requests_that_arrive_during_a_run_share_the_next_one(answer: Sequence[str], result: object):
    action, results = Gated(), SimpleQueue()
    shared = Shared(action)
    threads = [ask(shared, results)]
    action.began.get(timeout=10)
    threads += [ask(shared, results) for _ in range(30)]
    refused = [results.get(timeout=10) for _ in range(22)]
    action.goes_on.put(("first",))
    assert results.get(timeout=10) == ("first",)
    action.began.get(timeout=10)
    action.goes_on.put(answer)
    shared_results = [results.get(timeout=10) for _ in range(8)]
    for thread in threads:
        thread.join()

    assert refused == [BusyError] * 22
    assert shared_results == [result] * 8
    assert action.began.empty()


HEADER = st.text(st.characters(max_codepoint=255), max_size=60) | st.sampled_from(
    ["http://[", "[", "http://[::1", "@:/"]
)


@given(HEADER, HEADER)
def test_any_header_is_accepted_or_refused_with_a_reason(host: str, origin: str):
    assert isinstance(refusal({"host": host, "origin": origin}), str)
    assert refusal({"host": "evil.example", "origin": origin}) != ""
