"""``tpw-exporter proxy``: the reverse proxy that counts the tokens of a server without metrics."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from tpw import __version__, logs
from tpw.cli.configuration import print_problems
from tpw.config.flags import environment_name
from tpw.config.load import load
from tpw.config.problems import ConfigError
from tpw.hook.proxy import METRICS_PATH, Upstream, serve_proxy

if TYPE_CHECKING:
    from tpw.cli import Setting
    from tpw.hook.tenants import TenantHeaders

FLAGS = {"web.listen-address": "127.0.0.1:11435", "web.telemetry-path": METRICS_PATH, "log.level": "", "log.format": ""}
"""Settings that this command accepts -> its default; "" is the daemon's."""

_SWITCH = {"true": True, "1": True, "false": False, "0": False, "": False}
_log = structlog.get_logger("tpw")


@dataclass(frozen=True, slots=True)
class _Settings:
    """The command's own options, from flags and environment."""

    upstream: Upstream
    ask_for_usage: bool
    tenants: TenantHeaders | None
    grace_seconds: float


def options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    group = parser.add_argument_group(
        "proxy", "Each can be set by an environment variable: --upstream is TPW_UPSTREAM."
    )
    group.add_argument("--upstream", metavar="URL", help="Base URL of the server: http://127.0.0.1:11434. Required.")
    group.add_argument(
        "--upstream.ca-file",
        dest="upstream.ca-file",
        metavar="FILE",
        help="CA certificates (PEM) for an https upstream, instead of the system's.",
    )
    group.add_argument(
        "--inject-usage",
        dest="inject-usage",
        action="store_const",
        const="true",
        help="Add stream_options.include_usage to OpenAI-compatible streaming requests that lack it, and remove the extra"
        " event from the response. Without this flag, requests are not changed, and such streams are counted only if the"
        " server reports their usage anyway.",
    )
    group.add_argument(
        "--tenant-headers",
        dest="tenant-headers",
        metavar="NAMES",
        help="Headers that name the tenant of a request, separated by commas; the first that a request has counts. Headers"
        " with keys, such as Authorization, need one of the two files below.",
    )
    group.add_argument(
        "--tenant-names-file",
        dest="tenant-names-file",
        metavar="FILE",
        help="Names of tenants: lines `name: value`, where the value is that of the header. Others are counted as `other`.",
    )
    group.add_argument(
        "--tenant-secret-file",
        dest="tenant-secret-file",
        metavar="FILE",
        help="A secret on one line. Tenants are exposed as the keyed hash (HMAC-SHA-256) of the header's value.",
    )
    group.add_argument(
        "--shutdown-grace",
        dest="shutdown-grace",
        metavar="SECONDS",
        help="How long responses in progress may continue after SIGTERM. Default: 25.",
    )


def run(arguments: argparse.Namespace, setting: Setting) -> int:
    """Serve until SIGTERM or SIGINT. Exit status 1 if the address cannot be listened on, 2 for invalid options."""
    given = {override.path for override in setting.overrides}
    try:
        config = load("", "<proxy>", overrides=setting.overrides)
        settings = _settings(vars(arguments), os.environ)
    except ConfigError as error:
        print_problems(error)
        return 2
    except (OSError, ValueError) as error:
        print(f"tpw-exporter proxy: {error}", file=sys.stderr)
        return 2
    web = config.web
    if "web.listen_address" not in given:
        web = replace(web, listen_address=FLAGS["web.listen-address"])
    if "web.telemetry_path" not in given:
        web = replace(web, telemetry_path=FLAGS["web.telemetry-path"])
    logs.configure(config.log.level, config.log.format)
    try:
        asyncio.run(_serve(settings, web.listen_address, web.telemetry_path))
    except OSError as error:
        _log.error("listen_failed", address=web.listen_address, detail=str(error))
        return 1
    _log.info("proxy_stopped")
    return 0


def _settings(given: Mapping[str, Any], environment: Mapping[str, str]) -> _Settings:
    """Raises ValueError or OSError; the message has the flag."""

    def value(name: str) -> str:
        return str(given[name] if given[name] is not None else environment.get(environment_name(name), ""))

    address = value("upstream")
    if not address:
        raise ValueError("the server is missing: set --upstream=http://HOST:PORT, or TPW_UPSTREAM")
    ca_file = value("upstream.ca-file") or None
    try:
        upstream = Upstream.at(address, ca_file=ca_file)
    except ValueError as error:
        raise ValueError(f"--upstream: {error}") from None
    except OSError as error:
        raise ValueError(f"--upstream.ca-file: {ca_file}: {error}") from None
    switch = value("inject-usage").lower()
    if switch not in _SWITCH:
        raise ValueError(f"{environment_name('inject-usage')} must be true or false, not {switch!r}")
    grace = value("shutdown-grace") or "25"
    try:
        grace_seconds = float(grace)
    except ValueError:
        grace_seconds = -1.0
    if not 0.0 <= grace_seconds <= 86400.0:
        raise ValueError(f"--shutdown-grace must be a number of seconds, at most 86400, not {grace!r}")
    headers = value("tenant-headers")
    names_file, secret_file = value("tenant-names-file"), value("tenant-secret-file")
    if not headers and (names_file or secret_file):
        raise ValueError("--tenant-headers is missing: without it no header names a tenant")
    tenants = None
    if headers:
        from tpw.hook.tenants import tenant_headers

        try:
            tenants = tenant_headers(headers.split(","), names_file or None, secret_file or None)
        except ValueError as error:
            raise ValueError(f"--tenant-headers: {error}") from None
    return _Settings(upstream, _SWITCH[switch], tenants, grace_seconds)


async def _serve(settings: _Settings, listen_address: str, metrics_path: str) -> None:
    stop = asyncio.Event()
    server = asyncio.current_task()
    assert server is not None  # noqa: S101 - a coroutine of asyncio.run has one

    def end() -> None:
        if stop.is_set():  # the second signal: stop at once
            server.cancel()
        else:
            _log.info("proxy_stopping", grace_seconds=settings.grace_seconds)
            stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)

    def ready(host: str, port: int) -> None:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        upstream = f"{settings.upstream.host}:{settings.upstream.port}"
        _log.info("proxy_started", version=__version__, address=address, upstream=upstream, pid=os.getpid())

    def reached(problem: str) -> None:
        if problem:
            _log.warning("upstream_down", upstream=settings.upstream.authority, detail=problem)
        else:
            _log.info("upstream_up", upstream=settings.upstream.authority)

    try:
        await serve_proxy(
            settings.upstream,
            listen_address,
            metrics_path=metrics_path,
            ask_for_usage=settings.ask_for_usage,
            tenants=settings.tenants,
            ready=ready,
            reached=reached,
            stop=stop,
            grace_seconds=settings.grace_seconds,
        )
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
