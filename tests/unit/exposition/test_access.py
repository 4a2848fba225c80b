"""TLS, client certificates, passwords, headers and rates: the file format that all exporters share, and its upkeep."""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from structlog.testing import capture_logs

from support.certificates import make_pki
from support.servers import wait_until
from tpw.exposition.access import Access
from tpw.exposition.http1 import Request, Response
from tpw.exposition.serving import Server
from tpw.exposition.web_config import WebConfigError, load

HASH = "$2b$04$" + "a" * 53
"""Has the form of a bcrypt hash; the stand-in below takes it for that of "secret"."""


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    make_pki(folder)
    return folder


@pytest.fixture
def bcrypt_stand_in(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A bcrypt that accepts one password and records the ones it was given."""
    asked: list[bytes] = []

    def checkpw(password: bytes, hashed: bytes) -> bool:
        asked.append(password)
        return hashed == HASH.encode() and password == b"secret"

    module = types.ModuleType("bcrypt")
    module.checkpw = checkpw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bcrypt", module)
    return asked


def config(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(WebConfigError) as caught:
        load(config(folder, text))
    return caught.value.problems


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def serving(access: Access) -> Iterator[Server]:
    server = Server(["127.0.0.1:0"], lambda request: Response(b"hello\n"), gate=access)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(server: Server, *, context: ssl.SSLContext | None = None, authorization: str = "") -> tuple[int, bytes]:
    scheme = "http" if context is None else "https"
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{server.ports[0]}/")
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def trusting(pki: Path, client: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of newer versions of Python
    if client:
        context.load_cert_chain(pki / f"{client}.pem", pki / f"{client}.key")
    return context


# ------------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "text", ["", "{}", "# nothing\n", "tls_server_config:\nbasic_auth_users:\nhttp_server_config:\n"]
)
def test_an_empty_file_enables_nothing(tmp_path: Path, text: str):
    found = load(config(tmp_path, text))
    assert (found.context, dict(found.users), found.headers) == (None, {}, ())


def test_all_problems_are_reported_at_once(tmp_path: Path):
    found = problems(
        tmp_path,
        """
tls_server_config: {cert_file: gone.pem, min_version: TLS10, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA], colour: red}
http_server_config: {http2: maybe, headers: {X-Frame-Options: perhaps, X-Other: y}}
basic_auth_users: {alice: plain}
rate_limit: {interval: soon, burst: -1}
other: 1
""",
    )
    text = "\n".join(found)
    for part in (
        "other is unknown",
        "tls_server_config.colour is unknown",
        "tls_server_config.min_version is TLS10, which is not supported",
        "tls_server_config.cipher_suites: 'TLS_RSA_WITH_RC4_128_SHA'",
        "tls_server_config: key or key_file is required",
        "http_server_config.http2 must be true or false",
        "http_server_config.headers.X-Frame-Options is 'perhaps'",
        "http_server_config.headers.X-Other is unknown",
        "basic_auth_users.alice is not a bcrypt hash",
        "rate_limit.interval is 'soon'",
        "rate_limit.burst must be a whole number",
    ):
        assert part in text
    assert "plain" not in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "the file must be a mapping"),
        ("a: [", "is not YAML"),
        ("tls_server_config: 5", "tls_server_config must be a mapping"),
        ("tls_server_config: {cert_file: gone.pem, key_file: gone.key}", "gone.pem and gone.key cannot be loaded"),
        ("tls_server_config: {cert_file: ca.pem, key_file: server.key}", "cannot be loaded"),
        ("tls_server_config: {cert: a, cert_file: b, key: c}", "both cert and cert_file are given"),
        ("tls_server_config: {client_auth_type: RequireAnyClientCert}", "without verification"),
        ("tls_server_config: {client_auth_type: Whatever}", "client_auth_type is 'Whatever'"),
        ("tls_server_config: {client_auth_type: RequireAndVerifyClientCert}", "client_ca_file is required"),
        ("tls_server_config: {client_ca_file: ca.pem}", "client_auth_type requests no certificate"),
        ("tls_server_config: {min_version: TLS13, max_version: TLS12}", "min_version is above max_version"),
        ("tls_server_config: {curve_preferences: [CurveP256, CurveP384]}", "only one curve"),
        ("tls_server_config: {curve_preferences: [Curve1]}", "unknown curve: Curve1"),
        ("tls_server_config: {cipher_suites: TLS_X}", "must be a list"),
        ("tls_server_config: {client_allowed_sans: [a]}", "needs client_auth_type RequireAndVerifyClientCert"),
        ('http_server_config: {headers: {Content-Security-Policy: "a\\nb"}}', "one line of ASCII"),
        ("basic_auth_users: [alice]", "must be a mapping"),
        ("rate_limit: {interval: 1s}", "no request is ever answered"),
    ],
)
def test_an_invalid_setting_is_rejected(pki: Path, tmp_path: Path, text: str, problem: str):
    for name in ("ca.pem", "server.key"):
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    assert any(problem in found for found in problems(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(WebConfigError, match=r"web\.yml: cannot be read"):
        load(tmp_path / "web.yml")


def test_without_the_bcrypt_package_the_error_has_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    (found,) = problems(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}")
    assert found == "basic_auth_users requires the package bcrypt: pip install 'tpw-exporter[auth]'"


def test_an_encrypted_key_is_rejected_without_a_password_prompt(pki: Path, tmp_path: Path):
    lock = ["openssl", "ec", "-in", "server.key", "-aes256", "-passout", "pass:x", "-out", str(tmp_path / "locked.key")]
    subprocess.run(lock, cwd=pki, check=True, capture_output=True, timeout=60)
    found = problems(tmp_path, f"tls_server_config: {{cert_file: {pki}/server.pem, key_file: locked.key}}")
    assert any("the key is encrypted" in problem for problem in found)


# ----------------------------------------------------------------------------------------------------------------- TLS


def test_tls_with_files_beside_the_configuration(pki: Path):
    access = Access(config(pki, "tls_server_config: {cert_file: server.pem, key_file: server.key}"))
    with serving(access) as server:
        assert get(server, context=trusting(pki)) == (200, b"hello\n")


def test_tls_with_certificate_and_key_in_the_file(pki: Path, tmp_path: Path):
    def inline(name: str) -> str:
        return "|\n    " + (pki / name).read_text().replace("\n", "\n    ")

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    text = f"tls_server_config:\n  cert: {inline('server.pem')}\n  key: {inline('server.key')}\n"
    access = Access(config(tmp_path, text))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with serving(access) as server:
        assert get(server, context=trusting(pki)) == (200, b"hello\n")


def test_plain_http_to_a_tls_port_is_answered_with_the_reason(pki: Path):
    access = Access(config(pki, "tls_server_config: {cert_file: server.pem, key_file: server.key}"))
    with serving(access) as server:
        assert get(server) == (400, b"this port uses HTTPS: write https:// in the address\n")


def test_versions_below_the_minimum_are_refused(pki: Path):
    access = Access(config(pki, "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS13}"))
    with serving(access) as server:
        old = trusting(pki)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(urllib.error.URLError):
            get(server, context=old)
        assert get(server, context=trusting(pki))[0] == 200


def test_only_the_configured_cipher_suites_are_offered(pki: Path):
    suite = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    files = "cert_file: server.pem, key_file: server.key"
    text = f"tls_server_config: {{{files}, cipher_suites: [{suite}], max_version: TLS12}}"
    with serving(Access(config(pki, text))) as server:
        fitting, other = trusting(pki), trusting(pki)
        fitting.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        assert get(server, context=fitting)[0] == 200
        with pytest.raises(urllib.error.URLError):
            get(server, context=other)


@pytest.mark.parametrize(
    ("client", "sans", "welcome"),
    [
        ("prometheus", "", True),
        ("stranger", "", True),
        ("", "", False),
        ("forged", "", False),
        ("prometheus", "[other, prometheus.example]", True),
        ("stranger", "[other, prometheus.example]", False),
    ],
)
def test_client_certificates(pki: Path, client: str, sans: str, welcome: bool):
    allowed = f", client_allowed_sans: {sans}" if sans else ""
    text = (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, "
        f"client_auth_type: RequireAndVerifyClientCert{allowed}}}"
    )
    with serving(Access(config(pki, text))) as server:
        if welcome:
            assert get(server, context=trusting(pki, client)) == (200, b"hello\n")
        else:
            with pytest.raises((urllib.error.URLError, OSError)):
                get(server, context=trusting(pki, client))


def test_a_client_without_a_certificate_is_accepted_where_one_is_optional(pki: Path):
    text = (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, "
        "client_auth_type: VerifyClientCertIfGiven}"
    )
    with serving(Access(config(pki, text))) as server:
        assert get(server, context=trusting(pki))[0] == 200
        assert get(server, context=trusting(pki, "prometheus"))[0] == 200
        with pytest.raises((urllib.error.URLError, OSError)):
            get(server, context=trusting(pki, "forged"))


# ----------------------------------------------------------------------------------------------------------- passwords


def test_a_valid_user_and_password_are_accepted(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    access = Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))

    def status(authorization: str) -> int:
        answer = access.refuse(
            Request("GET", "/metrics", {}, {"authorization": authorization} if authorization else {})
        )
        return 200 if answer is None else answer.status

    assert status(basic("alice", "secret")) == 200
    assert status(basic("alice", "wrong")) == 401
    assert status(basic("bob", "secret")) == 401
    assert status("") == 401
    assert status("Bearer secret") == 401
    assert status("Basic !!!") == 401
    assert status("Basic " + base64.b64encode(b"alice").decode()) == 401
    assert status("Basic " + base64.b64encode(b"\xff:\xff").decode()) == 401


def test_a_rejected_client_is_asked_for_a_password(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    with serving(Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))) as server:
        assert get(server, authorization=basic("alice", "secret")) == (200, b"hello\n")
        assert get(server) == (401, b"unauthorized\n")


def ask(server: Server, path: str, method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{server.ports[0]}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_probes_need_no_password_and_every_other_path_needs_one(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    """A kubelet has no safe place for a password: it would be in the pod's specification."""
    with serving(Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))) as server:
        assert [ask(server, path) for path in ("/-/healthy", "/-/ready", "/-/healthy?x=1")] == [200, 200, 200]
        assert ask(server, "/-/ready", "HEAD") == 200
        closed = ("/", "/metrics", "/api/v1/status", "/-/healthy/", "//-/healthy", "/-/healthy/../../metrics", "/-/")
        assert {path: ask(server, path) for path in closed} == dict.fromkeys(closed, 401)
        assert {path: ask(server, path, "POST") for path in ("/-/healthy", "/-/reload", "/-/release")} == {
            "/-/healthy": 401,
            "/-/reload": 401,
            "/-/release": 401,
        }
    assert bcrypt_stand_in == []


