"""A router counts the tokens of the servers behind it: a difference is a note."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tpw.daemon.routers import Routers
from tpw.ledger.books import Books, ServerAccount
from tpw.model import Load, Phase, ServerWorkload, TokenKind

PROMPT, OUTPUT = ("m", TokenKind.INPUT), ("m", TokenKind.OUTPUT)
CHAT = ServerWorkload(deployment="chat")
OWNERS = dict.fromkeys(("router", "front", "back"), CHAT)


class World:
    """A router in front of a prefill and a decode instance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.routers = Routers(lambda: self.now)
        self.books = Books(
            servers={
                "router": ServerAccount("router", up=True, engine="dynamo_frontend", phase=Phase.ROUTER),
                "front": ServerAccount("front", up=True, engine="vllm", phase=Phase.PREFILL),
                "back": ServerAccount("back", up=True, engine="vllm", phase=Phase.DECODE),
            }
        )

    def set(self, name: str, **changes: object) -> None:
        self.books = replace(
            self.books, servers={**self.books.servers, name: replace(self.books.servers[name], **changes)}
        )

    def after(
        self, seconds: float, *, routed: float, made: float, requests: float = 100.0, whole: bool = True
    ) -> list[str]:
        """The notes when the totals of output tokens are these."""
        self.now += seconds
        self.set("router", tokens={PROMPT: 2.0 * made, OUTPUT: routed}, requests={"m": requests})
        self.set("front", tokens={PROMPT: 2.0 * made})
        self.set("back", tokens={OUTPUT: made})
        return self.routers.notes(self.books, OWNERS, {"chat"} if whole else ())


@pytest.fixture
def world() -> World:
    one = World()
    assert one.after(0.0, routed=500.0, made=0.0, requests=0.0) == []  # what came before is not compared
    return one


def test_more_than_two_per_cent_is_a_note_and_logged_once_until_they_agree(world: World) -> None:
    with capture_logs() as lines:
        [note] = world.after(60.0, routed=10_500.0, made=9_700.0)
        assert "10000" in note
        assert "9700" in note
        assert world.after(60.0, routed=20_500.0, made=19_400.0, requests=200.0) != []
    assert [line["event"] for line in lines] == ["deployment_tokens_differ"]
    assert world.after(60.0, routed=30_500.0, made=29_300.0, requests=300.0) == []


@pytest.mark.parametrize("seconds", [60.0, 3600.0])
def test_less_than_two_per_cent_is_none(world: World, seconds: float) -> None:
    assert world.after(seconds, routed=10_500.0, made=9_850.0) == []


def test_requests_that_are_running_are_waited_for(world: World) -> None:
    world.set("back", loads=(Load("m", 5.0, 0.0),))
    assert world.after(60.0, routed=10_500.0, made=9_000.0) == []
    world.set("back", loads=(Load("m", 0.0, 0.0),))
    assert world.after(1.0, routed=10_500.0, made=10_000.0) == []


def test_a_server_that_cannot_be_read_is_no_difference(world: World) -> None:
    world.set("back", up=False)
    assert world.after(60.0, routed=10_500.0, made=0.0) == []
    world.set("back", up=True)
    assert world.after(60.0, routed=20_500.0, made=20_000.0) == []


def test_a_deployment_with_servers_on_other_nodes_is_not_compared_here(world: World) -> None:
    assert world.after(60.0, routed=10_500.0, made=5_000.0, whole=False) == []
