"""Callers of a running server with tokens."""

import datetime

from serve.api.tokens import create_token
from support.running import Running

NOW = datetime.datetime.now(datetime.UTC)


def bearer(server: Running, name: str, *, can_write: bool = True) -> tuple[tuple[str, str]]:
    """Add a token for every collection to a server that has tokens; return the metadata of its caller's calls."""
    path = server.server.directory / "tokens.json"
    token = create_token(path, name, collections=None, can_write=can_write, expire_time=None, now=NOW)
    return (("authorization", f"Bearer {token}"),)