def test_the_rate_limit_does_not_apply_to_probes(tmp_path: Path):
    access = Access(config(tmp_path, "rate_limit: {interval: 1h, burst: 1}"), Clock())
    assert access.refuse(Request("GET", "/")) is None
    assert access.refuse(Request("GET", "/")) is not None
    assert access.refuse(Request("GET", "/-/healthy")) is None


def test_every_password_is_hashed_once(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    access = Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))

    def status(password: str) -> int:
        answer = access.refuse(Request("GET", "/", {}, {"authorization": basic("alice", password)}))
        return 200 if answer is None else answer.status

    assert [status("secret") for _ in range(3)] == [200] * 3
    assert [status("wrong") for _ in range(3)] == [401] * 3
    assert bcrypt_stand_in == [b"secret", b"wrong"]


def test_many_wrong_passwords_displace_no_valid_one(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    access = Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))
    for guess in ("secret", *(f"guess {n}" for n in range(1000)), "guess 0", "secret"):
        access.refuse(Request("GET", "/", {}, {"authorization": basic("alice", guess)}))
    assert bcrypt_stand_in.count(b"secret") == 1
    assert bcrypt_stand_in.count(b"guess 0") == 2


def test_an_unknown_user_takes_as_long_as_a_known_one(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    access = Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))
    access.refuse(Request("GET", "/", {}, {"authorization": basic("nobody", "guess")}))
    assert bcrypt_stand_in == [b"guess"]


