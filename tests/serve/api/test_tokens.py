"""Tokens: what they open, how they are refused, and the file that changes under a running server."""

import hashlib
import hmac
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import serve.api.tokens
from serve.api.tokens import (
    ANYBODY,
    Principal,
    TokenStore,
    create_token,
    list_tokens,
    open_tokens,
    revoke_token,
    rotate_token,
    tokens_file,
)
from serve.config import ServerConfig
from serve.errors import SettingsError, TokenExpired, Unauthenticated

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def add(path: Path, name: str = "laptop", **changes: Any) -> str:
    values: dict[str, Any] = {"collections": ["talks"], "can_write": False, "expire_time": None, "now": NOW}
    return create_token(path, name, **{**values, **changes})


def open_store(path: Path, now: datetime = NOW) -> TokenStore:
    return TokenStore(path, lambda: now)


# ------------------------------------------------------------------ what a token opens
def test_a_token_opens_its_collections_for_reading(path: Path) -> None:
    token = add(path)
    principal = open_store(path).authenticate(f"Bearer {token}")
    assert principal == Principal(name="laptop", collections=frozenset({"talks"}), can_write=False)
    assert principal.may_read("talks")
    assert not principal.may_read("secret")
    assert not principal.may_write("talks")


def test_a_token_for_writing_reads_too_and_opens_nothing_else(path: Path) -> None:
    token = add(path, can_write=True)
    principal = open_store(path).authenticate(f"Bearer {token}")
    assert principal.may_write("talks")
    assert principal.may_read("talks")
    assert not principal.may_write("secret")


def test_a_token_for_all_collections_opens_those_to_come(path: Path) -> None:
    token = add(path, collections=None)
    principal = open_store(path).authenticate(f"Bearer {token}")
    assert principal.may_read("made later")
    assert not principal.may_write("made later")


def test_anybody_may_all() -> None:
    assert ANYBODY.may_read("talks")
    assert ANYBODY.may_write("talks")


def test_the_scheme_is_of_any_case_and_the_token_is_not(path: Path) -> None:
    token = add(path)
    store = open_store(path)
    assert store.authenticate(f"BEARER {token}").name == "laptop"
    assert store.authenticate(f"bearer  {token}").name == "laptop"
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {token.replace('kdx', 'KDX')}")


# ------------------------------------------------------------------ how it is refused
REFUSED = [
    "missing",
    "empty",
    "no scheme",
    "wrong scheme",
    "scheme only",
    "malformed",
    "too long",
    "look-alike letters",
    "a surrogate",
    "unknown id",
    "wrong secret",
    "wrong secret of an expired token",
]


def refused(path: Path) -> Iterator[str | None]:
    token = add(path)
    expired = add(path, "old", expire_time=NOW)
    secret = token[-43:]
    yield from (None, "", token, f"Basic {token}", "Bearer", "Bearer kdx_", f"Bearer {token}{'x' * 100_000}")
    yield f"Bearer {token[:-1]}\N{KELVIN SIGN}"
    yield f"Bearer {token[:-1]}\ud800"
    yield f"Bearer kdx_00000000_{secret}"
    yield f"Bearer {token[:-1]}{'A' if token[-1] != 'A' else 'B'}"
    yield f"Bearer {expired[:-1]}{'A' if expired[-1] != 'A' else 'B'}"


def test_every_refusal_reads_the_same_and_costs_the_same_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = list(refused(path))
    assert len(headers) == len(REFUSED)
    store = open_store(path)
    work: list[str] = []
    sha256, compare = hashlib.sha256, hmac.compare_digest

    def counting_sha256(content: bytes) -> Any:
        work.append(f"hash of {len(content)}")
        return sha256(content)

    def counting_compare(a: str, b: str) -> bool:
        work.append(f"comparison of {len(a)} and {len(b)}")
        return compare(a, b)

    monkeypatch.setattr(hashlib, "sha256", counting_sha256)
    monkeypatch.setattr(hmac, "compare_digest", counting_compare)
    for what, header in zip(REFUSED, headers, strict=True):
        work.clear()
        with pytest.raises(Unauthenticated) as caught:
            store.authenticate(header)
        assert str(caught.value) == str(Unauthenticated()), what
        assert work == ["hash of 43", "comparison of 64 and 64"], what


def test_a_token_is_valid_up_to_its_end(path: Path) -> None:
    header = f"Bearer {add(path, expire_time=NOW)}"
    assert open_store(path, NOW - timedelta(seconds=1)).authenticate(header).name == "laptop"
    with pytest.raises(TokenExpired, match=r"token laptop expired on 2026-05-01 12:00 UTC: ask the operator"):
        open_store(path, NOW).authenticate(header)


