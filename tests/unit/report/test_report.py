"""Reports over books that the real ledger wrote, each format against its golden file."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from support.goldens import golden
from support.quarters import END, GPUS, POLICY, START, UNPRICED_FROM, Hourly, write_books
from tpw.exposition.figures import UNKNOWN, figure
from tpw.ledger.amounts import JOULES_PER_KWH, Amounts, Served
from tpw.ledger.books import PostingKey
from tpw.ledger.tick import Policy
from tpw.model import State, Workload, WorkloadKind
from tpw.report.notes import notes
from tpw.report.periods import Calendar, Period, Unit
from tpw.report.records import csv_text, json_text
from tpw.report.table import table_text
from tpw.report.tabulate import DEFAULT, Dimension, Report, Tabulation, dimensions
from tpw.store.reading import BooksReader

BERLIN = Calendar("Europe/Berlin")
ALL = Period(START, END)
BY_GPU = {gpu.uuid: gpu for gpu in GPUS}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("books")
    write_books(made)
    return made


def reported(directory: Path, by: str | None = None, covered: Period = ALL, calendar: Calendar = BERLIN) -> Report:
    tabulation = Tabulation(DEFAULT if by is None else dimensions(by), covered, calendar)
    with BooksReader(directory) as books:
        tabulation.add(
            books.rows(covered.start_seconds, covered.end_seconds),
            books.served(covered.start_seconds, covered.end_seconds),
        )
        return tabulation.report(books.head().currency)


def as_table(report: Report, width: int = 100, gpus: Mapping[str, object] = BY_GPU) -> str:
    return "".join(table_text(report, BERLIN, BY_GPU if gpus else {}, notes(report, BERLIN, START, END), width))


# --------------------------------------------------------------------------------------------------------------- goldens


def test_the_default_table_is_the_golden_one(directory: Path) -> None:
    golden("report/table.txt", as_table(reported(directory)))


def test_the_table_by_gpu_and_component_is_the_golden_one(directory: Path) -> None:
    golden("report/table-gpu-component.txt", as_table(reported(directory, "gpu,component")))


def test_the_csv_is_the_golden_one(directory: Path) -> None:
    golden("report/report.csv", "".join(csv_text(reported(directory), BERLIN, BY_GPU)))


def test_the_json_is_the_golden_one(directory: Path) -> None:
    report = reported(directory, "day,gpu,state")
    golden("report/report.json", "".join(json_text(report, BERLIN, BY_GPU, notes(report, BERLIN, START, END))))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('=HYPERLINK("http://evil.example")', '\'=HYPERLINK("http://evil.example")'),
        ("+1+2", "'+1+2"),
        ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "' =1"),
        ("chat-=1", "chat-=1"),
        ("-17.5", "-17.5"),
    ],
)
def test_a_name_that_a_spreadsheet_would_run_is_text_and_numbers_stay_numbers(name: str, shown: str) -> None:
    """The names of models and servers come from outside."""
    tabulation = Tabulation(dimensions("server,model"), ALL, BERLIN)
    amounts = Amounts(900.0, 3.6e6, 3.6e6, cost={"energy": 0.0}, credit=2.0)
    tabulation.add([(START, PostingKey("g", name, name, State.ACTIVE), amounts)])
    [row] = csv.DictReader(io.StringIO("".join(csv_text(tabulation.report("EUR"), BERLIN, {})), newline=""))
    assert (row["server"], row["model"], row["cost_net"]) == (shown, shown, "-2.0")


# ---------------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize("by", ["day,server,model,state", "hour,gpu,state,component", "model", "month,gpu"])
def test_no_line_of_a_table_is_wider_than_asked_for(directory: Path, by: str) -> None:
    for line in as_table(reported(directory, by)).splitlines():
        assert len(line) <= 100, line


def test_long_names_are_cut_and_many_components_share_a_column(directory: Path) -> None:
    rates = tuple(replace(POLICY.rates[0], component=f"component_{letter}") for letter in "abcdefgh")
    tabulation = Tabulation(DEFAULT, ALL, BERLIN)
    key = PostingKey(
        "GPU-1", "a-very-long-name-of-a-server", "an-even/longer-name-of-a-model-that-goes-on-and-on", State.ACTIVE
    )
    cost = {"energy": 9.0, **{rate.component: 1.0 + place for place, rate in enumerate(rates)}}
    tabulation.add([(START, key, Amounts(900.0, 3.6e6, 3.6e6, cost=cost))])
    report = tabulation.report("EUR")

    text = as_table(report)

    assert all(len(line) <= 100 for line in text.splitlines())
    assert re.search(r"^a-very-[a-z-]+~ +an-even/[a-z-]+~ +active", text, re.MULTILINE)
    money = text.split("EUR;")[1]
    assert "ENERGY" in money and "OTHER" in money and "COMPONENT_H" in money and "COMPONENT_A" not in money
    assert f"{sum(cost.values()):.1f}" in money


def with_workloads(by: str | None = None) -> Report:
    """A server, an idle GPU, and two workloads: 4 kWh and 4 EUR in four quarter-hours."""
    tabulation = Tabulation(DEFAULT if by is None else dimensions(by), ALL, BERLIN)
    job, notebook = Workload(WorkloadKind.SLURM, "4711"), Workload(WorkloadKind.COMMAND, "ann/python")
    keys = (
        PostingKey("GPU-1", "chat", "m", State.ACTIVE),
        PostingKey("GPU-1", "", "", State.OTHER, job),
        PostingKey("GPU-2", "", "", State.OTHER, notebook),
        PostingKey("GPU-2", "", "", State.IDLE),
    )
    tabulation.add((START, key, Amounts(900.0, 3.6e6, 3.6e6, cost={"energy": 1.0})) for key in keys)
    return tabulation.report("EUR")


def test_other_use_has_a_line_for_each_workload() -> None:
    lines = as_table(with_workloads()).split("EUR;")[0].splitlines()
    assert [line.split()[:5] for line in lines[4:8]] == [
        ["chat", "m", "active", UNKNOWN, "0.250"],
        ["(other)", UNKNOWN, "other", "4711", "(slurm)"],
        ["(other)", UNKNOWN, "other", "ann/python", "(command)"],
        ["(idle)", UNKNOWN, "idle", UNKNOWN, "0.250"],
    ]


def test_records_have_the_workload_and_its_kind() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(csv_text(with_workloads("workload"), BERLIN, BY_GPU)))))
    assert [(row["workload"], row["workload_kind"], float(row["energy_gpu_kwh"])) for row in rows] == [
        ("", "", 2.0),
        ("4711", "slurm", 1.0),
        ("ann/python", "command", 1.0),
    ]


def test_without_workloads_the_table_has_no_column_for_them(directory: Path) -> None:
    assert "WORKLOAD" not in as_table(reported(directory))
    assert "WORKLOAD" in as_table(with_workloads())


def test_names_cannot_move_the_cursor() -> None:
    tabulation = Tabulation(DEFAULT, ALL, BERLIN)
    tabulation.add([(START, PostingKey("g", "bad\x1b[2J", "m", State.PARKED), Amounts(900.0))])
    assert "\x1b" not in as_table(tabulation.report("EUR"))


def test_a_range_without_rows_names_the_range_of_the_books(directory: Path) -> None:
    text = as_table(reported(directory, covered=Period(START - 86400.0, START)))
    assert "Nothing is booked from 2026-10-23 20:00 to 2026-10-24 20:00, Europe/Berlin." in text
    assert "The books hold 2026-10-24 to 2026-10-25 07:00." in text


def test_a_gpu_that_is_not_known_any_more_is_shown_by_its_uuid(directory: Path) -> None:
    assert GPUS[2].uuid in as_table(reported(directory, "gpu"), gpus={})


# ---------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("by", [",".join(Dimension), "day,server", "gpu", "component", "state,component", "hour,model"])
def test_lines_sum_to_the_same_totals_whatever_they_are_grouped_by(directory: Path, by: str) -> None:
    if by == ",".join(Dimension):
        by = "hour,server,model,state,gpu,component"
    expected, found = reported(directory, "server").totals, reported(directory, by).totals
    assert asdict(found.amounts) == approx_by_field(expected.amounts)
    assert asdict(found.served) == approx_by_field(expected.served)
    assert found.untariffed_joules == expected.untariffed_joules
    assert expected.amounts.credit > 0.0
    assert expected.amounts.unpriced_joules > 0.0


def approx_by_field(quantity: Amounts | Served) -> dict[str, object]:
    return {name: pytest.approx(value, rel=1e-12) for name, value in asdict(quantity).items()}


def test_tokens_stand_with_the_active_state_and_without_a_gpu(directory: Path) -> None:
    by_state = {line.state: line.totals.tokens for line in reported(directory, "state").lines}
    assert by_state["active"] > 0.0
    assert (by_state["parked"], by_state["idle"]) == (0.0, 0.0)
    by_gpu = {line.gpu: line.totals.tokens for line in reported(directory, "gpu").lines}
    assert by_gpu == {**dict.fromkeys(BY_GPU, 0.0), "": by_state["active"]}


def test_by_component_energy_and_credit_stand_with_energy(directory: Path) -> None:
    lines = {line.component: line.totals.amounts for line in reported(directory, "component").lines}
    totals = reported(directory, "component").totals.amounts
    assert list(lines) == ["energy", "hardware", "hosting", ""]
    assert (lines["energy"].facility_joules, lines["energy"].credit) == (totals.facility_joules, totals.credit)
    assert lines["hardware"].cost == {"hardware": totals.cost["hardware"]}
    assert lines[""].seconds == totals.seconds


def test_idle_gpus_have_lines_of_their_own_at_the_end(directory: Path) -> None:
    lines = list(reported(directory, "server").lines)
    assert [line.server for line in lines] == ["chat", "code", ""]
    assert lines[-1].totals.amounts.seconds == END - START
    assert "(idle)" in as_table(reported(directory, "server,state"))
    assert "(no server)" in as_table(reported(directory, "server"))  # other use is in it too


def test_lines_stand_in_the_order_of_what_they_are_grouped_by(directory: Path) -> None:
    lines = list(reported(directory, "server,hour").lines)
    assert [line.server for line in lines] == sorted((line.server for line in lines), key=lambda name: (not name, name))
    starts = [line.period.start_seconds for line in lines if line.server == "chat" and line.period]
    assert starts == sorted(starts)


def test_a_local_day_takes_exactly_its_quarter_hours(directory: Path) -> None:
    kathmandu = Calendar("Asia/Kathmandu")
    midnight = kathmandu.period(Unit.DAY, START + 3600.0).start_seconds
    lines = reported(directory, "day,gpu", calendar=kathmandu).lines
    of_first = [line.totals.amounts for line in lines if line.gpu == GPUS[2].uuid]
    assert midnight == START + 900.0  # the books begin a quarter before that midnight
    assert [amounts.seconds for amounts in of_first] == [900.0, END - START - 900.0]


# ---------------------------------------------------------------------------------------------------- what has no price


def test_energy_without_a_price_is_reported_apart_and_not_as_free(directory: Path) -> None:
    after = Period(UNPRICED_FROM, END)
    amounts = reported(directory, "server", after).totals.amounts
    assert amounts.unpriced_joules == pytest.approx(amounts.facility_joules)
    record = next(csv.DictReader(io.StringIO("".join(csv_text(reported(directory, "server", after), BERLIN, BY_GPU)))))
    assert float(record["energy_unpriced_kwh"]) == pytest.approx(float(record["energy_facility_kwh"]))
    assert record["cost_full_per_million_output_tokens"] == ""
    text = as_table(reported(directory, "server", after))
    kwh = amounts.unpriced_joules / JOULES_PER_KWH
    assert f"* {kwh:.3f} kWh have no price yet" in text
    assert all(
        line.split()[-1] == UNKNOWN for line in text.split("EUR;")[1].splitlines() if line.startswith(("chat", "total"))
    )


def test_a_price_that_came_late_is_in_the_report(tmp_path: Path) -> None:
    class Known(Hourly):
        def pieces(self, start, end):  # type: ignore[no-untyped-def]
            for a, b, price in super().pieces(start, end):
                yield a, b, price or replace(next(super().pieces(START, START + 1.0))[2], price_per_kwh=0.4)

    from tpw.ledger.rows import price_late
    from tpw.store.sqlite import BooksFile

    write_books(tmp_path)
    file = BooksFile(tmp_path, lambda: END)
    file.save(price_late(file.load(), replace(POLICY, curve=Known())))
    file.close()

    totals = reported(tmp_path, "server", Period(UNPRICED_FROM, END)).totals.amounts
    assert totals.unpriced_joules == 0.0
    assert totals.cost["energy"] == pytest.approx(totals.facility_joules / JOULES_PER_KWH * 0.4)


def test_books_without_a_tariff_have_no_cost_and_a_note(tmp_path: Path) -> None:
    write_books(tmp_path, Policy(interval_seconds=300.0))
    report = reported(tmp_path, "server")
    assert report.totals.net_cost is None
    text = as_table(report)
    assert "EUR" not in text
    assert "Nothing has a cost: neither `tariff` nor `costs` was configured" in text
    document = json.loads("".join(json_text(report, BERLIN, BY_GPU, [])))
    assert (document["currency"], document["totals"]["cost_net"]) == (None, None)


def test_costs_without_a_tariff_have_no_energy_cost(tmp_path: Path) -> None:
    write_books(tmp_path, Policy(interval_seconds=300.0, currency="EUR", rates=POLICY.rates))
    report = reported(tmp_path, "server")
    assert report.totals.energy_cost is None
    assert report.totals.net_cost == pytest.approx(1.2 * 3 * (END - START) / 3600.0)
    assert "The energy has no cost: no `tariff`" in as_table(report)


def test_energy_from_before_a_tariff_is_reported_apart_and_yields_no_cost_per_token(tmp_path: Path) -> None:
    """Half of the energy has a cost and none waits for one: what that comes to for a token is neither."""
    midnight = START + 4 * 3600.0
    untaxed = Policy(interval_seconds=300.0, pue=1.2, currency="EUR", rates=POLICY.rates)
    write_books(tmp_path, untaxed, later=(midnight, POLICY), end=UNPRICED_FROM)
    before, after = (
        reported(tmp_path, "server", period) for period in (Period(START, midnight), Period(midnight, UNPRICED_FROM))
    )
    whole = reported(tmp_path, "server", Period(START, UNPRICED_FROM))

    kwh = before.totals.amounts.facility_joules / JOULES_PER_KWH
    assert whole.totals.untariffed_joules == pytest.approx(before.totals.amounts.facility_joules)
    assert (after.totals.untariffed_joules, whole.totals.amounts.unpriced_joules) == (0.0, 0.0)
    chat = next(iter(whole.lines)).totals
    assert chat.per_million(chat.energy_cost, chat.tokens) is None
    assert chat.per_million(chat.net_cost, chat.tokens) is None
    chat = next(iter(after.lines)).totals
    assert chat.per_million(chat.net_cost, chat.tokens) is not None

    assert f"{figure(kwh)} kWh were used before a `tariff` was configured" in as_table(whole)
    assert "before a `tariff`" not in as_table(after)
    assert "before a `tariff`" not in as_table(before)
    record = json.loads("".join(json_text(whole, BERLIN, BY_GPU, [])))["totals"]
    assert record["energy_untariffed_kwh"] == pytest.approx(kwh)
    assert record["cost_full_per_million_tokens"] is None


def test_ratios_are_those_of_the_sums(directory: Path) -> None:
    report = reported(directory, "server", Period(START, UNPRICED_FROM))
    chat = next(line.totals for line in report.lines if line.server == "chat")
    record = next(csv.DictReader(io.StringIO("".join(csv_text(report, BERLIN, BY_GPU)))))
    output, total = chat.output_tokens, chat.tokens
    assert math.isclose(float(record["output_tokens_per_joule_gpu"]), output / chat.amounts.joules)
    assert math.isclose(float(record["tokens_per_joule_facility"]), total / chat.amounts.facility_joules)
    energy = chat.amounts.cost["energy"] - chat.amounts.credit
    net = sum(chat.amounts.cost.values()) - chat.amounts.credit
    assert math.isclose(float(record["cost_energy_per_million_output_tokens"]), energy / output * 1e6)
    assert math.isclose(float(record["cost_full_per_million_tokens"]), net / total * 1e6)


def test_other_work_and_several_bases_of_carbon_are_reported(directory: Path) -> None:
    tabulation = Tabulation(dimensions("server"), ALL, BERLIN)
    grams = {"average_lifecycle": 40.0, "marginal_direct": 90.0}
    rows = [(START, PostingKey("g", "s", "m", State.ACTIVE), Amounts(900.0, emissions_grams=grams))]
    tabulation.add(rows, [(START, "s", "m", Served(work={"audio_seconds": 12.5}))])
    report = tabulation.report("")
    record = next(csv.DictReader(io.StringIO("".join(csv_text(report, BERLIN, BY_GPU)))))
    assert (record["work_audio_seconds"], record["emissions_marginal_direct_grams"]) == ("12.5", "90.0")
    assert "The column of grams is average_lifecycle. By another basis: 90.0 g marginal_direct." in as_table(report)


@pytest.mark.parametrize("text", ["day,foo", "", "day,hour"])
def test_a_grouping_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--by"):
        dimensions(text)