def test_passwords_are_checked_one_at_a_time_and_few_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inside, most, goes_on = [], [], threading.Event()

    def checkpw(password: bytes, hashed: bytes) -> bool:
        inside.append(password)
        most.append(len(inside))
        goes_on.wait(60)
        inside.remove(password)
        return False

    module = types.ModuleType("bcrypt")
    module.checkpw = checkpw  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bcrypt", module)
    access = Access(config(tmp_path, f"basic_auth_users: {{alice: '{HASH}'}}"))
    statuses: SimpleQueue[int] = SimpleQueue()

    def guess(number: int) -> None:
        answer = access.refuse(Request("GET", "/", {}, {"authorization": basic("alice", f"guess {number}")}))
        assert answer is not None
        statuses.put(answer.status)

    guesses = [threading.Thread(target=guess, args=[n]) for n in range(12)]
    for thread in guesses:
        thread.start()
    assert [statuses.get(timeout=10) for _ in range(8)] == [503] * 8  # at once, while one is checked and three wait
    goes_on.set()
    for thread in guesses:
        thread.join()
    assert [statuses.get() for _ in range(4)] == [401] * 4
    assert most == [1] * 4


def test_hashes_of_the_real_package_are_accepted(tmp_path: Path):
    bcrypt = pytest.importorskip("bcrypt", reason="the package of the extra [auth] is not installed")
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    long = "x" * 100
    long_hashed = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    text = f"basic_auth_users: {{alice: '{hashed}', apache: '{hashed.replace('$2b$', '$2y$')}', long: '{long_hashed}'}}"
    access = Access(config(tmp_path, text))

    def knows(user: str, password: str) -> bool:
        return access.refuse(Request("GET", "/", {}, {"authorization": basic(user, password)})) is None

    assert knows("alice", "s3cret")
    assert knows("apache", "s3cret")
    assert knows("long", long)
    assert not knows("alice", "S3cret")
    assert not knows("long", "x" * 71)


