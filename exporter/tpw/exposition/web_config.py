"""The web configuration file of Prometheus exporters: TLS, client certificates, passwords, headers.

The format is that of the exporter-toolkit (https://github.com/prometheus/exporter-toolkit, docs/web-configuration.md).
A setting that Python's ssl cannot fulfil is an error: no security setting is ignored silently. ``http2`` is accepted and
has no effect: the server uses HTTP/1.1.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_OLD_VERSIONS = ("TLS10", "TLS11")

_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_UNVERIFIED_CLIENT_AUTH = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")

# Go's names of the suites it considers safe -> OpenSSL's names. Suites of TLS 1.3 are not configurable, as in Go.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
_TLS13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}

_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that may be set -> allowed values (empty: any)."""

_BCRYPT = re.compile(r"\$2[abxy]?\$\d\d\$[./A-Za-z0-9]{53}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class WebConfigError(ValueError):
    """The web configuration is not valid. ``problems`` lists all errors."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.problems = tuple(problems)


class Bcrypt(Protocol):
    """The bcrypt package."""

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        """Whether the password matches the hash."""


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A web configuration in force."""

    context: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] | None = None
    users: Mapping[str, bytes] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    rate_interval_seconds: float = 0.0
    rate_burst: int = 0
    files: tuple[Path, ...] = ()
    """Files it was read from."""


