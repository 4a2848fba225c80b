"""The price file for LiteLLM: bills of the same use sum to the cost, and what has no complete cost has no price."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import fsum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from support.quarters import END, START, UNPRICED_FROM, write_books
from support.servers import wait_until
from tpw.cli import main
from tpw.cli.price_file import BY, FreshPriceFile
from tpw.cli.run import keep_prices, new_daemon
from tpw.config.load import load
from tpw.ledger.amounts import Amounts, Served
from tpw.ledger.books import Books, PostingKey
from tpw.ledger.phases import PhaseWeights
from tpw.model import UNKNOWN_MODEL, Instant, State, TokenKind
from tpw.report.periods import Calendar, Period
from tpw.report.price_file import NoExchangeRateError, PriceFile, price_file
from tpw.report.tabulate import Tabulation

UTC = Calendar("UTC")
FULL = {"energy": 1.0, "hardware": 3.0}
KINDS = {
    TokenKind.INPUT: "input_cost_per_token",
    TokenKind.CACHED_INPUT: "cache_read_input_token_cost",
    TokenKind.OUTPUT: "output_cost_per_token",
}


def priced(
    rows: dict[tuple[str, str], tuple[Amounts, dict[TokenKind, float]]],
    weights: dict[tuple[str, str], PhaseWeights] | None = None,
    currency: str = "USD",
    rate: float | None = None,
) -> PriceFile:
    tabulation = Tabulation(BY, Period(START, END), UTC)
    tabulation.add(
        [
            (START, PostingKey("g", server, model, State.ACTIVE), amounts)
            for (server, model), (amounts, _) in rows.items()
        ],
        [(START, server, model, Served(tokens=tokens)) for (server, model), (_, tokens) in rows.items()],
    )
    return price_file(tabulation.report(currency), UTC, weights or {}, rate)


def amounts(cost: dict[str, float], **changes: float) -> Amounts:
    return replace(Amounts(900.0, 3.6e6, 3.6e6, cost=cost), **changes)


def bill(found: PriceFile, model: str, tokens: dict[TokenKind, float]) -> float:
    price = found.prices[f"openai/{model}"]
    return fsum(float(price[KINDS[kind]]) * count for kind, count in tokens.items())  # type: ignore[arg-type]


counts = st.floats(0.0, 1e9).map(round)
joules = st.floats(1e-3, 10.0)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1e4), counts, counts, counts, st.none() | st.tuples(joules, joules)),
        min_size=1,
        max_size=4,
    )
)
def test_bills_of_the_same_use_sum_to_the_cost(servers: list[tuple[float, int, int, int, tuple[float, float] | None]]):
    rows, weights = {}, {}
    total = dict.fromkeys(KINDS, 0.0)
    for number, (cost, computed, cached, output, known) in enumerate(servers):
        tokens = dict(zip(KINDS, map(float, (computed, cached, output)), strict=True))
        rows[f"server-{number}", "m"] = (amounts({"energy": 0.25 * cost, "hardware": 0.75 * cost}), tokens)
        if known:
            weights[f"server-{number}", "m"] = PhaseWeights(*known, 0.1)
        total = {kind: total[kind] + tokens[kind] for kind in KINDS}
    found = priced(rows, weights)
    if total[TokenKind.INPUT] + total[TokenKind.OUTPUT] == 0.0:
        assert found.prices == {}
    else:
        assert bill(found, "m", total) == pytest.approx(fsum(cost for cost, *_ in servers), rel=1e-9)


def test_input_and_output_are_priced_by_the_energy_of_the_phases_where_it_is_known():
    tokens = {TokenKind.INPUT: 1000.0, TokenKind.CACHED_INPUT: 500.0, TokenKind.OUTPUT: 100.0}
    rows = {("a", "m"): (amounts(FULL), tokens)}
    without = priced(rows).prices["hosted_vllm/m"]
    assert (without["input_cost_per_token"], without["output_cost_per_token"]) == (0.0, pytest.approx(0.04))
    by_phase = priced(rows, {("a", "m"): PhaseWeights(0.1, 2.0, 0.05)}).prices["hosted_vllm/m"]
    assert by_phase["input_cost_per_token"] == pytest.approx(4.0 * 0.1 / 300.0)
    assert by_phase["output_cost_per_token"] == pytest.approx(4.0 * 2.0 / 300.0)
    assert by_phase["cache_read_input_token_cost"] == 0.0
    assert (by_phase["litellm_provider"], by_phase["mode"]) == ("hosted_vllm", "chat")
    assert "measured from 2026-10-24 18:00 to 2026-10-25 06:00, UTC" in str(by_phase["source"])


def test_a_model_without_output_is_priced_by_its_input():
    tokens = {TokenKind.INPUT: 1000.0}
    price = priced({("a", "m"): (amounts(FULL), tokens)}).prices["openai/m"]
    assert (price["mode"], price["input_cost_per_token"]) == ("embedding", pytest.approx(0.004))


@pytest.mark.parametrize(
    ("model", "booked", "tokens", "words"),
    [
        ("m", amounts({"energy": 1.0}), 5.0, "not complete"),
        ("m", amounts({"hardware": 1.0}), 5.0, "not complete"),
        ("m", amounts(FULL, unpriced_joules=7.0), 5.0, "no price"),
        ("m", amounts(FULL), 0.0, "no tokens"),
        (UNKNOWN_MODEL, amounts(FULL), 5.0, "name"),
    ],
)
def test_what_is_not_known_is_left_out_and_named(model: str, booked: Amounts, tokens: float, words: str):
    whole = (amounts(FULL), {TokenKind.OUTPUT: 100.0})
    found = priced({("a", model): (booked, {TokenKind.OUTPUT: tokens}), ("b", "other"): whole})
    assert set(found.prices) == {"hosted_vllm/other", "openai/other"}
    [problem] = found.left_out
    assert words in problem


def test_a_currency_that_is_not_the_dollar_needs_a_rate():
    rows = {("a", "m"): (amounts(FULL), {TokenKind.OUTPUT: 100.0})}
    with pytest.raises(NoExchangeRateError, match="EUR"):
        priced(rows, currency="EUR")
    assert bill(priced(rows, currency="EUR", rate=1.1), "m", {TokenKind.OUTPUT: 100.0}) == pytest.approx(4.4)


# --------------------------------------------------------------------------------------------- the command and the daemon


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("books")
    write_books(made)
    return made


WORDS = ("--format=litellm", "--from=2026-10-24", "--to=2026-10-25T05:00")


def test_the_command_agrees_with_the_report(state: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", f"--state.dir={state}", *WORDS, "--exchange-rate=1"]) == 0
    prices = json.loads(capsys.readouterr().out)
    assert main(["report", f"--state.dir={state}", "--format=json", *WORDS[1:], "--by=model"]) == 0
    lines = {line["model"]: line for line in json.loads(capsys.readouterr().out)["rows"] if line["model"]}
    assert set(prices) == {f"{provider}/{model}" for provider in ("hosted_vllm", "openai") for model in lines}
    for model, line in lines.items():
        price = prices[f"openai/{model}"]
        due = (
            line["tokens_output"] * price["output_cost_per_token"]
            + line["tokens_input"] * price["input_cost_per_token"]
        )
        assert due == pytest.approx(line["cost_net"], rel=1e-9)


def test_the_command_names_what_is_wrong(state: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", f"--state.dir={state}", *WORDS]) == 1
    assert "give the exchange rate" in capsys.readouterr().err
    assert main(["report", f"--state.dir={state}", *WORDS, "--by=model"]) == 2
    assert main(["report", f"--state.dir={state}", *WORDS, "--exchange-rate=0"]) == 2
    assert main(["report", f"--state.dir={state}", "--format=litellm", "--from=2026-10-25", "--exchange-rate=1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "{}\n"
    assert "no price of llama-3.3-70b: some of its energy has no price" in captured.err


def fresh(state: Path, file: Path, rate: str = "1.08") -> FreshPriceFile:
    settings = f"file: {file}, last: 1d" + (f", exchange_rate: {rate}" if rate else "")
    config = load(f"state: {{dir: {state}}}\nlitellm: {{{settings}}}\n")
    return FreshPriceFile(config, lambda: Books(at=Instant(0.0, END)), lambda: UNPRICED_FROM)


def test_the_file_is_replaced_as_a_whole(state: Path, tmp_path: Path):
    path = tmp_path / "litellm.json"
    path.write_text("old")
    with path.open() as reading:
        fresh(state, path).write()
        assert reading.read() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text())["openai/llama-3.3-70b"]["output_cost_per_token"] > 0.0


def test_hours_that_wait_for_their_price_are_left_out(state: Path, tmp_path: Path):
    path = tmp_path / "litellm.json"
    row = {PostingKey("g", "chat", "m", State.ACTIVE): amounts(FULL, unpriced_joules=7.0)}
    books = Books(at=Instant(0.0, END), rows={UNPRICED_FROM: row})
    config = load(f"state: {{dir: {state}}}\nlitellm: {{file: {path}, exchange_rate: 1}}\n")
    FreshPriceFile(config, lambda: books, lambda: END).write()
    assert "openai/llama-3.3-70b" in json.loads(path.read_text())


def test_a_problem_is_logged_once_and_leaves_the_file(state: Path, tmp_path: Path):
    path = tmp_path / "litellm.json"
    path.write_text("old")
    one = fresh(state, path, rate="")
    with capture_logs() as logs:
        one.write()
        one.write()
    assert [entry["event"] for entry in logs] == ["price_file_incomplete"]
    assert path.read_text() == "old"
    with capture_logs() as logs:
        fresh(state, tmp_path / "missing" / "litellm.json").write()
    assert "missing" in logs[0]["detail"]


def test_the_daemon_keeps_the_file_of_its_configuration(tmp_path: Path):
    """From the start, and another one after a reload."""
    text = """
accelerators: [simulated]
host: {{meters: []}}
discovery: {{processes: false}}
servers: [{{name: big, gpus: [0], model: m}}]
state: {{dir: {state}}}
tariff: {{currency: USD, energy: {{kind: flat, price_per_kwh: 0.25}}}}
litellm: {{file: {file}}}
"""
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    one, two = (load(text.format(state=tmp_path, file=file)) for file in files)
    daemon = new_daemon(one, None)
    try:
        daemon.poll_all()
        daemon.jobs.start()
        wait_until(files[0].exists, "the file", every=0.02)
        keep_prices(daemon, two)
        wait_until(files[1].exists, "the file of the new configuration", every=0.02)
    finally:
        daemon.stop()


def test_nothing_of_it_is_loaded_without_the_setting():
    code = "import sys, tpw.cli.serving, tpw.daemon.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()).isdisjoint({"tpw.cli.price_file", "tpw.report.price_file", "tpw.report.tabulate"})
