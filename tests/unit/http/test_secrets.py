"""One grammar for every file that holds secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpw.http.secrets import basic, bearer, read_credentials, read_headers, read_token
from tpw.model import Reason, SourceError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (
            "X-Scope-OrgID: team-a\nAuthorization: Bearer t0ken\n",
            {"X-Scope-OrgID": "team-a", "Authorization": "Bearer t0ken"},
        ),
        ("# rotated 2026-11-01: by ops\n\nX-Api-Key:  a:b \n  # another\n", {"X-Api-Key": "a:b"}),
        ("t0ken\n", {"Authorization": "Bearer t0ken"}),
        ("# rotated 2026-11-01: by ops\r\n\r\n  t0ken  \r\n", {"Authorization": "Bearer t0ken"}),
        ("\ufeffX-Key: k\n", {"X-Key": "k"}),
        ("X-Name: Z\u00fcrich\n", {"X-Name": "Z\u00fcrich"}),
        ("X-Empty:\n", {"X-Empty": ""}),
        ("", {}),
        ("# only a comment\n", {}),
    ],
)
def test_headers_of_a_file(file: Path, text: str, headers: dict[str, str]) -> None:
    file.write_text(text, encoding="utf-8")
    assert read_headers(file) == headers
    assert read_headers(str(file)) == headers


@pytest.mark.parametrize("none", [None, ""])
def test_no_file_means_no_headers(none: str | None) -> None:
    assert read_headers(none) == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Bearer s3cret\n", 1),
        ("# comment\n\nX-Key: k\ns3cret\n", 4),
        ("s3cret\ns3cret\n", 1),
        ("Bad Name: s3cret\n", 1),
        (": s3cret\n", 1),
        ("X-Key: s3cret\x07\n", 1),
        ("X-Key: s3cret \u20ac\n", 1),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number_and_never_quoted(file: Path, text: str, line: int) -> None:
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(SourceError) as caught:
        read_headers(file)
    assert caught.value.reason is Reason.PERMISSION
    assert f"{file}: line {line} is not" in caught.value.detail
    assert "s3cret" not in caught.value.detail + caught.value.hint


@pytest.mark.parametrize("read", [read_headers, bearer, read_credentials])
def test_a_file_that_cannot_be_read_is_named(file: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(SourceError, match="No such file") as caught:
        read(file)
    file.write_bytes(b"\xff\xfe s3cret")
    with pytest.raises(SourceError, match="not UTF-8") as undecodable:
        read(file)
    assert caught.value.reason is undecodable.value.reason is Reason.PERMISSION
    assert str(file) in caught.value.detail
    assert undecodable.value.__cause__ is None


def test_a_token_stands_alone_on_its_line(file: Path) -> None:
    file.write_text("# of ops\n abc \n")
    assert read_token(file, "a key") == "abc"
    assert bearer(file) == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "a\nb", "a\x00b", "\u20ac"])
def test_anything_but_one_line_is_not_a_token(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match="expected a key on one line") as caught:
        read_token(file, "a key")
    assert caught.value.reason is Reason.PERMISSION


def test_credentials_are_a_user_and_a_password(file: Path) -> None:
    file.write_text("# of the BMC\nuser:pass:word\n")
    assert read_credentials(file) == ("user", "pass:word")
    assert basic("user", "pass:word") == {"Authorization": "Basic dXNlcjpwYXNzOndvcmQ="}
    file.write_text("s3cret")
    with pytest.raises(SourceError, match="not of the form user:password") as caught:
        read_credentials(file)
    assert "s3cret" not in caught.value.detail