# ------------------------------------------------------------------ rotation
def test_a_rotated_token_has_a_new_secret_and_the_old_one_ends_after_the_overlap(path: Path) -> None:
    old = add(path, collections=["talks", "films"], can_write=True)
    new, token = rotate_token(path, "laptop", overlap=timedelta(hours=24), now=NOW)
    assert new != old
    assert token.token_id == new.split("_")[1]
    before, after = open_store(path, NOW + timedelta(hours=23)), open_store(path, NOW + timedelta(hours=24))
    rights = Principal(name="laptop", collections=frozenset({"talks", "films"}), can_write=True)
    assert before.authenticate(f"Bearer {old}") == before.authenticate(f"Bearer {new}") == rights
    assert after.authenticate(f"Bearer {new}") == rights
    with pytest.raises(TokenExpired):
        after.authenticate(f"Bearer {old}")


def test_without_an_overlap_the_old_token_is_gone(path: Path) -> None:
    old = add(path)
    store = open_store(path)
    new, _ = rotate_token(path, old.split("_")[1], overlap=timedelta(), now=NOW)
    assert store.authenticate(f"Bearer {new}").name == "laptop"
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {old}")
    assert len(list_tokens(path)) == 1


def test_a_new_token_lasts_as_long_as_the_old_one_was_made_for(path: Path) -> None:
    add(path, expire_time=NOW + timedelta(days=30))
    later = NOW + timedelta(days=29, hours=12)
    rotate_token(path, "laptop", overlap=timedelta(hours=24), now=later)
    old, new = list_tokens(path)
    assert old.expire_time == NOW + timedelta(days=30)  # no later than before
    assert (new.created_time, new.expire_time) == (later, later + timedelta(days=30))


def test_a_second_rotation_drops_what_has_expired_and_touches_no_other_caller(path: Path) -> None:
    first, other = add(path), add(path, "phone")
    for day in range(3):
        rotate_token(path, "laptop", overlap=timedelta(hours=36), now=NOW + timedelta(days=day))
    names = [token.name for token in list_tokens(path)]
    assert sorted(names) == ["laptop"] * 3 + ["phone"]
    assert first.split("_")[1] not in {token.token_id for token in list_tokens(path)}
    assert open_store(path).authenticate(f"Bearer {other}").name == "phone"


def test_revoking_a_name_revokes_the_tokens_before_its_rotations_too(path: Path) -> None:
    old = add(path)
    new, _ = rotate_token(path, "laptop", overlap=timedelta(hours=24), now=NOW)
    assert len(revoke_token(path, "laptop")) == 2
    for text in (old, new):
        with pytest.raises(Unauthenticated):
            open_store(path).authenticate(f"Bearer {text}")


def test_tokens_of_one_name_have_the_same_rights(path: Path) -> None:
    add(path)
    rotate_token(path, "laptop", overlap=timedelta(hours=24), now=NOW)
    document = json.loads(path.read_text("utf-8"))
    document["tokens"][1]["access"] = "write"
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(SettingsError, match="same name and other rights"):
        list_tokens(path)


# ------------------------------------------------------------------ the file under a running server
def test_tokens_come_and_go_while_the_server_runs(path: Path) -> None:
    first = add(path)
    store = open_store(path)
    second = add(path, "phone")
    assert store.authenticate(f"Bearer {second}").name == "phone"
    revoke_token(path, "laptop")
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {first}")
    revoke_token(path, second.split("_")[1])
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {second}")


