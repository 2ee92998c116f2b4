"""Bearer tokens: the TokenStore of a server, and the functions of `kinodex token` that change the tokens file.

A token is `kdx_ID_SECRET`. The file holds the SHA-256 of the secret, never the secret. A slow hash, as for passwords,
would add nothing: the secret has 256 random bits, which are too many to try.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from serve.config import ServerConfig
from serve.errors import SettingsError, TokenExpired, Unauthenticated
from serve.files import make_private_folder, read_regular_file
from serve.observe import token_uses
from serve.observe.token_uses import TokenUses

FILE = "tokens.json"
VERSION = 1
ALL = "*"  # every collection, in the file
SECRET_BYTES = 32
MAX_BYTES = 16 << 20  # of the file: some 50,000 tokens
BEARER = re.compile(r"(?i:bearer) +kdx_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
TOKEN_ID = re.compile(r"[0-9a-f]{8}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")  # safe in logs and on terminals
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
# Compared for a call without a usable token, so that it takes the same time. No secret has this hash.
NO_SECRET, NO_HASH = "-" * 43, "0" * 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of a call, and the collections that it may read and change."""

    name: str
    collections: frozenset[str] | None  # None: all
    can_write: bool

    @property
    def scope(self) -> str:
        """Name and collections. A page token is bound to it, so that a narrower token cannot page through more."""
        return f"{self.name} {ALL if self.collections is None else sorted(self.collections)}"

    def may_read(self, collection: str) -> bool:
        return self.collections is None or collection in self.collections

    def may_write(self, collection: str) -> bool:
        return self.can_write and self.may_read(collection)


