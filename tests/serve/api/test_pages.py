"""Page tokens that nobody else can make, and rankings that are forgotten in time."""

import base64
import hashlib
import json
import random
import secrets
import stat
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from itsdangerous import Signer

from kinodex.v1.library_service_pb2 import GetVideoRequest, ListVideosRequest
from serve.api.pages import MAX_TOKEN_CHARS, ExpiringCache, PageSigner, binding, page_key
from serve.errors import PageTokenExpired, PageTokenInvalid, SettingsError

KEY = bytes(range(32))
METHOD = "/kinodex.v1.LibraryService/ListVideos"
REQUEST = ListVideosRequest(collection="talks", page_size=10, page_token="")
BINDING = binding("laptop", METHOD, REQUEST)
PAYLOAD = {"ranking": "c0ffee", "offset": 30, "after": "naïve/ä.mp4"}


# ------------------------------------------------------------------ signed tokens
def test_a_token_gives_its_payload_back() -> None:
    token = PageSigner(KEY).sign(PAYLOAD, binding=BINDING)
    assert PageSigner(KEY).verify(token, binding=BINDING) == PAYLOAD
    assert token.isascii()


@pytest.mark.parametrize(
    ("principal_name", "method", "request_"),
    [
        ("phone", METHOD, REQUEST),
        ("", METHOD, REQUEST),
        ("laptop", METHOD + "s", REQUEST),
        ("laptop" + METHOD[:1], METHOD[1:], REQUEST),
        ("laptop", METHOD, ListVideosRequest(collection="talk")),
        ("laptop", METHOD, ListVideosRequest()),
        ("laptop", METHOD, GetVideoRequest(video_id="other")),
    ],
)
def test_a_token_is_good_for_its_caller_method_and_request_only(
    principal_name: str, method: str, request_: Message
) -> None:
    token = PageSigner(KEY).sign(PAYLOAD, binding=BINDING)
    with pytest.raises(PageTokenInvalid):
        PageSigner(KEY).verify(token, binding=binding(principal_name, method, request_))


def test_the_next_page_may_have_another_size_and_has_another_token() -> None:
    following = ListVideosRequest(collection="talks", page_size=99, page_token="abc")
    assert binding("laptop", METHOD, following) == BINDING
    assert (following.page_size, following.page_token) == (99, "abc")


def test_a_request_without_pages_can_be_bound() -> None:
    assert binding("laptop", METHOD, GetVideoRequest(video_id="a")) != BINDING


def test_another_server_s_token_is_refused() -> None:
    token = PageSigner(bytes(32)).sign(PAYLOAD, binding=BINDING)
    with pytest.raises(PageTokenInvalid):
        PageSigner(KEY).verify(token, binding=BINDING)


def test_bytes_cannot_move_between_binding_and_payload() -> None:
    signer = PageSigner(KEY)
    head, signature = signer.sign({"abc": 1}, binding=BINDING).split(".")
    payload = base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))
    assert payload == b'{"abc":1}'
    shorter = base64.urlsafe_b64encode(payload[3:]).decode().rstrip("=")
    with pytest.raises(PageTokenInvalid):
        signer.verify(f"{shorter}.{signature}", binding=BINDING + payload[:3])


def test_a_payload_may_hold_what_is_not_utf_8() -> None:
    payload = {"after": "file:///films/\udcff\udc80.mp4"}
    token = PageSigner(KEY).sign(payload, binding=BINDING)
    assert token.isascii()
    assert PageSigner(KEY).verify(token, binding=BINDING) == payload


def test_a_token_of_the_longest_uri_can_be_made() -> None:
    payload = {"after": ["https://example.org/" + "\udcff" * 8172, "c" * 64, "v" * 128]}
    token = PageSigner(KEY).sign(payload, binding=BINDING)
    assert PageSigner(KEY).verify(token, binding=BINDING) == payload


@pytest.mark.parametrize("signer_key", [KEY, bytes(32)])
def test_a_forged_token_is_never_decoded(monkeypatch: pytest.MonkeyPatch, signer_key: bytes) -> None:
    """Neither a compressed bomb, spelled as itsdangerous spells compressed payloads, nor deeply nested JSON."""

    def refuse(content: object) -> Any:
        raise AssertionError("decoded before it was verified")

    monkeypatch.setattr("serve.api.pages.base64_decode", refuse)
    monkeypatch.setattr("serve.api.pages.json.loads", refuse)
    monkeypatch.setattr("zlib.decompress", refuse)
    bomb = base64.urlsafe_b64encode(zlib.compress(bytes(50_000_000))).decode().rstrip("=")
    nested = base64.urlsafe_b64encode(b"[" * 90_000).decode().rstrip("=")
    for content in (bomb, f".{bomb}", nested, ""):
        signature = Signer(signer_key, salt=BINDING, digest_method=hashlib.sha256).sign(content).decode()
        with pytest.raises(PageTokenInvalid):
            PageSigner(KEY).verify(signature, binding=BINDING)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "=",
        "A",
        "AQ",
        "AQ==",
        "A" * 43,
        "A" * MAX_TOKEN_CHARS,
        "A" * 1_000_000,
        "ä" * 80,
        "\ud800" * 80,
        "\x00",
        "a b\n",
        "{}",
        "+/+/",
    ],
)
def test_what_was_never_a_token_is_refused(token: str) -> None:
    with pytest.raises(PageTokenInvalid):
        PageSigner(KEY).verify(token, binding=BINDING)


