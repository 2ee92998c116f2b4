"""Page tokens that only this server can make, and the rankings they page through."""

import base64
import binascii
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from serve.errors import PageTokenExpired, PageTokenInvalid, SettingsError

KEY_FILE = "server.key"
KEY_BYTES = 32
VERSION = b"\x01"  # of the token's layout: version, digest, payload
DIGEST_BYTES = 32
# Ours have some 120 characters; the place in a list holds a URI of at most 8,192, escaped. Longer ones are refused
# before any work, and never made.
MAX_TOKEN_CHARS = 1 << 17
TOKEN = re.compile(r"[A-Za-z0-9_-]+")

T = TypeVar("T")


# ------------------------------------------------------------------ signed tokens
class PageSigner:
    """Makes page tokens and knows its own. A caller can read what a token holds, and cannot change it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    def sign(self, payload: Mapping[str, Any], *, binding: bytes) -> str:
        """Write a token of JSON values.

        Args:
            binding: Of whom and what it is good for: see `binding`.
        Raises:
            ValueError: If it gets too long: a token names a ranking, and does not hold it.
        """
        content = json.dumps(dict(payload), separators=(",", ":"), allow_nan=False).encode()
        token = _encode(VERSION + self._digest(content, binding) + content)
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError(f"a page token must have at most {MAX_TOKEN_CHARS} characters, got {len(token)}")
        return token

    def verify(self, token: str, *, binding: bytes) -> dict[str, Any]:
        """Read a token's payload.

        Raises:
            PageTokenInvalid: If it is not, to the character, what `sign` made for this binding.
        """
        content = _decode(token)
        start = len(VERSION) + DIGEST_BYTES
        payload = content[start:]
        expected = VERSION + self._digest(payload, binding)
        if not hmac.compare_digest(content[:start], expected):
            raise PageTokenInvalid
        values: dict[str, Any] = json.loads(payload)  # our own, so it is what sign() wrote
        return values

    def _digest(self, payload: bytes, binding: bytes) -> bytes:
        # The length goes first, so that no bytes can move from the binding to the payload.
        message = b"kinodex page" + VERSION + len(binding).to_bytes(8, "big") + binding + payload
        return hmac.digest(self._key, message, "sha256")


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")


def _decode(token: str) -> bytes:
    if len(token) > MAX_TOKEN_CHARS or not TOKEN.fullmatch(token):
        raise PageTokenInvalid
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except binascii.Error as error:
        raise PageTokenInvalid from error
    if _encode(content) != token:  # the last character may have bits to spare: one token, one spelling
        raise PageTokenInvalid
    return content


def binding(principal_name: str, method: str, message: Message) -> bytes:
    """Digest whom and what a page token is good for: SHA-256 over the caller, the method and the request.

    The request counts without its tokens, and without what says where to begin or how much to send at once.
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
    """Return the key that signs this data directory's page tokens, made on the first call.

    It lasts, so that a token outlives a restart and is good at every server of the directory.

    Raises:
        SettingsError: If the file is damaged, or if others than its owner may read or write it.
        OSError: If it cannot be read or made.
    """
    path = directory / KEY_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Of two servers that start at once, the lock's first finds the file empty, and the other one finds the key.
        # After a crash in between the file is still empty. (O_EXCL would tell the second nothing of when to read.)
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


# ------------------------------------------------------------------ remembered rankings
class Remembered(Generic[T]):
    """Values by a random id, the least recently used forgotten first. Thread-safe."""

    def __init__(
        self, max_count: int = 256, max_age_seconds: float = 900, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Remember nothing yet.

        Args:
            max_count: How many are kept.
            max_age_seconds: For how long after its last use one is kept.
        """
        if max_count < 1 or max_age_seconds <= 0:
            raise ValueError(f"max_count and max_age_seconds must be > 0, got {max_count}, {max_age_seconds}")
        self._max_count, self._max_age_seconds, self._clock = max_count, max_age_seconds, clock
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[float, T]] = OrderedDict()  # (last use, value), the oldest use first

    def keep(self, value: T) -> str:
        """Remember a value, and return its id."""
        value_id = secrets.token_urlsafe(16)
        with self._lock:
            self._values[value_id] = (self._clock(), value)
            self._forget()
        return value_id

    def get(self, value_id: str) -> T:
        """Return a value, which is young again then.

        Raises:
            PageTokenExpired: If it is forgotten, or never was.
        """
        with self._lock:
            self._forget()
            if value_id not in self._values:
                raise PageTokenExpired
            _, value = self._values.pop(value_id)
            self._values[value_id] = (self._clock(), value)
            return value

    def _forget(self) -> None:
        oldest = self._clock() - self._max_age_seconds
        while self._values:
            used, _ = next(iter(self._values.values()))
            if used > oldest and len(self._values) <= self._max_count:
                return
            self._values.popitem(last=False)
