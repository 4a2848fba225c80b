"""Secrets in addresses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.settings.addresses import secret_in

BAD = Path(__file__).parents[2] / "captures" / "config" / "bad" / "secrets.yaml"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8000/metrics?model=llama&autoload=false",
        "https://prices.example/v1?from={start}&to={end}&max_tokens=5&keyboard=de",
        "https://prices.example/v1?token=",
        "http://[::1]:8000/metrics?x=a@b",
    ],
)
def test_an_address_without_a_secret_is_accepted(address: str) -> None:
    assert secret_in(address) == ""


SECRETS = st.text("abcdefghijklmnop0123456789", min_size=12, max_size=30)


@given(
    SECRETS,
    st.sampled_from(
        [
            "token",
            "api_key",
            "apikey",
            "Api-Key",
            "key",
            "access_token",
            "password",
            "sig",
            "X-Amz-Signature",
            "client_secret",
        ]
    ),
    st.sampled_from(["http://h:1/?", "https://h/p?x=1&", "ftp://h?", "h?", "http://h:99999/?"]),
)
def test_no_message_of_the_configuration_quotes_a_secret(secret: str, key: str, start: str) -> None:
    for address in (
        start + urlencode({key: secret}),
        f"http://{secret}@h/",
        f"http://u:{secret}@h:99999/",
        f"x://{secret}@h",
    ):
        with pytest.raises(ConfigError) as caught:
            load(f"servers: [{{name: a, url: '{address}'}}]")
        assert secret not in str(caught.value)
        assert "file" in str(caught.value)


@pytest.mark.parametrize("command", ["check", "run", "probe"])
def test_commands_refuse_an_address_with_a_secret_and_do_not_print_it(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tpw", command, f"--config.file={BAD}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "headers_file" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
