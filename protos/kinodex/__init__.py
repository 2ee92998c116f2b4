"""The public package of kinodex: finds videos, and moments in them, by what is seen and what is said.

    from kinodex import Client, Library, Query

    with Library.open("kinodex-data") as library:     # a library in this process
        answer = library.moments(Query(text="a red car"))
    with Client("localhost:8970") as client:          # a server
        answer = client.moments(Query(text="a red car"))

`kinodex.v1` holds the messages and gRPC stubs of the API. The other names come from the package `serve`. They are
imported at their first use: `import kinodex` alone loads nothing heavy, and `Client` needs no PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kinodex.shadowing import check_shadowing

if TYPE_CHECKING:
    from kinodex import v1
    from serve.client.client import Client
    from serve.config import ClientConfig
    from serve.errors import ServerFailed
    from serve.search.library import Library
    from serve.values import Filter, Query

    __version__: str

__all__ = ["Client", "ClientConfig", "Filter", "Library", "Query", "ServerFailed", "__version__", "v1"]

MODULES = {
    "Client": "serve.client.client",
    "ClientConfig": "serve.config",
    "Filter": "serve.values",
    "Library": "serve.search.library",
    "Query": "serve.values",
    "ServerFailed": "serve.errors",
}


def __getattr__(name: str) -> Any:
    """Import a name of __all__ at its first use.

    Raises:
        ImportError: If a module of the caller hides a package of kinodex.
    """
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("kinodex")
    elif name == "v1":
        return importlib.import_module("kinodex.v1")
    elif name in MODULES:
        check_shadowing()
        value = getattr(importlib.import_module(MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