def test_a_changed_token_is_refused_and_nothing_else_happens() -> None:
    signer, chance = PageSigner(KEY), random.Random(20260501)
    token = signer.sign(PAYLOAD, binding=BINDING)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ \n\x00.ä\U0001f600\ud800"
    tried = 0
    for _ in range(4000):
        changed = list(token)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            at = chance.randrange(len(changed))
            kind = chance.randrange(5)
            if kind == 0:
                changed[at] = chance.choice(letters)
            elif kind == 1:
                changed.insert(at, chance.choice(letters))
            elif kind == 2 and len(changed) > 1:
                del changed[at]
            elif kind == 3:
                del changed[at + 1 :]
            else:
                changed += chance.choices(letters, k=chance.randrange(1, 20))
        if "".join(changed) == token:
            continue
        tried += 1
        with pytest.raises(PageTokenInvalid):
            signer.verify("".join(changed), binding=BINDING)
    assert tried > 3500


def test_each_token_has_one_spelling() -> None:
    """The last character of base64 may carry bits that decode to nothing."""
    signer = PageSigner(KEY)
    for length in range(3):
        token = signer.sign({"a": "x" * length}, binding=BINDING)
        accepted = 0
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            try:
                signer.verify(token[:-1] + letter, binding=BINDING)
            except PageTokenInvalid:
                continue
            accepted += 1
        assert accepted == 1
        with pytest.raises(PageTokenInvalid):
            signer.verify(token + "=", binding=BINDING)


def test_a_payload_that_does_not_fit_is_the_caller_s_mistake() -> None:
    with pytest.raises(ValueError, match=f"at most {MAX_TOKEN_CHARS}"):
        PageSigner(KEY).sign({"ranking": "x" * MAX_TOKEN_CHARS}, binding=BINDING)
    with pytest.raises(ValueError, match="32 bytes"):
        PageSigner(b"short")


# ------------------------------------------------------------------ the key
def test_the_key_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    key = page_key(tmp_path)
    assert len(key) == 32
    assert page_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert page_key(tmp_path / "other") != key


def test_servers_that_start_at_once_have_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []
    make = secrets.token_bytes
    second = threading.Thread(target=lambda: keys.append(page_key(tmp_path)))

    def make_while_another_starts(count: int) -> bytes:
        monkeypatch.setattr(secrets, "token_bytes", make)
        second.start()
        second.join(0.05)  # it would be through by then, if nothing held it
        return make(count)

    monkeypatch.setattr(secrets, "token_bytes", make_while_another_starts)
    keys.append(page_key(tmp_path))
    second.join()
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_an_empty_key_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "server.key").touch(0o600)
    assert len(page_key(tmp_path)) == 32


@pytest.mark.parametrize("size", [1, 31, 33])
def test_a_damaged_key_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "server.key").touch(0o600)
    (tmp_path / "server.key").write_bytes(bytes(size))
    with pytest.raises(SettingsError, match="delete it"):
        page_key(tmp_path)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    page_key(tmp_path)
    (tmp_path / "server.key").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        page_key(tmp_path)


# ------------------------------------------------------------------ rankings in memory
class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_value_is_remembered_by_an_id_nobody_guesses() -> None:
    cache: ExpiringCache[list[int]] = ExpiringCache()
    first, second = cache.add([1]), cache.add([2])
    assert (cache.get(first), cache.get(second)) == ([1], [2])
    assert len(first) == 22
    assert json.loads(json.dumps(first)) == first
    with pytest.raises(PageTokenExpired):
        cache.get("unknown")


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache: ExpiringCache[int] = ExpiringCache(max_count=2)
    first, second = cache.add(1), cache.add(2)
    cache.get(first)
    third = cache.add(3)
    with pytest.raises(PageTokenExpired):
        cache.get(second)
    assert (cache.get(first), cache.get(third)) == (1, 3)


def test_a_value_is_forgotten_some_time_after_its_last_use() -> None:
    clock = Clock()
    cache: ExpiringCache[int] = ExpiringCache(max_age_seconds=10, clock=clock)
    used, unused = cache.add(1), cache.add(2)
    clock.seconds += 9
    assert cache.get(used) == 1
    clock.seconds += 9
    assert cache.get(used) == 1
    with pytest.raises(PageTokenExpired):
        cache.get(unused)
    clock.seconds += 10
    with pytest.raises(PageTokenExpired):
        cache.get(used)


def test_many_threads_may_use_it() -> None:
    cache: ExpiringCache[int] = ExpiringCache(max_count=8)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            for number in range(300):
                value_id = cache.add(number)
                try:
                    assert cache.get(value_id) == number
                except PageTokenExpired:
                    continue
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="max_count"):
        ExpiringCache(max_count=0)