# ------------------------------------------------------------------------------------------------------ headers, rates


def test_configured_headers_are_in_every_response_and_override_others(tmp_path: Path):
    text = "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: default-src 'none'}}"
    access = Access(config(tmp_path, text))
    server = Server(
        ["127.0.0.1:0"],
        lambda request: Response(b"", headers=(("Content-Security-Policy", "ours"), ("Vary", "Accept"))),
        gate=access,
    )
    server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.ports[0]}/", timeout=10) as answer:
            assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'none'"]
            assert answer.headers["X-Frame-Options"] == "deny"
            assert answer.headers["Vary"] == "Accept"
    finally:
        server.stop()


def test_requests_above_the_rate_are_refused(tmp_path: Path):
    clock = Clock()
    access = Access(config(tmp_path, "rate_limit: {interval: 500ms, burst: 3}"), clock)

    def status() -> int:
        answer = access.refuse(Request("GET", "/"))
        return 200 if answer is None else answer.status

    assert [status() for _ in range(4)] == [200, 200, 200, 429]
    clock.now += 0.5
    assert [status() for _ in range(2)] == [200, 429]
    clock.now += 60.0
    assert [status() for _ in range(4)] == [200, 200, 200, 429]


# -------------------------------------------------------------------------------------------------------------- reload


def test_a_changed_file_takes_effect_within_a_second(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    clock = Clock()
    path = config(tmp_path, "")
    access = Access(path, clock)
    before = access.generation()
    path.write_text(f"basic_auth_users: {{alice: '{HASH}'}}")
    clock.now += 0.9
    assert access.generation() is before
    clock.now += 0.1
    with capture_logs() as logs:
        assert access.generation() is not before
    assert [entry["event"] for entry in logs] == ["web_config_reloaded"]
    assert access.refuse(Request("GET", "/")) is not None


def test_an_unchanged_file_is_not_read_again(tmp_path: Path):
    clock = Clock()
    access = Access(config(tmp_path, ""), clock)
    before = access.generation()
    for _ in range(5):
        clock.now += 1.0
        assert access.generation() is before


def test_an_invalid_change_is_ignored_and_logged_once(tmp_path: Path):
    clock = Clock()
    path = config(tmp_path, "http_server_config: {headers: {X-Frame-Options: deny}}")
    access = Access(path, clock)
    before = access.generation()
    path.write_text("nonsense: true")
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 1.0
            assert access.generation() is before
    assert [entry["event"] for entry in logs] == ["web_config_rejected"]
    assert "nonsense is unknown" in logs[0]["problems"][0]
    assert access.headers() == (("X-Frame-Options", "deny"),)


def test_an_invalid_file_at_the_start_is_fatal(tmp_path: Path):
    with pytest.raises(WebConfigError):
        Access(config(tmp_path, "nonsense: true"))


def test_a_renewed_certificate_is_served_to_the_next_connection(pki: Path, tmp_path: Path):
    clock = Clock()
    for kind in ("pem", "key"):
        (tmp_path / f"tls.{kind}").write_bytes((pki / f"server.{kind}").read_bytes())
    access = Access(config(tmp_path, "tls_server_config: {cert_file: tls.pem, key_file: tls.key}"), clock)

    def names(server: Server) -> set[str]:
        pem = ssl.get_server_certificate(("127.0.0.1", server.ports[0]), timeout=10)
        return {"renewed" if b"renewed.example" in ssl.PEM_cert_to_DER_cert(pem) else "server"}

    with serving(access) as server:
        assert names(server) == {"server"}
        for kind in ("pem", "key"):
            (tmp_path / f"tls.{kind}").write_bytes((pki / f"renewed.{kind}").read_bytes())
        clock.now += 1.0
        # The thread of the first connection may be checking the file at this moment; others do not wait for it.
        wait_until(lambda: names(server) == {"renewed"}, "the renewed certificate", every=0.01)


def test_connections_from_before_a_change_are_closed(tmp_path: Path, bcrypt_stand_in: list[bytes]):
    import http.client

    clock = Clock()
    path = config(tmp_path, "")
    access = Access(path, clock)
    with serving(access) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.ports[0], timeout=10)
        client.request("GET", "/")
        assert client.getresponse().read() == b"hello\n"
        path.write_text(f"basic_auth_users: {{alice: '{HASH}'}}")
        clock.now += 1.0
        client.request("GET", "/")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            client.getresponse()
        client.close()
        assert get(server)[0] == 401