@pytest.mark.parametrize("harm", ["damage", "empty", "remove", "open to all", "a folder"])
def test_a_file_that_cannot_be_used_lets_nobody_in_until_it_can(
    path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    header = f"Bearer {add(path)}"
    good = path.read_bytes()
    store = open_store(path)
    if harm == "damage":
        path.write_bytes(good[:-20])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "open to all":
        path.chmod(0o644)
    else:
        path.unlink()
    if harm == "a folder":
        path.mkdir(0o700)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                store.authenticate(header)
        assert [record.getMessage().split(" tokens=")[0] for record in caplog.records] == ["every call is refused"]
        if harm == "a folder":
            path.rmdir()
        path.touch()
        path.chmod(0o600)
        path.write_bytes(good)
        assert store.authenticate(header).name == "laptop"
        assert caplog.records[-1].getMessage().startswith("tokens can be used again")


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = f"Bearer {add(path)}"
    store = open_store(path)
    monkeypatch.setattr(serve.api.tokens, "_read_tokens", lambda _: pytest.fail("read again"))
    assert store.authenticate(header).name == "laptop"


# ------------------------------------------------------------------ the file itself
def test_the_file_holds_no_secret_and_is_for_its_owner_only(path: Path) -> None:
    token = add(path, collections=["talks", "lectures"], expire_time=NOW + timedelta(days=30))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = token[-43:]
    assert secret not in path.read_text()
    assert json.loads(path.read_text()) == {
        "version": 1,
        "tokens": [
            {
                "id": token[4:12],
                "name": "laptop",
                "access": "read",
                "collections": ["lectures", "talks"],
                "created": "2026-05-01T12:00:00+00:00",
                "expires": "2026-05-31T12:00:00+00:00",
                "sha256": hashlib.sha256(secret.encode()).hexdigest(),
            }
        ],
    }
    assert secret not in repr(list_tokens(path))
    assert os.listdir(path.parent) == ["tokens.json"]


def change(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    document["tokens"][0].update(changes)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "nothex"},
        {"id": 7},
        {"name": "a name"},
        {"name": "0123abcd"},
        {"name": None},
        {"sha256": "short"},
        {"access": "all"},
        {"collections": "talks"},
        {"collections": []},
        {"collections": ["*"]},
        {"collections": [["talks"]]},
        {"created": None},
        {"created": "2026-05-01T12:00:00"},
        {"expires": "soon"},
        {"expires": 0},
        {"only_from": "10.0.0.0/8"},  # passed over, it would open more than somebody meant
    ],
)
def test_a_wrong_entry_is_refused_whole(path: Path, changes: dict[str, Any]) -> None:
    add(path)
    change(path, **changes)
    with pytest.raises(SettingsError, match="cannot use tokens file") as caught:
        TokenStore(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", '{"version": 2, "tokens": []}', "\xff", "[" * 100_000])
def test_a_damaged_file_is_one_line_that_says_what_to_do(path: Path, content: str) -> None:
    path.touch(0o600)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(SettingsError, match="restore a copy") as caught:
        TokenStore(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError):
        add(path)
    assert path.read_text(encoding="latin-1") == content


def test_what_is_no_regular_file_is_refused_at_once(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path, 0o600)
    for other in (path, Path("/dev/zero"), Path("/dev/tty")):
        for use in (TokenStore, list_tokens):
            with pytest.raises(SettingsError) as caught:
                use(other)
            assert str(caught.value) == f"cannot read tokens file {other}: not a regular file"


def test_a_file_replaced_by_a_fifo_refuses_every_call(path: Path) -> None:
    token = add(path)
    store = TokenStore(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(Unauthenticated):
        store.authenticate(f"Bearer {token}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", "1"), ("tokens", "[]"), ("access", '"write"'), ("collections", '"*"'), ("expires", "null")],
)
def test_a_key_that_is_given_twice_is_refused(path: Path, key: str, value: str) -> None:
    """Other readers take the last value, and a reviewer may see only the first."""
    add(path)
    path.write_text(path.read_text().replace(f'"{key}":', f'"{key}": {value}, "{key}":', 1))
    for use in (TokenStore, list_tokens):
        with pytest.raises(SettingsError, match=f"the key '{key}' is given twice"):
            use(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_file_for_others_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    add(path)
    path.chmod(mode)
    for use in (TokenStore, list_tokens, add):
        with pytest.raises(SettingsError, match="chmod 600"):
            use(path)


def test_a_taken_name_and_an_unknown_token_change_nothing(path: Path) -> None:
    add(path)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="already"):
        add(path)
    with pytest.raises(SettingsError, match="no token phone"):
        revoke_token(path, "phone")
    assert path.read_bytes() == before
    for missing in (path.with_name("other.json"), path.parent / "nowhere" / "tokens.json"):
        with pytest.raises(SettingsError, match="no tokens file"):
            revoke_token(missing, "phone")
        with pytest.raises(SettingsError, match="no tokens file"):
            rotate_token(missing, "phone", overlap=timedelta(), now=NOW)


def test_commands_at_once_lose_nothing(path: Path) -> None:
    threads = [threading.Thread(target=add, args=(path, f"token-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in list_tokens(path)} == {f"token-{number}" for number in range(12)}
    assert os.listdir(path.parent) == ["tokens.json"]


def test_a_crash_while_writing_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add(path, "phone")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["tokens.json"]


def test_a_link_to_the_file_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path.symlink_to(tmp_path / "etc" / "kinodex.json")
    add(path)
    assert path.is_symlink()
    assert len(list_tokens(path)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_leaves_the_file_to_its_owner(path: Path) -> None:
    os.chown(path.parent, 1234, 1234)
    add(path)
    assert path.stat().st_uid == 1234
    os.chown(path, 4321, 4321)
    add(path, "phone")
    assert (path.stat().st_uid, path.stat().st_gid) == (4321, 4321)


# ------------------------------------------------------------------ whether there are tokens
def test_a_server_has_tokens_where_a_file_is_named_or_there(tmp_path: Path) -> None:
    assert open_tokens(tmp_path, ServerConfig()) is None
    named = ServerConfig(tokens=str(tmp_path / "named.json"))
    with pytest.raises(SettingsError, match="kinodex token add"):
        open_tokens(tmp_path, named)
    add(tokens_file(tmp_path, named), "named")
    add(tokens_file(tmp_path, ServerConfig()), "usual")
    assert open_tokens(tmp_path, named) is not None
    assert open_tokens(tmp_path, ServerConfig()) is not None


def test_a_link_to_nowhere_is_no_open_door(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").symlink_to(tmp_path / "gone")
    with pytest.raises(SettingsError):
        open_tokens(tmp_path, ServerConfig())


def test_a_file_without_tokens_refuses_every_call(path: Path) -> None:
    header = f"Bearer {add(path)}"
    revoke_token(path, "laptop")
    store = open_tokens(path.parent, ServerConfig())
    assert store is not None
    with pytest.raises(Unauthenticated):
        store.authenticate(header)
