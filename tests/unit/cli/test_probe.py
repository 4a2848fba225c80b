"""The output of ``probe`` for a snapshot, as JSON and as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.snapshots import rich_snapshot
from tpw.cli.probe import _print, findings
from tpw.config.schema import Config
from tpw.ledger.books import ServerAccount
from tpw.model import Attribution


def test_ranks_with_counters_on_another_node_are_not_reported_as_down(capsys: pytest.CaptureFixture[str]):
    snapshot = rich_snapshot()
    ranks = ServerAccount("big", attribution=Attribution.CONFIGURED, models=("acme/big",))
    servers = {name: snapshot.books.servers[name] for name in ("chat", "code")} | {"big": ranks}
    found = findings(replace(snapshot, books=replace(snapshot.books, servers=servers)), {}, Config())
    elsewhere = {server["name"]: server["counters_elsewhere"] for server in found["servers"]}
    assert elsewhere == {"chat": False, "code": False, "big": True}
    _print(found)
    text = capsys.readouterr().out
    assert "  big  ?  acme/big  no metrics page here  GPUs: unknown (configured)\n" in text
    assert text.count("DOWN  GPUs: unknown (processes)") == 1
