"""Self-signed certificates for servers of tests."""

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