# The caller at a server without tokens. No token has an empty name.
ANYBODY = Principal(name="", collections=None, can_write=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as the file holds it. Several of one name, with the same rights, are one caller's: see rotate_token()."""

    token_id: str
    name: str
    secret_sha256: str = field(repr=False)  # of the secret's 43 characters, in hex
    collections: frozenset[str] | None  # None: all
    can_write: bool
    created_time: datetime
    expire_time: datetime | None  # valid before this time; None: always

    def __post_init__(self) -> None:
        if not TOKEN_ID.fullmatch(self.token_id):
            raise ValueError(f"a token's id must be 8 hex digits, got {self.token_id!r}")
        if not NAME.fullmatch(self.name) or TOKEN_ID.fullmatch(self.name):
            raise ValueError(
                "a token's name must be at most 64 letters, digits and ._@+- that do not look like an id "
                f"(8 hex digits), got {self.name!r}"
            )
        if not SHA256_HEX.fullmatch(self.secret_sha256):
            raise ValueError(f"the hash of token {self.name} must be 64 hex digits")
        if self.collections is not None and not self.collections:
            raise ValueError(f"token {self.name} must have a collection")
        for collection in self.collections or ():
            if collection in ("", ALL) or not collection.isprintable():
                raise ValueError(f"a collection must be a printable name other than {ALL}, got {collection!r}")
        for time in (self.created_time, self.expire_time):
            if time is not None and time.tzinfo is None:
                raise ValueError(f"the times of token {self.name} must have a time zone, got {time}")


@dataclass(frozen=True, slots=True)
class LinkedToken:
    """A token by its id, in the place of the token itself: a caller with that token signed a link (serve.console)."""

    token_id: str  # empty: of a link that is not valid


Credential = str | LinkedToken | None  # what a call is authenticated by; text: "Bearer TOKEN"


# ------------------------------------------------------------------ the server's side
def token_id_of(authorization: str) -> str:
    """Return the id in a call's metadata `authorization`; empty if it holds no token."""
    match = BEARER.fullmatch(authorization)
    return match[1] if match else ""


def utc_now() -> datetime:
    return datetime.now(UTC)


def tokens_file(directory: Path, config: ServerConfig) -> Path:
    """Return the path of the tokens file: that of the settings, or else the one in the data directory."""
    return Path(config.tokens) if config.tokens else directory / FILE


def open_tokens(directory: Path, config: ServerConfig, clock: Callable[[], datetime] = utc_now) -> "TokenStore | None":
    """Open the tokens of a server; None if there is no tokens file, and every caller is ANYBODY.

    A file without any token is different: it refuses every caller.

    Raises:
        SettingsError: If the file that the settings name is missing, or if the file cannot be used.
    """
    path = tokens_file(directory, config)
    if not config.tokens:
        try:
            path.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(f"cannot read tokens file {path}: {error.strerror or error}") from error
    return TokenStore(path, clock, TokenUses(directory / token_uses.FOLDER_NAME))


class TokenStore:
    """The tokens of a file, which may change at any time: the next call already sees added and revoked tokens.

    While the file cannot be used, every call is refused. Thread-safe.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now, uses: TokenUses | None = None) -> None:
        """Read the tokens. Their uses are noted in `uses`.

        Raises:
            SettingsError: If the file is missing or damaged, or if others than its owner may read or write it.
        """
        self._path, self._clock, self._uses = path, clock, uses
        self._lock = threading.Lock()
        self._failure = ""  # why the file cannot be used now
        self._stamp: object = None  # of the file when it was read; None: read it again
        self._tokens: dict[str, Token] = {}
        self._read()

    def authenticate(self, credential: Credential) -> Principal:
        """Return the caller that a token belongs to, given the call's metadata `authorization`, or a link's token.

        Raises:
            Unauthenticated: If the token is not valid. Every reason for this takes the same time.
            TokenExpired: If it was valid once. Only a caller with the right secret learns that.
        """
        token = self._linked(credential) if isinstance(credential, LinkedToken) else self._borne(credential or "")
        now = self._clock()
        if token.expire_time is not None and now >= token.expire_time:
            raise TokenExpired(token.name, token.expire_time)
        if self._uses is not None:
            self._uses.note(token.token_id, now)
        return Principal(name=token.name, collections=token.collections, can_write=token.can_write)

    def _borne(self, authorization: str) -> Token:
        match = BEARER.fullmatch(authorization)
        token_id, secret = match.groups() if match else ("", NO_SECRET)
        token = self._current().get(token_id)
        is_secret_right = hmac.compare_digest(_hash(secret), token.secret_sha256 if token else NO_HASH)
        if not is_secret_right or token is None:
            raise Unauthenticated
        return token

    def _linked(self, linked: LinkedToken) -> Token:
        token = self._current().get(linked.token_id)
        if token is None:
            raise Unauthenticated
        return token

    def _current(self) -> dict[str, Token]:
        with self._lock:
            try:
                if self._stamp is None or _file_stamp(self._path) != self._stamp:
                    self._read()
            except SettingsError as error:
                self._tokens, self._stamp = {}, None
                if str(error) != self._failure:
                    self._failure = str(error)
                    logger.error("every call is refused tokens=%s reason=%s", self._path, error)
            return self._tokens

    def _read(self) -> None:
        # The stamp is taken first: if the file is replaced before it is read, it is read again later.
        stamp = _file_stamp(self._path)
        self._tokens = {token.token_id: token for token in _read_tokens(self._path)}
        self._stamp = stamp
        if self._failure:
            logger.warning("tokens can be used again tokens=%s", self._path)
            self._failure = ""


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _file_stamp(path: Path) -> object:
    """Return what changes with the file."""
    with _explain_os_errors(path):
        status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


# ------------------------------------------------------------------ the operator's side
def create_token(
    path: Path,
    name: str,
    *,
    collections: Collection[str] | None,
    can_write: bool,
    expire_time: datetime | None,
    now: datetime,
) -> str:
    """Add a token for some collections (None: all, also future ones) to the file, which is made if it is missing.

    Return the token. Only the caller has it then.

    Raises:
        SettingsError: If the name is taken, or the file cannot be used.
        ValueError: If the name or a collection is not allowed.
    """
    make_private_folder(path.parent)
    with _lock_file(path) as real:
        tokens = _read_tokens(path) if real.exists() else ()
        if any(token.name == name for token in tokens):
            raise SettingsError(f"there is a token {name} already: rotate or revoke it, or choose another name")
        token_id, secret = _make_secret(tokens)
        token = Token(
            token_id=token_id,
            name=name,
            secret_sha256=_hash(secret),
            collections=None if collections is None else frozenset(collections),
            can_write=can_write,
            created_time=now.replace(microsecond=0),
            expire_time=expire_time,
        )
        _write(real, [*tokens, token])
    return f"kdx_{token_id}_{secret}"


def list_tokens(path: Path) -> tuple[Token, ...]:
    """Return the file's tokens, oldest first, expired ones included.

    Raises:
        SettingsError: If the file is missing or cannot be used.
    """
    return _read_tokens(path)


def rotate_token(path: Path, name_or_id: str, *, overlap: timedelta, now: datetime) -> tuple[str, Token]:
    """Give a caller a new token of the same name and rights; the old one stays valid for `overlap` at most.

    The new token lasts as long as the old one was made for. Return its text, which only the caller has then, and the
    token as the file holds it.

    Raises:
        SettingsError: If there is no such token, or the file cannot be used.
    """
    now = now.replace(microsecond=0)
    with _lock_file(path) as real:
        tokens = _read_tokens(path)
        name = _find(path, tokens, name_or_id)[0].name
        old = max((token for token in tokens if token.name == name), key=lambda token: token.created_time)
        token_id, secret = _make_secret(tokens)
        new = replace(
            old,
            token_id=token_id,
            secret_sha256=_hash(secret),
            created_time=now,
            expire_time=None if old.expire_time is None else now + (old.expire_time - old.created_time),
        )
        kept = []
        for token in tokens:
            if token.name == name:
                end = now + overlap if token.expire_time is None else min(token.expire_time, now + overlap)
                kept += [replace(token, expire_time=end)] if end > now else []
            else:
                kept.append(token)
        _write(real, [*kept, new])
    return f"kdx_{token_id}_{secret}", new


def revoke_token(path: Path, name_or_id: str) -> tuple[Token, ...]:
    """Remove the token of an id, or all tokens of a name, and return them. A running server refuses the next call.

    Raises:
        SettingsError: If there is no such token, or the file cannot be used.
    """
    with _lock_file(path) as real:
        tokens = _read_tokens(path)
        revoked = _find(path, tokens, name_or_id)
        _write(real, [token for token in tokens if token not in revoked])
    return revoked


def _find(path: Path, tokens: Sequence[Token], name_or_id: str) -> tuple[Token, ...]:
    found = tuple(token for token in tokens if name_or_id in (token.name, token.token_id))
    if not found:
        raise SettingsError(f"no token {name_or_id} in {path}: see `kinodex token list`")
    return found


def _make_secret(tokens: Sequence[Token]) -> tuple[str, str]:
    """Return the id, which no token has, and the secret of a new token."""
    taken = {token.token_id for token in tokens}
    token_id = next(new_id for new_id in iter(lambda: secrets.token_hex(4), "") if new_id not in taken)
    return token_id, secrets.token_urlsafe(SECRET_BYTES)


# ------------------------------------------------------------------ the file
@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[Path]:
    """Keep other commands from changing the file; yields its real path, behind links.

    The lock is on the folder: the file itself is replaced, so two commands could lock two different files.
    """
    real = path.resolve()
    with _explain_os_errors(path):
        folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield real
    finally:
        os.close(folder)


@contextlib.contextmanager
def _explain_os_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into SettingsError."""
    try:
        yield
    except FileNotFoundError as error:
        raise SettingsError(f"no tokens file {path}: `kinodex token add` makes it") from error
    except OSError as error:
        raise SettingsError(f"cannot read tokens file {path}: {error.strerror or error}") from error


def _read_tokens(path: Path) -> tuple[Token, ...]:
    with _explain_os_errors(path):
        content, status = read_regular_file(path, MAX_BYTES)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise SettingsError(f"others may read or write tokens file {path} (mode {mode:04o}): run `chmod 600 {path}`")
    try:
        document = json.loads(content, object_pairs_hook=_unique_keys)
        if document.keys() != {"version", "tokens"} or document["version"] != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        tokens = tuple(_read_token(value) for value in document["tokens"])
        if len({token.token_id for token in tokens}) < len(tokens):
            raise ValueError("two tokens have the same id")
        if len({(token.name, token.collections, token.can_write) for token in tokens}) > len({t.name for t in tokens}):
            raise ValueError("two tokens have the same name and other rights")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"cannot use tokens file {path}: {error}: restore a copy, or delete it and add the tokens again"
        ) from error
    return tokens


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is given twice: the last would win, and widen what the first allows."""
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {key!r} is given twice")
    return dict(pairs)


def _read_token(value: dict[str, Any]) -> Token:
    # An unknown key is refused: it might narrow what the token may do.
    known = {"id", "name", "sha256", "collections", "access", "created", "expires"}
    if value.keys() != known:
        raise ValueError(f"a token's keys must be {', '.join(sorted(known))}")
    if value["access"] not in ("read", "write"):
        raise ValueError(f"access must be read or write, got {value['access']!r}")
    collections = value["collections"]
    if collections != ALL and not (
        isinstance(collections, list) and all(isinstance(name, str) for name in collections)
    ):
        raise ValueError(f'collections must be a list of names or "{ALL}", got {collections!r}')
    return Token(
        token_id=value["id"],
        name=value["name"],
        secret_sha256=value["sha256"],
        collections=None if collections == ALL else frozenset(collections),
        can_write=value["access"] == "write",
        created_time=datetime.fromisoformat(value["created"]),
        expire_time=None if value["expires"] is None else datetime.fromisoformat(value["expires"]),
    )


def token_json(token: Token) -> dict[str, Any]:
    """Describe a token for programs, without its hash."""
    return {
        "id": token.token_id,
        "name": token.name,
        "access": "write" if token.can_write else "read",
        "collections": ALL if token.collections is None else sorted(token.collections),
        "created": token.created_time.isoformat(),
        "expires": None if token.expire_time is None else token.expire_time.isoformat(),
    }


def _write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file atomically: after a crash, the old or the new content is there as a whole."""
    document = {
        "version": VERSION,
        "tokens": [{**token_json(token), "sha256": token.secret_sha256} for token in tokens],
    }
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            if os.geteuid() == 0:  # added by root, for a server that does not run as root
                owner = os.stat(path if path.exists() else path.parent)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fsync(descriptor)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