def load(path: Path) -> WebConfig:
    """Read a web configuration file. Raises WebConfigError with all problems."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WebConfigError(path, [f"cannot be read: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise WebConfigError(path, [f"cannot be read: {error}"]) from error
    except yaml.YAMLError as error:
        raise WebConfigError(path, [f"is not YAML: {error}"]) from error
    reader = _Reader(path)
    try:
        config = reader.read({} if document is None else document)
    finally:
        reader.close()
    if reader.problems:
        raise WebConfigError(path, reader.problems)
    return config


class _Reader:
    """Reads one document and collects its errors."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path
        self._files: list[Path] = [path]
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Close the in-memory files made for ssl."""
        for descriptor in self._descriptors:
            os.close(descriptor)

    def read(self, document: object) -> WebConfig:
        """The configuration, as far as it is valid; errors are in ``problems``."""
        top = self._section(document, "", ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit"))
        context, sans = self._tls(top.get("tls_server_config"))
        headers = self._headers(top.get("http_server_config"))
        users = self._users(top.get("basic_auth_users"))
        interval, burst = self._rate(top.get("rate_limit"))
        return WebConfig(context, sans, users, headers, interval, burst, tuple(self._files))

    def _section(self, value: object, where: str, keys: tuple[str, ...]) -> Mapping[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where or 'the file'} must be a mapping")
            return {}
        for key in value:
            if key not in keys:
                self.problems.append(f"{where}{'.' if where else ''}{key} is unknown; known keys: {', '.join(keys)}")
        return cast("Mapping[str, object]", value)

    def _text(self, section: Mapping[str, object], where: str, key: str) -> str:
        value = section.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.problems.append(f"{where}.{key} must be a string")
            return ""
        return value

    def _texts(self, section: Mapping[str, object], where: str, key: str) -> list[str]:
        value = section.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problems.append(f"{where}.{key} must be a list of strings")
            return []
        return value

    # ------------------------------------------------------------------------------------------------------------ TLS

    def _tls(self, value: object) -> tuple[ssl.SSLContext | None, frozenset[str] | None]:
        where = "tls_server_config"
        section = self._section(
            value,
            where,
            (
                "cert",
                "key",
                "client_ca",
                "cert_file",
                "key_file",
                "client_auth_type",
                "client_ca_file",
                "client_allowed_sans",
                "min_version",
                "max_version",
                "cipher_suites",
                "prefer_server_cipher_suites",
                "curve_preferences",
            ),
        )
        if not section:
            return None, None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._versions(context, section, where)
        self._ciphers(context, section, where)
        self._curves(context, section, where)
        self._certificate(context, section, where)
        return context, self._clients(context, section, where)

    def _versions(self, context: ssl.SSLContext, section: Mapping[str, object], where: str) -> None:
        for key in ("min_version", "max_version"):
            value = self._text(section, where, key) or {"min_version": "TLS12", "max_version": "TLS13"}[key]
            if value in _OLD_VERSIONS:
                self.problems.append(f"{where}.{key} is {value}, which is not supported: use TLS12 or TLS13")
            elif value not in _VERSIONS:
                self.problems.append(f"{where}.{key} is {value!r}; allowed values: {', '.join(_VERSIONS)}")
            elif key == "min_version":
                context.minimum_version = _VERSIONS[value]
            else:
                context.maximum_version = _VERSIONS[value]
        if context.minimum_version > context.maximum_version:
            self.problems.append(f"{where}.min_version is above max_version")

    def _ciphers(self, context: ssl.SSLContext, section: Mapping[str, object], where: str) -> None:
        names = []
        for name in self._texts(section, where, "cipher_suites"):
            if name in _CIPHERS:
                names.append(_CIPHERS[name])
            elif name not in _TLS13_CIPHERS:
                self.problems.append(f"{where}.cipher_suites: {name!r} is unknown or not safe")
        if names:
            context.set_ciphers(":".join(names))
        prefer = section.get("prefer_server_cipher_suites", True)
        if not isinstance(prefer, bool):
            self.problems.append(f"{where}.prefer_server_cipher_suites must be true or false")
        elif not prefer:
            context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE

    def _curves(self, context: ssl.SSLContext, section: Mapping[str, object], where: str) -> None:
        curves = self._texts(section, where, "curve_preferences")
        unknown = [curve for curve in curves if curve not in _CURVES]
        if unknown:
            self.problems.append(f"{where}.curve_preferences: unknown curve: {', '.join(unknown)}")
        elif len(curves) > 1:
            self.problems.append(f"{where}.curve_preferences: only one curve is supported, {len(curves)} are given")
        elif curves:
            try:
                context.set_ecdh_curve(_CURVES[curves[0]])
            except (ValueError, ssl.SSLError) as error:
                self.problems.append(f"{where}.curve_preferences: {curves[0]} is not supported: {error}")

    def _certificate(self, context: ssl.SSLContext, section: Mapping[str, object], where: str) -> None:
        paths = []
        for key in ("cert", "key"):
            path = self._pem(section, where, key)
            if path is None:
                self.problems.append(f"{where}: {key} or {key}_file is required")
            else:
                paths.append(path)
        if len(paths) < 2:
            return
        try:
            context.load_cert_chain(paths[0], paths[1], password=_no_password)
        except (OSError, ValueError) as error:
            names = [self._text(section, where, f"{key}_file") or f"the inline {key}" for key in ("cert", "key")]
            self.problems.append(f"{where}: {' and '.join(names)} cannot be loaded: {error}")

    def _clients(self, context: ssl.SSLContext, section: Mapping[str, object], where: str) -> frozenset[str] | None:
        kind = self._text(section, where, "client_auth_type") or "NoClientCert"
        if kind in _UNVERIFIED_CLIENT_AUTH:
            self.problems.append(
                f"{where}.client_auth_type {kind} accepts certificates without verification, which is not supported: "
                "use VerifyClientCertIfGiven or RequireAndVerifyClientCert"
            )
            return None
        if kind not in _CLIENT_AUTH:
            self.problems.append(f"{where}.client_auth_type is {kind!r}; allowed values: {', '.join(_CLIENT_AUTH)}")
            return None
        context.verify_mode = _CLIENT_AUTH[kind]
        authority = self._pem(section, where, "client_ca")
        if authority is not None:
            if kind == "NoClientCert":
                self.problems.append(f"{where}: a client CA is given, but client_auth_type requests no certificate")
            try:
                context.load_verify_locations(authority)
            except (OSError, ValueError) as error:
                self.problems.append(f"{where}.client_ca_file cannot be loaded: {error}")
        elif kind != "NoClientCert":
            self.problems.append(f"{where}.client_auth_type is {kind}, so client_ca_file is required")
        sans = self._texts(section, where, "client_allowed_sans")
        if not sans:
            return None
        if kind != "RequireAndVerifyClientCert":
            self.problems.append(f"{where}.client_allowed_sans needs client_auth_type RequireAndVerifyClientCert")
        return frozenset(sans)

    def _pem(self, section: Mapping[str, object], where: str, key: str) -> str | None:
        """A path for ssl: that of the file, relative to the configuration, or of an in-memory file with the inline text."""
        name, inline = self._text(section, where, f"{key}_file"), self._text(section, where, key)
        if name and inline:
            self.problems.append(f"{where}: both {key} and {key}_file are given")
        if name:
            path = self._path.parent / name
            self._files.append(path)
            return str(path)
        if not inline:
            return None
        # ssl needs a path, and the key must not be written to a disk. close() releases the descriptor.
        descriptor = os.memfd_create(f"tpw-{key}")
        os.write(descriptor, inline.encode())
        self._descriptors.append(descriptor)
        return f"/proc/self/fd/{descriptor}"

    # --------------------------------------------------------------------------------------------------------- others

    def _headers(self, value: object) -> tuple[tuple[str, str], ...]:
        where = "http_server_config"
        section = self._section(value, where, ("http2", "headers"))
        if not isinstance(section.get("http2", True), bool):
            self.problems.append(f"{where}.http2 must be true or false")
        headers = self._section(section.get("headers"), f"{where}.headers", tuple(_HEADERS))
        result = []
        for name, allowed in _HEADERS.items():
            text = self._text(headers, f"{where}.headers", name)
            if allowed and text and text.lower() not in allowed:
                self.problems.append(f"{where}.headers.{name} is {text!r}; allowed values: {', '.join(allowed)}")
            elif not text.isprintable() or not text.isascii():
                self.problems.append(f"{where}.headers.{name} must be one line of ASCII")
            elif text:
                result.append((name, text))
        return tuple(result)

    def _users(self, value: object) -> Mapping[str, bytes]:
        where = "basic_auth_users"
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where} must be a mapping of user to bcrypt hash")
            return {}
        users = {}
        for name, hashed in value.items():
            if not isinstance(hashed, str) or not _BCRYPT.fullmatch(hashed):
                self.problems.append(f"{where}.{name} is not a bcrypt hash: create one with htpasswd -nBC 10 ''")
            else:
                users[str(name)] = hashed.encode()
        if users and bcrypt() is None:
            self.problems.append(f"{where} requires the package bcrypt: pip install 'tpw-exporter[auth]'")
        return users

    def _rate(self, value: object) -> tuple[float, int]:
        where = "rate_limit"
        section = self._section(value, where, ("interval", "burst"))
        interval, burst = section.get("interval", 0), section.get("burst", 0)
        seconds = 0.0
        if isinstance(interval, str):
            match = _DURATION.fullmatch(interval)
            if match:
                seconds = float(match[1]) * _DURATION_SECONDS[match[2]]
            elif interval != "0":
                self.problems.append(f"{where}.interval is {interval!r}; write a duration such as 1s")
        elif interval != 0:
            self.problems.append(f"{where}.interval must be a duration such as 1s")
        if isinstance(burst, bool) or not isinstance(burst, int) or burst < 0:
            self.problems.append(f"{where}.burst must be a whole number")
            burst = 0
        elif seconds and burst == 0:
            self.problems.append(f"{where}.burst must be at least 1, otherwise no request is ever answered")
        return seconds, burst


def _no_password() -> str:
    raise ValueError("the key is encrypted, and the exporter cannot ask for a password: use an unencrypted key file")


def bcrypt() -> Bcrypt | None:
    """The bcrypt package, or None if it is not installed."""
    try:
        return cast("Bcrypt", import_module("bcrypt"))
    except ImportError:
        return None
