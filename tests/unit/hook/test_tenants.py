"""Who sent a request, by headers: an allow-list, bounded, and never a key."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tpw.hook import TokenCounter
from tpw.hook.tenants import TenantHeaders, tenant_headers
from tpw.ledger.tenants import composed
from tpw.model import Role
from tpw.tokens.page import Page
from tpw.tokens.tenants import Naming, TenantReader, dialect_of, naming

KEY = "sk-Zm9vYmFy-0123456789"
ANSWER = json.dumps(
    {"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}}
).encode()


def tenant(headers: TenantHeaders, **values: str) -> str:
    return headers.tenant(lambda name: values.get(name.replace("-", "_"), ""))


def test_the_first_header_of_the_list_that_is_set_names_the_tenant():
    headers = TenantHeaders(["X-Team", " x-tenant "])
    assert tenant(headers, x_team=" red ", x_tenant="blue") == "red"
    assert tenant(headers, x_tenant="blue") == "blue"
    assert tenant(headers, x_user="ada") == ""


@pytest.mark.parametrize("header", ["Authorization", "x-api-key", "Cookie"])
def test_a_header_with_keys_names_nobody_as_it_is(header: str):
    with pytest.raises(ValueError, match="has keys"):
        TenantHeaders([header])


def test_a_key_names_its_tenant_by_a_file_or_as_a_keyed_hash(tmp_path: Path):
    names, secret, other = tmp_path / "names", tmp_path / "secret", tmp_path / "other"
    names.write_text(f"# keys\nred team: {KEY}\n")
    secret.write_text("one\n")
    other.write_text("two\n")
    by_name = tenant_headers(["authorization"], str(names))
    assert tenant(by_name, authorization=f"Bearer {KEY}") == "red team"
    assert tenant(by_name, authorization="Bearer another") == "other"
    hashed = tenant(tenant_headers(["authorization"], None, str(secret)), authorization=f"bearer {KEY}")
    assert len(hashed) == 12
    assert KEY not in hashed
    assert tenant(tenant_headers(["x-api-key"], None, str(secret)), x_api_key=KEY) == hashed
    assert tenant(tenant_headers(["x-api-key"], None, str(other)), x_api_key=KEY) != hashed
    # The source of a gateway's page hashes alike, so that one key is one tenant.
    assert naming(("hashed_api_key",), None, str(secret)).tenant({"hashed_api_key": KEY}) == hashed


@pytest.mark.parametrize("text", ["red", "red:", f"{KEY}\n", ": x"])
def test_a_file_of_names_that_has_something_else_is_refused_without_quoting_it(text: str, tmp_path: Path):
    names = tmp_path / "names"
    names.write_text(text)
    with pytest.raises(ValueError, match="a line is not") as refused:
        tenant_headers(["x-team"], str(names))
    assert KEY not in str(refused.value)


def _call(app: Any, headers: list[tuple[bytes, bytes]]) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, Any]) -> None:
        pass

    scope = {"type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": headers}
    asyncio.run(app(scope, receive, send))


async def _answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ANSWER})


def _tokens(page: bytes) -> dict[tuple[str, Role], float]:
    reader = TenantReader(dialect_of("tpw_hook", {}), composed, lambda: Naming(("tenant",)))
    return {(one.model, one.role): one.value for one in reader.read(Page(page)).series}


def test_the_middleware_counts_by_tenant_and_the_exporter_reads_it():
    app = TokenCounter(_answering, tenants=TenantHeaders(["x-team"]))
    _call(app, [(b"X-Team", b"red"), (b"Authorization", KEY.encode())])
    _call(app, [(b"x-team", b"red")])
    _call(app, [(b"x-team", b'blue "1"')])
    _call(app, [])
    assert _tokens(app.page()) == {
        ("red | m", Role.OUTPUT): 6.0,
        ("red | m", Role.PROMPT): 10.0,
        ("red | m", Role.CACHED_INPUT): 4.0,
        ('blue "1" | m', Role.OUTPUT): 3.0,
        ('blue "1" | m', Role.PROMPT): 5.0,
        ('blue "1" | m', Role.CACHED_INPUT): 2.0,
    }
    assert KEY.encode() not in app.page()


def test_ten_thousand_header_values_are_bounded_and_their_sum_is_exact():
    headers = TenantHeaders(["x-team"])
    app = TokenCounter(_answering, tenants=headers)
    for number in range(200):
        _call(app, [(b"x-team", b"team-%d" % number)])
    counters = app._counters
    for number in range(10_000):
        counters.add("m", {"output": 3.0}, headers.tenant(lambda name, number=number: f"team-{number}"))
    tokens = _tokens(app.page())
    assert len({name for name, _ in tokens}) == 201
    assert sum(value for (_, role), value in tokens.items() if role is Role.OUTPUT) == 3.0 * 10_200
    assert tokens["other | m", Role.OUTPUT] == 3.0 * 9_800
    assert len(app.page()) < 64 << 10


def test_without_tenants_the_page_has_none():
    app = TokenCounter(_answering)
    _call(app, [(b"x-team", b"red")])
    assert b"tenant" not in app.page()
