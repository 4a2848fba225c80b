"""Certificates for servers and clients of tests."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def certify(folder: Path, name: str, subject: str) -> None:
    """Write ``name.key`` and ``name.pem``, a certificate that is its own authority."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    subprocess.run([*command, *names, *files], cwd=folder, check=True, capture_output=True, timeout=60)


def server_context(folder: Path, name: str) -> ssl.SSLContext:
    """The TLS context of a server with one of these certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


def make_pki(folder: Path) -> None:
    """A CA, a server's certificate for 127.0.0.1 and its renewal, client certificates, and one of an unknown CA."""
    for ca in ("ca", "otherca"):
        usage = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash"
        _issue(folder, ca, usage)
    for name, san, ca in (
        ("server", "IP:127.0.0.1", "ca"),
        ("renewed", "IP:127.0.0.1,DNS:renewed.example", "ca"),
        ("prometheus", "DNS:prometheus.example", "ca"),
        ("stranger", "DNS:stranger.example", "ca"),
        ("forged", "DNS:prometheus.example", "otherca"),
    ):
        usage = f"basicConstraints=critical,CA:FALSE\nsubjectAltName={san}\nauthorityKeyIdentifier=keyid"
        _issue(folder, name, usage, "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key")


def _issue(folder: Path, name: str, extensions: str, *signing: str) -> None:
    """A key and a certificate, self-signed or signed by another, with exactly these extensions."""
    (folder / f"{name}.cnf").write_text(
        f"[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n{extensions}\n"
    )
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
    out = ("-subj", f"/CN={name}", "-config", f"{name}.cnf", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    command = ["openssl", "req", "-x509", *key, *out, *signing]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
