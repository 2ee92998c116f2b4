"""Page tokens for the services of the API, the key that signs them, and the rankings that they page through."""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from itsdangerous import Signer
from itsdangerous.encoding import base64_decode, base64_encode

from serve.errors import PageTokenExpired, PageTokenInvalid, SettingsError

KEY_FILE = "server.key"
KEY_BYTES = 32
# Bounds the work for a hostile token: a longer one is refused unread, and never made. A usual token has some 120
# characters; a token of ListVideos holds a URI of at most 8,192, each of which may be escaped to six or more.
MAX_TOKEN_CHARS = 1 << 17

# Of one page's message: gRPC's clients accept 4 MiB by default, and a page with fewer answers loses nothing.
MAX_PAGE_BYTES = 3 << 20

T = TypeVar("T")
Page = TypeVar("Page", bound=Message)


def fit_page(write: Callable[[int], Page], count: int) -> Page:
    """Return the page that `write(count)` writes with at most `count` answers, with fewer if it would be too large."""
    page = write(count)
    while page.ByteSize() > MAX_PAGE_BYTES and count > 1:
        count = max(1, min(count - 1, count * MAX_PAGE_BYTES // page.ByteSize()))
        page = write(count)
    return page


# ------------------------------------------------------------------ signed tokens
class PageSigner:
    """Makes page tokens and verifies them. A caller can read what a token holds, but cannot change it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    def sign(self, payload: Mapping[str, Any], *, binding: bytes) -> str:
        """Make a token of JSON values, for the caller and the request that `binding` digests.

        Raises:
            ValueError: If the token would have more than MAX_TOKEN_CHARS. Put a name of the data into it instead.
        """
        # Pure ASCII: a URI may hold lone surrogates, for the bytes of a file name that are not UTF-8.
        content = json.dumps(dict(payload), separators=(",", ":"), allow_nan=False)
        token = self._sign(base64_encode(content).decode(), binding)
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError(f"a page token must have at most {MAX_TOKEN_CHARS} characters, got {len(token)}")
        return token

    def verify(self, token: str, *, binding: bytes) -> dict[str, Any]:
        """Return a token's payload.

        Raises:
            PageTokenInvalid: If `sign` did not make exactly this token for this binding.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise PageTokenInvalid
        content, _, _ = token.rpartition(".")
        # Compared as a whole: Signer.unsign() would accept other spellings of the same signature, since the last
        # character of base64 has two spare bits. The payload is decoded only after that.
        if not hmac.compare_digest(self._sign(content, binding), token):
            raise PageTokenInvalid
        payload: dict[str, Any] = json.loads(base64_decode(content))
        return payload

    def digest(self, text: str) -> str:
        """Return 64 hex digits from which nobody can find the text by trying texts, without the key."""
        return hmac.new(self._key, b"kinodex digest" + text.encode(), hashlib.sha256).hexdigest()

    def _sign(self, content: str, binding: bytes) -> str:
        signer = Signer(self._key, salt=b"kinodex page" + binding, key_derivation="hmac", digest_method=hashlib.sha256)
        return signer.sign(content).decode()


def binding(principal_name: str, method: str, message: Message) -> bytes:
    """Digest the caller, the method and the request that may use a page token: SHA-256.

    The digest leaves out the request's tokens, and the fields that say where to begin and how much to send.
    """
    request = type(message)()
    request.CopyFrom(message)
    for name in ("page_token", "page_size", "resume_token", "from_start"):
        if name in request.DESCRIPTOR.fields_by_name:
            request.ClearField(name)
    digest = hashlib.sha256()
    for part in (principal_name.encode(), method.encode(), request.SerializeToString(deterministic=True)):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def page_key(directory: Path) -> bytes:
    """Return the key that signs this data directory's page tokens; the first call makes it.

    The key is stored, so that a token outlives a restart, and every server of the directory accepts it.

    Raises:
        SettingsError: If the file is damaged, or if others than its owner may read or write it.
        OSError: If the file cannot be read or made.
    """
    path = directory / KEY_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # If two servers start at once, the first to get the lock finds an empty file and writes the key; the second
        # reads it. A crash in between leaves the file empty. With O_EXCL the second would not know when to read.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        status = os.fstat(descriptor)
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(f"others may read or write {path}: run `chmod 600 {path}`, or delete it")
        if status.st_size == 0:
            os.pwrite(descriptor, secrets.token_bytes(KEY_BYTES), 0)
            os.fsync(descriptor)
        key = os.pread(descriptor, KEY_BYTES + 1, 0)
    finally:
        os.close(descriptor)
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{path} is damaged: delete it, and the page tokens given out so far are refused")
    return key


# ------------------------------------------------------------------ rankings in memory
class ExpiringCache(Generic[T]):
    """Values of callers under random ids. A value expires some time after its last use; when a caller has too many, its
    least recently used goes first, and no other caller's. Thread-safe."""

    def __init__(
        self, max_count: int = 128, max_age_seconds: float = 900, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make an empty cache of at most `max_count` values a caller, each held for `max_age_seconds` after its last
        use."""
        if max_count < 1 or max_age_seconds <= 0:
            raise ValueError(f"max_count and max_age_seconds must be > 0, got {max_count}, {max_age_seconds}")
        self._max_count, self._max_age_seconds, self._clock = max_count, max_age_seconds, clock
        self._lock = threading.Lock()
        # By caller: (last use, value) by id, the oldest use first.
        self._values: dict[str, OrderedDict[str, tuple[float, T]]] = {}

    def add(self, value: T, caller: str = "") -> str:
        """Store a value of a caller and return its new id."""
        value_id = secrets.token_urlsafe(16)
        with self._lock:
            self._values.setdefault(caller, OrderedDict())[value_id] = (self._clock(), value)
            self._drop_expired()
        return value_id

    def get(self, value_id: str, caller: str = "") -> T:
        """Return a value of a caller, and count this as its last use.

        Raises:
            PageTokenExpired: If no value of this caller has this id, or no longer.
        """
        with self._lock:
            self._drop_expired()
            values = self._values.get(caller)
            if values is None or value_id not in values:
                raise PageTokenExpired
            _, value = values.pop(value_id)
            values[value_id] = (self._clock(), value)
            return value

    def _drop_expired(self) -> None:
        oldest = self._clock() - self._max_age_seconds
        for caller, values in list(self._values.items()):
            while values:
                used, _ = next(iter(values.values()))
                if used > oldest and len(values) <= self._max_count:
                    break
                values.popitem(last=False)
            if not values:
                del self._values[caller]
