"""Reports by namespace, workload and pod label, and the FOCUS data set of workloads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import pytest

from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import PostingKey
from tpw.model import ServerWorkload, State, TokenKind
from tpw.report.focus import LINES_BY, Parties, focus_text
from tpw.report.periods import Calendar, Period
from tpw.report.records import csv_text
from tpw.report.table import table_text
from tpw.report.tabulate import Dimension, Label, Report, Tabulation, dimensions
from tpw.store import codec

DAY = Period(1_790_000_000.0 - 1_790_000_000.0 % 86400.0, 1_790_000_000.0 - 1_790_000_000.0 % 86400.0 + 86400.0)
UTC = Calendar("UTC")
WORKLOADS = {
    "chat/llama": ServerWorkload(
        "llama", "deployment", "chat", deployment="chat/assistant", labels=(("label_team", "search"),)
    ),
    "chat/llama-prefill": ServerWorkload(
        "llama-prefill", "deployment", "chat", deployment="chat/assistant", labels=(("label_team", "search"),)
    ),
    "code/llama": ServerWorkload("llama", "deployment", "code", labels=(("label_team", "tools"),)),
    "job-4711": ServerWorkload("4711", "slurm"),
}
TOKENS = {
    "chat/llama": 1.0,
    "chat/llama:replica-2": 2.0,
    "chat/llama-prefill": 4.0,
    "code/llama": 8.0,
    "job-4711": 16.0,
}


def report(by: Sequence[Dimension | Label]) -> Report:
    tabulation = Tabulation(by, DAY, UTC, owners=WORKLOADS)
    amounts = Amounts(seconds=900.0, joules=3.6e6, facility_joules=3.6e6, cost={"energy": 0.25})
    start = DAY.start_seconds
    rows = [(start, PostingKey("GPU-0", name, "m", State.ACTIVE), amounts) for name in TOKENS]
    rows.append((start, PostingKey("GPU-1", "", "", State.IDLE), amounts))
    served = [(start, name, "m", Served(tokens={TokenKind.OUTPUT: tokens})) for name, tokens in TOKENS.items()]
    tabulation.add(rows, served)
    return tabulation.report("EUR")


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("namespace", {("chat",): 7.0, ("code",): 8.0, ("",): 16.0}),
        ("workload", {("chat/llama",): 3.0, ("chat/llama-prefill",): 4.0, ("code/llama",): 8.0, ("4711",): 16.0}),
        (
            "namespace,workload",
            {("chat", "chat/llama"): 3.0, ("chat", "chat/llama-prefill"): 4.0, ("", "4711"): 16.0},
        ),
        ("label_team", {("search",): 7.0, ("tools",): 8.0, ("",): 16.0}),
        ("label_absent", {("",): 31.0}),
        ("server,namespace", {("chat/llama", "chat"): 3.0, ("job-4711", ""): 16.0}),
    ],
)
def test_tokens_are_summed_by_what_servers_belong_to(by: str, expected: dict[tuple[str, ...], float]):
    found = report(dimensions(by))
    rows = list(csv.DictReader(io.StringIO("".join(csv_text(found, UTC, {})))))
    names = by.split(",")
    tokens: dict[tuple[str, ...], float] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        tokens[key] = tokens.get(key, 0.0) + float(row["tokens_output"])

    assert expected.items() <= tokens.items()
    assert sum(tokens.values()) == 31.0
    assert sum(float(row["energy_gpu_kwh"]) for row in rows) == 6.0
    assert by.split(",", maxsplit=1)[0].upper() in "".join(table_text(found, UTC, {}, [], 100))


def test_an_unknown_grouping_names_what_there_is():
    with pytest.raises(ValueError, match="label_NAME"):
        dimensions("team")


def test_a_charge_names_the_namespace_as_its_sub_account_and_the_labels_as_tags():
    text = "".join(focus_text(report((Dimension.DAY, *LINES_BY)), {}, lambda _: DAY, Parties("us", "gpu-1")))
    charges = [row for row in csv.DictReader(io.StringIO(text)) if row["SkuId"] == "energy"]
    by_server = {json.loads(row["Tags"]).get("tpw/server", ""): row for row in charges}

    tags = json.loads(by_server["chat/llama"]["Tags"])
    assert (by_server["chat/llama"]["SubAccountId"], by_server["chat/llama"]["SubAccountName"]) == ("chat", "chat")
    assert tags["tpw/namespace"] == "chat"
    assert (tags["tpw/workload"], tags["tpw/workload_kind"]) == ("chat/llama", "kubernetes")
    assert tags["tpw/deployment"] == "chat/assistant"
    assert tags["label_team"] == "search"
    assert by_server["job-4711"]["SubAccountId"] == by_server[""]["SubAccountId"] == ""


def test_the_books_keep_to_whom_a_server_belongs():
    account = codec.ServerAccount("chat/llama", belongs=WORKLOADS["chat/llama"])

    assert codec.load_server("chat/llama", codec.dump_server(account)).belongs == WORKLOADS["chat/llama"]
    assert codec.load_server("chat/llama", "{}").belongs == ServerWorkload()
