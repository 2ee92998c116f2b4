"""Who may call the server: bearer tokens, the file that keeps them, and what each of them opens.

A token is `kdx_ID_SECRET`. The file keeps SHA-256 of the secret and never the secret. A slow hash, as for passwords,
would add nothing: the secret is 256 random bits, and nobody can go through them.
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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.config import ServerConfig
from serve.errors import SettingsError, Unauthenticated

FILE = "tokens.json"
VERSION = 1
ALL = "*"  # every collection, in the file
SECRET_BYTES = 32
BEARER = re.compile(r"(?i:bearer) +kdx_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
TOKEN_ID = re.compile(r"[0-9a-f]{8}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")  # it goes into logs and onto terminals
SHA256_HEX = re.compile(r"[0-9a-f]{64}")
# What a call without a usable token is compared with, so that it costs the same work. No secret has this hash.
NO_SECRET, NO_HASH = "-" * 43, "0" * 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who makes a call, and what it may touch."""

    name: str
    collections: frozenset[str] | None  # None: all
    can_write: bool

    @property
    def scope(self) -> str:
        """Name and collections: what a page token is bound to, so that a narrower token cannot page through more."""
        return f"{self.name} {ALL if self.collections is None else sorted(self.collections)}"

    def may_read(self, collection: str) -> bool:
        return self.collections is None or collection in self.collections

    def may_write(self, collection: str) -> bool:
        return self.can_write and self.may_read(collection)


ANYBODY = Principal(name="", collections=None, can_write=True)  # of a server without tokens; no token has this name


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token, as the file knows it."""

    token_id: str
    name: str
    secret_sha256: str = field(repr=False)  # of the secret's 43 characters, in hex
    collections: frozenset[str] | None  # None: all
    can_write: bool
    created_time: datetime
    expire_time: datetime | None  # it is valid before this; None: always

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


# ------------------------------------------------------------------ the server's side
def utc_now() -> datetime:
    return datetime.now(UTC)


def tokens_file(directory: Path, config: ServerConfig) -> Path:
    """Say where the tokens are: the file that the settings name, else the data directory's."""
    return Path(config.tokens) if config.tokens else directory / FILE


def open_tokens(directory: Path, config: ServerConfig, clock: Callable[[], datetime] = utc_now) -> "TokenStore | None":
    """Open the tokens of a server; None: it has none, and whoever reaches it is ANYBODY.

    A file without a token in it is no such case: it lets nobody in.

    Raises:
        SettingsError: If the file is named in the settings and missing, or cannot be used.
    """
    path = tokens_file(directory, config)
    if not config.tokens:
        try:
            path.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsError(f"cannot read tokens file {path}: {error.strerror or error}") from error
    return TokenStore(path, clock)


class TokenStore:
    """The tokens of a file that may change at any time: those added count, and those revoked do not, from the next
    call on. While the file cannot be used, every call is refused. Thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        """Read the tokens.

        Raises:
            SettingsError: If the file is missing or damaged, or if others than its owner may read or write it.
        """
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._failure = ""  # why the file cannot be used now
        self._stamp: object = None  # of the file as it was read; None: read it again
        self._tokens: dict[str, Token] = {}
        self._read()

    def authenticate(self, authorization: str | None) -> Principal:
        """Say who makes a call.

        Args:
            authorization: The call's metadata of that name: "Bearer TOKEN".
        Raises:
            Unauthenticated: If it is no valid token. Each reason takes the same work.
        """
        match = BEARER.fullmatch(authorization or "")
        token_id, secret = match.groups() if match else ("", NO_SECRET)
        token = self._current().get(token_id)
        is_right = hmac.compare_digest(_hash(secret), token.secret_sha256 if token else NO_HASH)
        now = self._clock()
        if not is_right or token is None or (token.expire_time is not None and now >= token.expire_time):
            raise Unauthenticated
        return Principal(name=token.name, collections=token.collections, can_write=token.can_write)

    def _current(self) -> dict[str, Token]:
        with self._lock:
            try:
                if self._stamp is None or _stamp(self._path) != self._stamp:
                    self._read()
            except SettingsError as error:
                self._tokens, self._stamp = {}, None
                if str(error) != self._failure:
                    self._failure = str(error)
                    logger.error("every call is refused tokens=%s reason=%s", self._path, error)
            return self._tokens

    def _read(self) -> None:
        # The stamp first: a file replaced between the two is then read again.
        stamp = _stamp(self._path)
        self._tokens = {token.token_id: token for token in _read(self._path)}
        self._stamp = stamp
        if self._failure:
            logger.warning("calls are let in again tokens=%s", self._path)
            self._failure = ""


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _stamp(path: Path) -> object:
    with _readable(path):
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
    """Add a token to the file, which is made if need be, and return its text. It is nowhere else.

    Args:
        collections: What it opens; None: all, those to come included.
    Raises:
        SettingsError: If the name is taken, or the file cannot be used.
        ValueError: If the name or a collection is not allowed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path) as real:
        tokens = _read(path) if real.exists() else ()
        if any(token.name == name for token in tokens):
            raise SettingsError(f"there is a token {name} already: revoke it first, or choose another name")
        taken = {token.token_id for token in tokens}
        token_id = next(each for each in iter(lambda: secrets.token_hex(4), "") if each not in taken)
        secret = secrets.token_urlsafe(SECRET_BYTES)
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
    return _read(path)


