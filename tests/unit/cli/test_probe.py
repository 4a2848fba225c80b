"""What ``probe`` makes of a snapshot, as plain values and as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.snapshots import rich_snapshot
from tpw.cli.probe import _print, look
from tpw.config.schema import Config
from tpw.ledger.books import ServerAccount
from tpw.model import Attribution


def test_ranks_whose_counters_are_on_another_node_are_not_told_as_down(capsys: pytest.CaptureFixture[str]):
    snapshot = rich_snapshot()
    ranks = ServerAccount("big", attribution=Attribution.CONFIGURED, models=("acme/big",))
    servers = {name: snapshot.books.servers[name] for name in ("chat", "code")} | {"big": ranks}
    seen = look(replace(snapshot, books=replace(snapshot.books, servers=servers)), {}, Config())
    told = {server["name"]: server["counters_elsewhere"] for server in seen["servers"]}
    assert told == {"chat": False, "code": False, "big": True}
    _print(seen)
    text = capsys.readouterr().out
    assert "  big  ?  acme/big  counters elsewhere  GPUs: none known (configured)\n" in text
    assert text.count("DOWN  GPUs: none known (processes)") == 1
