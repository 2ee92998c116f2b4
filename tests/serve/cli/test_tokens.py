"""`kinodex token` as scripts use it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from serve.api.tokens import TokenStore, open_tokens
from serve.cli import tokens as cli_tokens
from serve.cli.main import cli
from serve.config import ServerConfig
from serve.errors import Unauthenticated
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 5, 1, 12, 30, 15, 999, tzinfo=UTC)
FILE = Path("kinodex-data/tokens.json")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KINODEX_DATA", "KINODEX_CONFIG", "KINODEX_SERVER_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli_tokens, "_now", lambda: NOW)
    monkeypatch.chdir(tmp_path)


def token(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["token", *arguments])


def assert_one_error_line(result: Result, *parts: str) -> None:
    assert result.stdout == ""
    assert result.stderr.startswith("kinodex: error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def test_add_prints_a_token_that_works_and_explains_on_stderr() -> None:
    result = token("add", "laptop", "--collection", "talks", "--collection", "lectures", "--expires", "30d")
    assert result.exit_code == 0
    assert result.stdout.startswith("kdx_")
    assert result.stdout.count("\n") == 1
    assert "laptop may read lectures, talks, until 2026-05-31 12:30 UTC" in result.stderr
    assert result.stdout.strip() not in result.stderr
    principal = TokenStore(FILE, lambda: NOW).authenticate(f"Bearer {result.stdout.strip()}")
    assert (principal.name, principal.can_write) == ("laptop", False)
    assert principal.collections == frozenset({"talks", "lectures"})


def test_add_allows_all_collections_and_writing_only_if_asked() -> None:
    text = token("add", "ingest", "--all-collections", "--access", "write").stdout.strip()
    principal = TokenStore(FILE, lambda: NOW).authenticate(f"Bearer {text}")
    assert principal.may_write("anything")


def test_list_prints_the_rights_of_a_token_and_never_its_hash() -> None:
    added = token("add", "laptop", "--collection", "talks", "--expires", "12h").stdout.strip()
    token("add", "ingest", "--all-collections", "--access", "write")
    first, second = (json.loads(line) for line in token("list", "--json").stdout.splitlines())
    assert first == {
        "id": added[4:12],
        "name": "laptop",
        "access": "read",
        "collections": ["talks"],
        "created": "2026-05-01T12:30:15+00:00",
        "expires": "2026-05-02T00:30:15+00:00",
        "last_used": None,
    }
    assert (second["collections"], second["expires"], second["access"]) == ("*", None, "write")
    lines = token("list").stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        f"{added[4:12]} laptop read 2026-05-01 until 2026-05-02 00:30 UTC never used talks",
        f"{second['id']} ingest write 2026-05-01 for ever never used every collection",
    ]


def test_list_marks_the_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    token("add", "laptop", "--collection", "talks", "--expires", "2026-05-02")
    monkeypatch.setattr(cli_tokens, "_now", lambda: datetime(2026, 5, 2, tzinfo=UTC))
    assert "expired 2026-05-02 00:00 UTC" in token("list").stdout


def test_an_empty_list_is_no_failure() -> None:
    result = token("list", "--json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no tokens in kinodex-data/tokens.json" in result.stderr


def test_list_says_when_a_token_was_last_used() -> None:
    text = token("add", "laptop", "--all-collections").stdout.strip()
    store = open_tokens(FILE.parent, ServerConfig(), lambda: NOW)
    assert store is not None
    store.authenticate(f"Bearer {text}")
    assert "used 2026-05-01 12:30 UTC" in token("list").stdout
    assert json.loads(token("list", "--json").stdout)["last_used"] == "2026-05-01T12:30:15+00:00"
    new = token("rotate", "laptop").stdout.strip()
    assert [json.loads(line)["last_used"] is None for line in token("list", "--json").stdout.splitlines()] == [
        False,
        True,
    ]
    token("revoke", text[4:12])
    assert new[4:12] in token("list").stdout
    assert list(FILE.with_name("token-uses").iterdir()) == []


def test_revoke_takes_a_name_or_an_id() -> None:
    laptop = token("add", "laptop", "--all-collections").stdout.strip()
    phone = token("add", "phone", "--all-collections").stdout.strip()
    assert token("revoke", "laptop").stdout == f"revoked laptop ({laptop[4:12]})\n"
    assert token("revoke", phone[4:12]).stdout == f"revoked phone ({phone[4:12]})\n"
    store = TokenStore(FILE, lambda: NOW)
    for text in (laptop, phone):
        with pytest.raises(Unauthenticated):
            store.authenticate(f"Bearer {text}")
    result = token("revoke", "laptop")
    assert result.exit_code == 1
    assert_one_error_line(result, "no token laptop", "kinodex token list")


def test_rotate_prints_a_new_token_and_says_how_long_the_old_one_lasts() -> None:
    old = token("add", "laptop", "--collection", "talks", "--expires", "30d").stdout.strip()
    result = token("rotate", "laptop", "--overlap", "2d")
    new = result.stdout.strip()
    assert result.stdout.count("\n") == 1
    assert "laptop has a new token, until 2026-05-31 12:30 UTC" in result.stderr
    assert "the old one stays valid until 2026-05-03 12:30 UTC at most" in result.stderr
    assert new not in result.stderr
    store = TokenStore(FILE, lambda: NOW)
    assert store.authenticate(f"Bearer {old}") == store.authenticate(f"Bearer {new}")
    assert "is refused now" in token("rotate", new[4:12], "--overlap", "0h").stderr
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {old}")


def test_changes_of_tokens_are_in_the_audit_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINODEX_SERVER_AUDIT_LOG", "audit.jsonl")
    texts = [token("add", "laptop", "--collection", "talks").stdout, token("rotate", "laptop").stdout]
    token("revoke", "laptop")
    assert token("revoke", "phone").exit_code == 1
    content = Path("audit.jsonl").read_text("ascii")
    lines = [json.loads(line) for line in content.splitlines()]
    assert [(line["method"], line["outcome"], line.get("reason")) for line in lines] == [
        ("kinodex token add", "OK", None),
        ("kinodex token rotate", "OK", None),
        ("kinodex token revoke", "OK", None),
        ("kinodex token revoke", "FAILED", "SETTINGS_ERROR"),
    ]
    old, new = (text[4:12] for text in texts)
    assert lines[0]["collections"] == ["talks"]
    assert [line["ids"] for line in lines] == [["laptop", old], ["laptop", new], ["laptop", old, new], ["phone"]]
    assert all(line["caller"].startswith("local:") for line in lines)
    assert all(text.strip()[13:] not in content for text in texts)
    assert Path("audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINODEX_SERVER_AUDIT_LOG", "nowhere/audit.jsonl")
    result = token("add", "laptop", "--collection", "talks")
    assert result.exit_code == 0
    assert result.stdout.startswith("kdx_")
    assert "kinodex: warning: cannot write nowhere/audit.jsonl: No such file or directory" in result.stderr


def test_the_tokens_file_is_named_by_the_settings_or_in_the_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    token("add", "a", "--all-collections", "--data", "library")
    assert Path("library/tokens.json").exists()
    Path("k.toml").write_text('[server]\ntokens = "etc/named.json"', encoding="utf-8")
    token("add", "b", "--all-collections", "--data", "library", "--config", "k.toml")
    assert Path("etc/named.json").exists()
    monkeypatch.setenv("KINODEX_SERVER_TOKENS", "etc/named.json")
    assert token("list", "--json").stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["add"], ["NAME"]),
        (["add", "laptop"], ["--collection", "--all-collections", "kinodex token add --help"]),
        (["add", "laptop", "--collection", "talks", "--all-collections"], ["--collection", "--all-collections"]),
        (["add", "a name", "--all-collections"], ["'a name'", "letters"]),
        (["add", "0123abcd", "--all-collections"], ["look like an id"]),
        (["add", "laptop", "--collection", "*"], ["printable"]),
        (["add", "laptop", "--collection", ""], ["printable"]),
        (["add", "laptop", "--collection", "a\nb"], ["printable"]),
        (["add", "laptop", "--all-collections", "--access", "admin"], ["--access", "write"]),
        (["add", "laptop", "--all-collections", "--expires", "soon"], ["--expires", "30d, 12h, 2027-01-01 or never"]),
        (["add", "laptop", "--all-collections", "--expires", "99999999999d"], ["--expires"]),
        (["add", "laptop", "--all-collections", "--expires", "0d"], ["not in the future"]),
        (["add", "laptop", "--all-collections", "--expires", "2026-05-01"], ["not in the future"]),
        (["add", "laptop", "--all-collections", "--expires", "-5d"], ["--expires"]),
        (["rotate"], ["NAME|ID"]),
        (["rotate", "laptop", "--overlap", "soon"], ["--overlap", "24h, 7d or 0h"]),
        (["revoke"], ["NAME|ID"]),
        (["remove", "laptop"], ["'remove'"]),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments: list[str], parts: list[str]) -> None:
    result = token(*arguments)
    assert result.exit_code == 2
    assert_one_error_line(result, *parts)
    assert not FILE.exists()


def test_failures_are_one_line_and_exit_1() -> None:
    token("add", "laptop", "--all-collections")
    result = token("add", "laptop", "--all-collections")
    assert result.exit_code == 1
    assert_one_error_line(result, "there is a token laptop already")
    FILE.chmod(0o644)
    for arguments in (["list"], ["revoke", "laptop"], ["rotate", "laptop"], ["add", "phone", "--all-collections"]):
        result = token(*arguments)
        assert result.exit_code == 1
        assert_one_error_line(result, "chmod 600 kinodex-data/tokens.json")


@pytest.mark.parametrize("command", [[], ["add"], ["list"], ["rotate"], ["revoke"]])
def test_every_help_answers(command: list[str]) -> None:
    result = token(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: kinodex token")


def test_every_command_says_what_it_does() -> None:
    assert all((command.help or "").strip() for command in cli_tokens.token.commands.values())
    assert isinstance(cli.commands["token"], click.Group)


def test_a_token_is_made_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = """
import contextlib, sys
from serve.cli.main import cli
with contextlib.suppress(SystemExit):
    cli.main(["token", "add", "laptop", "--all-collections", "--data", sys.argv[1]])
heavy = ("torch", "av", "faiss", "numpy", "PIL", "rich", "grpc", "google.protobuf", "cryptography")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.stdout.startswith("kdx_")
    assert done.stdout.splitlines()[1:] == ["[]"]
