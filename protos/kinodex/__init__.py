"""The client import of kinodex: `Client` and what it takes; `kinodex.v1` holds the API's messages and stubs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.client.client import Client
    from serve.config import ClientConfig
    from serve.errors import ServerFailed
    from serve.values import Filter, Query

__all__ = ["Client", "ClientConfig", "Filter", "Query", "ServerFailed"]

HOMES = {
    "Client": "serve.client.client",
    "ClientConfig": "serve.config",
    "Filter": "serve.values",
    "Query": "serve.values",
    "ServerFailed": "serve.errors",
}


def __getattr__(name: str) -> Any:
    # When asked for, not before: serve.client.client imports kinodex.v1, and so this file.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)