def revoke_token(path: Path, name_or_id: str) -> Token:
    """Take a token out of the file, and return it. A running server refuses it from the next call on.

    Raises:
        SettingsError: If there is no such token, or the file cannot be used.
    """
    if not path.exists():
        raise SettingsError(f"no tokens file {path}: there is nothing to revoke")
    with _locked(path) as real:
        tokens = _read(path)
        for token in tokens:
            if name_or_id in (token.name, token.token_id):
                _write(real, [each for each in tokens if each is not token])
                return token
    raise SettingsError(f"no token {name_or_id} in {path}: see `kinodex token list`")


# ------------------------------------------------------------------ the file
@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Keep other commands from changing the file, and give its real path, behind links.

    The lock is on the folder: the file itself is replaced, and two commands could lock two different ones.
    """
    real = path.resolve()
    folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield real
    finally:
        os.close(folder)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the file system says into SettingsError."""
    try:
        yield
    except FileNotFoundError as error:
        raise SettingsError(f"no tokens file {path}: `kinodex token add` makes it") from error
    except OSError as error:
        raise SettingsError(f"cannot read tokens file {path}: {error.strerror or error}") from error


def _read(path: Path) -> tuple[Token, ...]:
    with _readable(path), path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        content = file.read()
    if mode & 0o077:
        raise SettingsError(f"others may read or write tokens file {path} (mode {mode:04o}): run `chmod 600 {path}`")
    try:
        document = json.loads(content)
        if document.keys() != {"version", "tokens"} or document["version"] != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        tokens = tuple(_token(each) for each in document["tokens"])
        for what in ("token_id", "name"):
            if len({getattr(token, what) for token in tokens}) < len(tokens):
                raise ValueError(f"a {what} is there twice")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"cannot use tokens file {path}: {error}: bring back a copy, or delete it and add the tokens anew"
        ) from error
    return tokens


def _token(value: dict[str, Any]) -> Token:
    # A key that we do not know might narrow what the token opens: then it must not be passed over.
    known = {"id", "name", "sha256", "collections", "access", "created", "expires"}
    if value.keys() != known:
        raise ValueError(f"a token's keys must be {', '.join(sorted(known))}")
    if value["access"] not in ("read", "write"):
        raise ValueError(f"access must be read or write, got {value['access']!r}")
    collections = value["collections"]
    if collections != ALL and not (isinstance(collections, list) and all(isinstance(it, str) for it in collections)):
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
    """Describe a token for programs: everything but its hash."""
    return {
        "id": token.token_id,
        "name": token.name,
        "access": "write" if token.can_write else "read",
        "collections": ALL if token.collections is None else sorted(token.collections),
        "created": token.created_time.isoformat(),
        "expires": None if token.expire_time is None else token.expire_time.isoformat(),
    }


def _write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file: after a crash at any time it is the old one or the new one, whole."""
    document = {"version": VERSION, "tokens": [{**token_json(it), "sha256": it.secret_sha256} for it in tokens]}
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            if os.geteuid() == 0:  # root adds a token for a server that is not root: it must still read them
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
