"""The pods of this node from the API: list, watch, and what happens when they end or fail."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tpw.discovery.kubernetes import NodePods
from tpw.http.messages import Answer, status_error
from tpw.model import Reason, SourceError


def pod(uid: str, version: int = 1, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": uid, "namespace": "chat", "uid": uid, "resourceVersion": str(version), "labels": labels}
    }


def pods(version: int, *items: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps({"metadata": {"resourceVersion": str(version)}, "items": items}).encode())


class Server:
    """An API server: answers of lists, and for each watch its events or its failure."""

    def __init__(self, lists: Sequence[Answer | SourceError], watches: Sequence[Sequence[Any] | SourceError]) -> None:
        self.lists, self.watches = list(lists), list(watches)
        self.requested: list[dict[str, str]] = []

    def _note(self, target: str) -> None:
        parts = urlsplit(target)
        assert parts.path == "/api/v1/pods"
        self.requested.append({name: values[0] for name, values in parse_qs(parts.query).items()})

    def request(self, target: str, **_: Any) -> Answer:
        self._note(target)
        answer = self.lists.pop(0)
        if isinstance(answer, SourceError):
            raise answer
        return answer

    def lines(self, target: str, **_: Any) -> Iterator[bytes]:
        self._note(target)
        events = self.watches.pop(0)
        if isinstance(events, SourceError):
            raise events
        for kind, item in events:
            yield json.dumps({"type": kind, "object": item}).encode() + b"\n"


def followed(server: Server) -> NodePods:
    return NodePods(server, "gpu-1", spread=lambda _low, high: high)


def refused(status: int) -> SourceError:
    return status_error("/api/v1/pods", Answer(status, b""))


UNREACHABLE = SourceError(Reason.UNREACHABLE, "connection refused")


def test_a_list_and_the_events_after_it_are_the_pods_of_the_node():
    server = Server(
        [pods(10, pod("a"), pod("b"))],
        [[("ADDED", pod("c", 11)), ("DELETED", pod("a", 12)), ("MODIFIED", pod("b", 13, team="x"))]],
    )
    node = followed(server)

    node.step()

    assert {uid: dict(one.labels) for uid, one in node.pods.items()} == {"b": {"team": "x"}, "c": {}}
    assert server.requested[0] == {"fieldSelector": "spec.nodeName=gpu-1", "resourceVersion": "0"}
    assert server.requested[1]["resourceVersion"] == "10"
    assert server.requested[1]["allowWatchBookmarks"] == "true"


def test_a_watch_that_ends_goes_on_from_its_last_bookmark_without_a_list():
    server = Server([pods(10, pod("a"))], [[("BOOKMARK", {"metadata": {"resourceVersion": "90"}})], []])
    node = followed(server)

    node.step()
    node.step()

    assert server.requested[-1]["resourceVersion"] == "90"
    assert list(node.pods) == ["a"]


@pytest.mark.parametrize("expired", [[("ERROR", {"code": 410})], refused(410)])
def test_an_expired_version_is_listed_again(expired):
    server = Server([pods(10, pod("a")), pods(500, pod("b"))], [expired, []])
    node = followed(server)

    node.step()
    assert list(node.pods) == ["a"]
    node.step()

    assert list(node.pods) == ["b"]
    assert node.problem == ""


def test_a_token_that_was_replaced_is_sent_at_once_and_is_no_problem():
    server = Server([pods(10, pod("a"))], [refused(401), [("ADDED", pod("b", 11))]])
    node = followed(server)

    assert node.step() == 0.0
    node.step()

    assert set(node.pods) == {"a", "b"}
    assert node.problem == ""


def test_without_the_right_it_is_off_and_the_problem_has_constant_text():
    server = Server([refused(403), refused(403), pods(10, pod("a"))], [[]])
    node = followed(server)

    assert node.step() == 300.0
    first = node.problem
    assert "does not allow" in first
    assert node.step() == 300.0
    assert node.problem == first
    node.step()  # it was allowed meanwhile

    assert list(node.pods) == ["a"]
    assert node.problem == ""


def test_an_api_that_is_away_keeps_the_pods_and_is_reported_after_some_time():
    server = Server([pods(10, pod("a"))], [UNREACHABLE, UNREACHABLE, UNREACHABLE, []])
    node = followed(server)

    waits = [node.step(), node.step()]
    assert node.problem == ""
    waits.append(node.step())
    assert "cannot be read" in node.problem
    assert list(node.pods) == ["a"]
    node.step()

    assert waits == [1.0, 2.0, 4.0]
    assert node.problem == ""


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"items": [1], "metadata": {}}', b"not json"])
def test_what_is_no_list_of_pods_is_a_failure(body):
    node = followed(Server([Answer(200, body)], []))

    assert node.step() == 1.0
    assert node.pods == {}
    assert node.tried.is_set()
