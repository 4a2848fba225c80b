"""The whole daemon with tenants: a gateway's page in, counters, books and notes out."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from support.clockwork import Clock, ExactMeter, ExactServer, Truth, Work, serving
from support.pageserver import PageServer, answer
from tpw.cli import main
from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.daemon.daemon import Daemon
from tpw.daemon.reload import read_tenants
from tpw.daemon.sources import known_names
from tpw.exposition.families import families
from tpw.store.sqlite import BooksFile

START = 1_790_000_100.0  # the start of a quarter of an hour
KEY = "4fb2c6d1c0ffee00deadbeef"
"""What a gateway's page has of a key, which must be nowhere."""
PERSON = "ada@example.org"

CHAT = Truth(
    ticks=400,
    tick_seconds=10,
    watts=lambda gpu, tick: 400.0 if tick < 200 else 90.0,
    work=lambda server, tick: Work(running=1, computed=100, output=60) if tick < 200 else Work(),
    owners={"chat": (0,)},
    gpus=1,
)
SHARES = {"red": (60, 30), "blue": (40, 15), "None": (0, 9)}
"""(prompt, output) of a tick by team; requests without a team have None, and 6 output tokens pass the gateway by."""


class Gateway:
    """The page of LiteLLM, by team, key and user."""

    def __init__(self, clock: Clock, shares: Mapping[str, tuple[int, int]] = SHARES, ticks: int = 200) -> None:
        self._clock, self._shares, self._ticks = clock, shares, ticks
        self.began = START - 1000.0

    def page(self) -> bytes:
        done = min(self._ticks, round(self._clock.elapsed_seconds) // 10)
        lines = [f"process_start_time_seconds {self.began}"]
        for place, name in enumerate(("input_tokens", "output_tokens")):
            lines.append(f"# TYPE litellm_{name}_metric_total counter")
            for team, tokens in self._shares.items():
                labels = f'hashed_api_key="{KEY}-{team}",model="openai/m",team="{team}",team_alias="{team}"'
                # Two users of a team; the first has a third of it.
                for user, part in ((PERSON, 1), ("bob", 2)):
                    value = tokens[place] * done * part / 3
                    lines.append(f'litellm_{name}_metric_total{{{labels},user="{user}"}} {value}')
        return answer("\n".join([*lines, ""]))


class World:
    """A daemon, a server and a gateway on one clock that stands still between ticks."""

    def __init__(self, folder: Path, stack: ExitStack, tenants: str, gateway: Gateway | None = None) -> None:
        self.clock = Clock(START)
        self.gateway = gateway or Gateway(self.clock)
        self.gateway._clock = self.clock
        self._folder = folder
        server = ExactServer("chat", "m", CHAT, self.clock)
        url = stack.enter_context(serving(server))
        source = stack.enter_context(PageServer(lambda asked: self.gateway.page()))
        self.config = load(
            f"""
            host: {{meters: []}}
            discovery: {{processes: false}}
            servers: [{{name: chat, url: "{url}", gpus: [0]}}]
            tariff: {{currency: EUR, energy: {{kind: flat, price_per_kwh: 0.25}}}}
            costs: {{hardware: {{price_per_gpu: 30000, years: 4}}}}
            budgets: [{{name: red, amount: 5, tenant: red, period: day}}]
            tenants: [{{server: chat, source: litellm, url: "{source.url}/metrics"{tenants}}}]
            """,
            known=known_names(),
        )
        self.begin()

    def begin(self) -> None:
        """Start the daemon."""
        self.daemon = Daemon(
            self.config,
            BooksFile(self._folder),
            clock=self.clock.monotonic,
            wall=self.clock.wall,
            accelerators=[ExactMeter(CHAT, self.clock)],
        )
        read_tenants(self.daemon._node)
        self.daemon.poll_all()

    def kill(self) -> None:
        """End it without a word: what is not on disk is lost."""
        self.daemon._store.close()

    def ticks(self, number: int) -> None:
        for _ in range(number):
            self.clock.elapsed_seconds += 10.0
            read_tenants(self.daemon._node)
            self.daemon.tick()

    def samples(self, name: str, **wanted: str) -> dict[str, float]:
        """Values by tenant (or, without one, under "")."""
        found: dict[str, float] = {}
        for family in families(self.daemon.snapshot):
            if family.metric.name != name:
                continue
            for labels, value in family.samples:
                by_name = dict(zip(family.metric.labels, labels, strict=True))
                if all(by_name[label] == wanted_value for label, wanted_value in wanted.items()):
                    tenant = by_name.get("tenant", "")
                    found[tenant] = found.get(tenant, 0.0) + value
        return found

    def assert_whole(self) -> None:
        """Tenants and what is not divided yet sum to the server, in every state and component."""
        for state in ("active", "parked", "starting"):
            for part, whole, more in (
                ("energy_joules_total", "unsettled_energy_joules", {}),
                ("cost_total", "unsettled_cost", {"component": "energy"}),
                ("cost_total", "unsettled_cost", {"component": "hardware"}),
            ):
                divided = self.samples(f"tpw_tenant_{part}", state=state, **more)
                left = self.samples(f"tpw_tenant_{whole}", state=state, **more).get("", 0.0)
                server = self.samples(f"tpw_server_{part}", state=state, **more).get("", 0.0)
                assert math.isclose(math.fsum(divided.values()) + left, server, rel_tol=1e-9, abs_tol=1e-9)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


WEIGHTS = ", weights: {input: 0.2, cached_input: 0.02, output: 1}"


def test_a_server_is_divided_by_what_its_teams_used(tmp_path: Path, stack: ExitStack) -> None:
    world = World(tmp_path, stack, WEIGHTS)
    for _ in range(36):
        world.ticks(5)
        world.assert_whole()
    world.kill()
    assert world.samples("tpw_tenant_tokens_total", kind="output") == {"red": 180 * 30, "blue": 180 * 15}
    assert world.samples("tpw_tenant_tokens_total", kind="input") == {"red": 180 * 60, "blue": 180 * 40}
    joules = world.samples("tpw_tenant_energy_joules_total", state="active", method="configured")
    # A tick of the server weighs 100 * 0.2 + 60, of which red has 60 * 0.2 + 30 and blue 40 * 0.2 + 15.
    assert joules["red"] / joules["blue"] == pytest.approx(42 / 23, rel=1e-9)
    assert joules["red"] == pytest.approx(400.0 * 1800.0 * 42 / 80, rel=0.01)


def test_everything_is_divided_when_a_server_is_idle_for_long_enough(tmp_path: Path, stack: ExitStack) -> None:
    world = World(tmp_path, stack, WEIGHTS)
    world.ticks(390)
    world.assert_whole()
    joules = world.samples("tpw_tenant_energy_joules_total", state="active")
    assert joules["red"] == pytest.approx(400.0 * 2000.0 * 42 / 80, rel=0.01)
    assert joules["unattributed"] == pytest.approx(400.0 * 2000.0 * 15 / 80, rel=0.03)
    left = world.samples("tpw_tenant_unsettled_energy_joules", state="active")[""]
    assert left == pytest.approx(0.0, abs=1e-6)
    parked = world.samples("tpw_tenant_energy_joules_total", state="parked")
    assert parked.keys() == {"unattributed"}
    world.kill()


@pytest.mark.parametrize(
    ("idle", "who"), [(", idle: owner, owner: platform", {"platform"}), (", idle: by_use", {"red", "blue"})]
)
def test_parked_time_is_paid_by_the_policy(tmp_path: Path, stack: ExitStack, idle: str, who: set[str]) -> None:
    world = World(tmp_path, stack, WEIGHTS + idle)
    world.ticks(260)
    world.assert_whole()
    parked = world.samples("tpw_tenant_energy_joules_total", state="parked")
    assert {tenant for tenant, joules in parked.items() if joules > 0.0} == who
    if "red" in who:
        assert parked["red"] / parked["blue"] == pytest.approx(42 / 23, rel=1e-3)
    world.kill()


def test_no_key_and_no_person_is_in_books_page_log_or_report(tmp_path: Path, stack: ExitStack) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    books = tmp_path / "books"
    with capture_logs() as logs:
        world = World(books, stack, f", labels: [hashed_api_key], secret_file: {secret}")
        world.ticks(20)
    tenants = world.samples("tpw_tenant_tokens_total", kind="output")
    assert len(tenants) == 3
    page = repr([(family.metric.name, family.samples) for family in families(world.daemon.snapshot)])
    world.kill()
    disk = b"".join(path.read_bytes() for path in books.iterdir() if path.is_file())
    for text in (disk.decode("latin-1"), page, repr(logs), repr(world.daemon.snapshot.notes)):
        assert KEY not in text
        assert PERSON not in text
        assert "s3cret" not in text
    for tenant in tenants:
        assert tenant.encode() in disk


@pytest.mark.parametrize("label", ["hashed_api_key", "end_user", "user", "api_key"])
def test_a_label_with_keys_or_persons_names_nobody_as_it_is(label: str) -> None:
    text = f"tenants: [{{server: chat, source: litellm, labels: [{label}]}}]"
    with pytest.raises(ConfigError, match="names_file"):
        load(text, known=known_names())


def test_by_other_names_nobody_is_charged_for_what_was_counted_before(tmp_path: Path, stack: ExitStack) -> None:
    names = tmp_path / "names"
    names.write_text(f"crimson: {KEY}-red\nnavy: {KEY}-blue\n")
    world = World(tmp_path / "books", stack, f", labels: [hashed_api_key], names_file: {names}")
    world.ticks(30)
    before = world.samples("tpw_tenant_tokens_total", kind="output")
    names.write_text(f"scarlet: {KEY}-red\nnavy: {KEY}-blue\n")
    world.ticks(30)
    after = world.samples("tpw_tenant_tokens_total", kind="output")
    world.assert_whole()
    assert after["crimson"] == pytest.approx(before["crimson"], abs=6 * 30)
    assert 0.0 < after["scarlet"] <= 30 * 30
    assert before["navy"] + 20 * 15 <= after["navy"] <= before["navy"] + 36 * 15
    world.kill()


@pytest.mark.parametrize(("more", "is_noted"), [(1, True), (0, False)])
def test_a_second_source_that_differs_is_a_note_and_changes_nothing(
    tmp_path: Path, stack: ExitStack, more: int, is_noted: bool
) -> None:
    other = Gateway(Clock(START), {"red": (60, 30 + 9 * more), "blue": (40, 15 + more), "None": (0, 9)})
    page = stack.enter_context(PageServer(lambda asked: other.page()))
    world = World(tmp_path, stack, f', checks: [{{source: litellm, url: "{page.url}/metrics"}}]')
    other._clock = world.clock
    world.ticks(100)
    notes = [note for note in world.daemon.snapshot.notes if "should differ by less than 2%" in note]
    assert bool(notes) == is_noted
    assert world.samples("tpw_tenant_tokens_total", kind="output")["red"] <= 100 * 30
    assert {"tenants:chat", "tenants:chat:check-1"} <= {source.name for source in world.daemon.snapshot.sources}
    world.kill()


def test_tokens_of_a_model_that_the_server_does_not_have_are_nobodys_unless_the_series_are_chosen(
    tmp_path: Path, stack: ExitStack
) -> None:
    class Elsewhere(Gateway):
        def page(self) -> bytes:
            return super().page().replace(b'model="openai/m"', b'model="openai/large"')

    world = World(tmp_path / "all", stack, WEIGHTS, Elsewhere(Clock(START)))
    world.ticks(20)
    assert world.samples("tpw_tenant_tokens_total") == {}
    assert any("counts large" in note or "counts openai/large" in note for note in world.daemon.snapshot.notes)
    world.assert_whole()
    world.kill()
    chosen = World(tmp_path / "chosen", stack, f"{WEIGHTS}, match: {{model: openai/large}}", Elsewhere(Clock(START)))
    chosen.ticks(20)
    assert chosen.samples("tpw_tenant_tokens_total", kind="output", model="m")["red"] > 0.0
    chosen.kill()


def test_a_label_of_the_engines_own_page_is_a_source(tmp_path: Path, stack: ExitStack) -> None:
    clock = Clock(START)

    def page() -> bytes:
        done = round(clock.elapsed_seconds)
        lines = ["# TYPE sglang:generation_tokens_total counter", "# TYPE sglang:prompt_tokens_total counter"]
        for team, rate in (("red", 3), ("blue", 1)):
            labels = f'model_name="m",team="{team}"'
            lines += [f"sglang:{kind}_tokens_total{{{labels}}} {rate * done}" for kind in ("generation", "prompt")]
        return answer("\n".join([*lines, "sglang:num_running_reqs 1", ""]))

    server = stack.enter_context(PageServer(lambda asked: page()))
    config = load(
        f"""
        host: {{meters: []}}
        discovery: {{processes: false}}
        servers: [{{name: chat, url: "{server.url}", engine: sglang, gpus: [0]}}]
        tenants: [{{server: chat, source: sglang, labels: team}}]
        """,
        known=known_names(),
    )
    daemon = Daemon(config, clock=clock.monotonic, wall=clock.wall, accelerators=[ExactMeter(CHAT, clock)])
    daemon.poll_all()
    for _ in range(20):
        clock.elapsed_seconds += 10.0
        read_tenants(daemon._node)
        daemon.tick()
    tenants = daemon.snapshot.books.tenants
    assert tenants is not None
    output = {tenant: tokens for (_, _, tenant, kind), tokens in tenants.tokens.items() if kind == "output"}
    assert output["red"] == 3 * output["blue"] > 0.0


def test_a_restart_of_each_part_loses_nothing(tmp_path: Path, stack: ExitStack) -> None:
    world = World(tmp_path, stack, WEIGHTS)
    world.ticks(33)
    world.kill()
    world.clock.elapsed_seconds += 100.0
    world.begin()
    world.assert_whole()
    world.ticks(20)
    world.kill()
    world.begin()
    world.ticks(300)
    world.assert_whole()
    assert world.samples("tpw_tenant_tokens_total", kind="output") == {"red": 200 * 30, "blue": 200 * 15}
    world.kill()


def test_thousands_of_teams_are_bounded_and_their_sum_is_exact(tmp_path: Path, stack: ExitStack) -> None:
    clock = Clock(START)
    gateway = Gateway(clock, {f"team-{number}": (3, 3) for number in range(2_000)})
    world = World(tmp_path, stack, ", limit: 50", gateway)
    world.ticks(7)
    tokens = world.samples("tpw_tenant_tokens_total", kind="output")
    assert len(tokens) == 51
    assert math.fsum(tokens.values()) == 2_000 * 3 * 6
    world.assert_whole()
    world.kill()
    size = sum(path.stat().st_size for path in tmp_path.iterdir() if path.name.startswith("books.sqlite"))
    assert size < 3 << 20


def test_without_tenants_targets_and_deployments_nothing_of_them_is_imported() -> None:
    code = (
        "import sys\n"
        "from tpw.config.load import load\n"
        "from tpw.daemon.daemon import Daemon\n"
        "from tpw.daemon.sources import known_names\n"
        "from tpw.exposition.families import families\n"
        "daemon = Daemon(load('host: {meters: []}\\ndiscovery: {processes: false}\\naccelerators: []',"
        " known=known_names()))\n"
        "daemon.poll_all()\n"
        "names = {family.metric.name for family in families(daemon.snapshot)}\n"
        "assert not [name for name in names if 'tenant' in name or '_slo_' in name or '_deployment_' in name], names\n"
        "parts = ('tenants', 'service', 'latency', 'deployments', 'routers')\n"
        "print([name for name in sys.modules if name.startswith('tpw.') and name.rpartition('.')[2] in parts])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['tpw.config.tenants']"


def report(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, str]]:
    """The rows of a report as CSV."""
    assert main(["report", f"--state.dir={folder}", "--from=2026-09-21", "--to=2026-09-22", *options]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_report_by_tenant_sums_to_the_report_by_server(
    tmp_path: Path, stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, stack, WEIGHTS)
    world.ticks(160)
    spent = world.samples("tpw_budget_spent")[""]
    paid = math.fsum(value for who, value in world.samples("tpw_tenant_cost_total").items() if who == "red")
    assert spent == pytest.approx(paid, rel=1e-9)
    world.kill()
    capsys.readouterr()
    by_tenant = report(tmp_path, capsys, "--by=hour,tenant", "--format=csv")
    by_server = report(tmp_path, capsys, "--by=hour,server", "--format=csv")
    assert {row["tenant"] for row in by_tenant} == {"red", "blue", "unattributed", ""}
    for column in ("gpu_seconds", "energy_gpu_kwh", "cost_energy", "cost_hardware", "tokens_output", "tokens_input"):
        whole = math.fsum(float(row[column]) for row in by_server)
        assert math.isclose(math.fsum(float(row[column]) for row in by_tenant), whole, rel_tol=1e-9)
    red = [row for row in by_tenant if row["tenant"] == "red"]
    assert (
        math.fsum(float(row["tokens_output"]) for row in red)
        == world.samples("tpw_tenant_tokens_total", kind="output")["red"]
    )


def test_charges_by_tenant_have_it_as_sub_account_and_tag(
    tmp_path: Path, stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, stack, WEIGHTS)
    world.ticks(60)
    world.kill()
    capsys.readouterr()
    by_tenant = report(tmp_path, capsys, "--by=day,tenant", "--format=focus")
    by_gpu = report(tmp_path, capsys, "--by=day", "--format=focus")
    assert math.isclose(
        math.fsum(float(row["BilledCost"]) for row in by_tenant),
        math.fsum(float(row["BilledCost"]) for row in by_gpu),
        rel_tol=1e-9,
    )
    red = [row for row in by_tenant if row["SubAccountId"] == "red"]
    assert {row["SkuId"] for row in red} == {"energy", "hardware", "tokens-input", "tokens-output"}
    assert {json.loads(row["Tags"])["tpw/tenant"] for row in red} == {"red"}
    assert {row["ResourceType"] for row in red} == {"Inference Server"}


def test_a_tenant_has_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"--state.dir={tmp_path}", "--by=tenant,gpu"]) == 2
    assert "tenant or gpu" in capsys.readouterr().err
