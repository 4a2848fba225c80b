"""Real LiteLLM with three teams in front of a real llama-server: ``make test-heavy``. LiteLLM is a download of 0.8 GB."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakenvml import FakeNvml
from support import realparts
from support.scraped import parse
from support.servers import Child, Exporter, Llama, free_port, http_get, http_post_json, http_request, wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

KEYS = {"red": "sk-red-0c7e5a11", "blue": "sk-blue-93b1d2f4", "green": "sk-green-5500aa77"}
AUTH = f"""
from litellm.proxy._types import UserAPIKeyAuth

TEAMS = { ({key: team for team, key in KEYS.items()})!r}


async def user_api_key_auth(request, api_key):
    team = TEAMS.get(api_key)
    if team is None:
        raise ValueError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, team_id=f"id-{{team}}", team_alias=team, user_id="ada@example.org")
"""
MASTER = "sk-master-71d0c3"
PROMPT = "A power plant in the hills sends its current down to the valley, where a small machine writes. " * 3


@dataclass
class Gateway:
    """LiteLLM on one port, which may be started again."""

    folder: Path
    port: int
    behind: str
    child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        target = {"model": "openai/smollm", "api_base": f"{self.behind}/v1", "api_key": "none"}
        settings = {
            "model_list": [{"model_name": "smollm", "litellm_params": target}],
            "general_settings": {"custom_auth": "teams.user_api_key_auth"},
            "litellm_settings": {"callbacks": ["prometheus"], "require_auth_for_metrics_endpoint": False},
        }
        (self.folder / "teams.py").write_text(AUTH)
        file = self.folder / "litellm.yaml"
        file.write_text(json.dumps(settings))
        program = realparts.litellm()  # its first line names the folder in which it was fetched
        command = [str(program.with_name("python")), str(program), "--config", str(file)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": MASTER}
        self.child = Child(f"tenants-litellm-{self.port}", command, environment)
        self.child.wait_ready(f"{self.url}/health/liveliness", timeout=180)

    def ask(self, team: str, tokens: int, **options: Any) -> dict[str, Any]:
        body = {"model": "smollm", "prompt": PROMPT, "max_tokens": tokens, **options}
        headers = {"Authorization": f"Bearer {KEYS[team]}"}
        return dict(http_post_json(f"{self.url}/v1/completions", body, headers=headers))

    def stream(self, team: str, tokens: int) -> bytes:
        body = {
            "model": "smollm",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {KEYS[team]}", "Content-Type": "application/json"}
        return http_request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers=headers)

    def abort(self, team: str) -> None:
        """Close the connection within an answer."""
        body = {"model": "smollm", "prompt": PROMPT, "max_tokens": 400, "stream": True}
        headers = {"Authorization": f"Bearer {KEYS[team]}", "Content-Type": "application/json"}
        with suppress(OSError, AssertionError):
            http_request(f"{self.url}/v1/completions", json.dumps(body).encode(), headers=headers, timeout=1.0)

    def counted(self) -> dict[tuple[str, str], float]:
        """Tokens by (team, role) on its own page."""
        found: dict[tuple[str, str], float] = {}
        text = http_get(f"{self.url}/metrics/").decode()
        for role in ("input", "output"):
            for (team,), value in summed(text, f"litellm_{role}_tokens_metric_total", "team_alias").items():
                found[team, role] = value
        return found


@pytest.fixture
def gateway(tmp_path: Path, start_llama: Callable[..., Llama]) -> Iterator[Gateway]:
    folder = tmp_path / "litellm"
    folder.mkdir()
    one = Gateway(folder, free_port(), start_llama().url)
    with ExitStack() as stack:
        one.start()
        stack.callback(lambda: one.child and one.child.stop())
        yield one


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    with FakeNvml(tmp_path, 1, refresh_seconds=0.1) as fake:
        yield fake


def summed(text: str, name: str, *by: str) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for (sample, pairs), value in parse(text).items():
        if sample != name:
            continue
        labels = dict(pairs)
        key = tuple(labels[label] for label in by)
        found[key] = found.get(key, 0.0) + value
    return found


def tokens_of(daemon: Exporter) -> dict[tuple[str, str], float]:
    """By (team, role), cached prompts included, as a gateway counts."""
    found: dict[tuple[str, str], float] = {}
    for (tenant, kind), value in summed(daemon.metrics(), "tpw_tenant_tokens_total", "tenant", "kind").items():
        role = "output" if kind == "output" else "input"
        found[tenant, role] = found.get((tenant, role), 0.0) + value
    return found


def assert_whole(text: str) -> None:
    """Tenants and what is not divided yet are the server, in one page."""
    for part, unsettled, by in (
        ("energy_joules_total", "unsettled_energy_joules", ("state",)),
        ("cost_total", "unsettled_cost", ("state", "component")),
    ):
        divided = summed(text, f"tpw_tenant_{part}", *by)
        left = summed(text, f"tpw_tenant_{unsettled}", *by)
        for key, value in summed(text, f"tpw_server_{part}", *by).items():
            found = divided.get(key, 0.0) + left.get(key, 0.0)
            assert math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-9), (part, key, found, value)


def test_three_teams_have_litellms_own_tokens_and_the_servers_energy(
    exporter: Callable[..., Exporter], gateway: Gateway, nvml: FakeNvml
) -> None:
    configuration = {
        "host": {"meters": []},
        "discovery": {"processes": False},
        "servers": [{"name": "chat", "url": gateway.behind, "gpus": [0]}],
        "tariff": {"currency": "EUR", "energy": {"kind": "flat", "price_per_kwh": 0.25}},
        "costs": {"hardware": {"price_per_gpu": 30000, "years": 4}},
        "tenants": [{"server": "chat", "source": "litellm", "url": f"{gateway.url}/metrics/"}],
    }
    daemon = exporter(configuration, environment=nvml.env())
    port = int(daemon.url.rpartition(":")[2])

    def work() -> None:
        gateway.ask("red", 24)
        gateway.ask("red", 24)  # a cached prompt
        gateway.ask("blue", 16, n=2)
        gateway.stream("green", 20)
        gateway.abort("blue")
        gateway.ask("red", 8)

    def agree() -> bool:
        text = daemon.metrics()
        assert_whole(text)
        return tokens_of(daemon) == wanted()

    before: dict[tuple[str, str], float] = {}

    def wanted() -> dict[tuple[str, str], float]:
        now = gateway.counted()
        return {key: before.get(key, 0.0) + now.get(key, 0.0) for key in {*before, *now}}

    work()
    wait_until(agree, "the tokens of LiteLLM", timeout=200, every=2)
    assert {team for team, _ in tokens_of(daemon)} == set(KEYS)

    # The exporter is killed, and work goes on without it.
    daemon.child.kill()
    work()
    daemon = exporter(configuration, environment=nvml.env(), state=daemon.state, port=port)
    wait_until(agree, "the tokens after the exporter was killed", timeout=200, every=2)

    # The gateway is killed: its counters begin at 0.
    before = wanted()
    assert gateway.child is not None
    gateway.child.kill()
    gateway.start()
    work()
    wait_until(agree, "the tokens after the gateway was killed", timeout=200, every=2)

    joules = summed(daemon.metrics(), "tpw_tenant_energy_joules_total", "tenant", "state")
    assert all(joules[team, "active"] > 0.0 for team in KEYS)
    seen = daemon.metrics() + daemon.child.log.read_text(errors="replace") + json.dumps(daemon.status())
    seen += "".join(file.read_bytes().decode("latin-1") for file in daemon.state.iterdir() if file.is_file())
    for secret in (*KEYS.values(), MASTER, "ada@example.org"):
        assert secret not in seen
