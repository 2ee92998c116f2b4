"""Real servers, plain and over TLS, both with tokens; and the clients that call them."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from ingest.config import SourceConfig
from serve.api.tokens import FILE as TOKENS_FILE
from serve.api.tokens import create_token
from serve.settings import Settings
from support import toolchain
from support.fakes import use_fakes, write_scenes
from support.films import index_films, write_films
from support.running import running
from support.toolchain import Reached

Built = TypeVar("Built")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    for n in range(5):
        write_scenes(folder / f"{n}.mp4", [("yellow", 4 + n), ("green", 4)], salt=n)
    return folder


@pytest.fixture(scope="session")
def library(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the films, for servers to copy."""
    return index_films(films, tmp_path_factory.mktemp("library") / "data")


@pytest.fixture(scope="module")
def server(library: Path, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    with reached(library, films, tmp_path_factory.mktemp("plain"), None) as plain:
        yield plain


@pytest.fixture(scope="module")
def tls_server(library: Path, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    with reached(library, films, tmp_path_factory.mktemp("tls"), trustme.CA()) as protected:
        yield protected


@contextmanager
def reached(library: Path, films: Path, folder: Path, ca: trustme.CA | None) -> Iterator[Reached]:
    data, config, now = folder / "data", {}, datetime.now(UTC)
    shutil.copytree(library, data)
    tokens = [
        create_token(data / TOKENS_FILE, name, collections=None, can_write=name == "writer", expire_time=None, now=now)
        for name in ("writer", "reader")
    ]
    if ca is not None:
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        leaf = ca.issue_cert("localhost")
        leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
        (folder / "key.pem").chmod(0o600)
        (folder / "chain.pem").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        config = {"tls_certificate": str(folder / "chain.pem"), "tls_key": str(folder / "key.pem")}
    settings = Settings(workers=2, source=SourceConfig(file_roots=(str(films),)))
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        patch.setenv("KINODEX_SOURCE_FILE_ROOTS", str(films))  # for the ingest worker, a process of its own
        config["http_listen"] = "127.0.0.1:0" if ca is None else "localhost:0"
        with running(data, settings, **config) as started:
            yield Reached(
                # A certificate's name, where there is one: Node warns of addresses there.
                address=started.address if ca is None else f"localhost:{started.server.port}",
                url=started.url,
                ca=None if ca is None else folder / "ca.pem",
                token=tokens[0],
                reading_token=tokens[1],
                films=films,
            )


# ------------------------------------------------------------------ the clients
@pytest.fixture(scope="session")
def grpcurl() -> Path:
    return built(toolchain.grpcurl)


@pytest.fixture(scope="session")
def go_client() -> list[str]:
    return [str(built(toolchain.go_client))]


@pytest.fixture(scope="session")
def node_client() -> list[str]:
    return built(toolchain.node_client)


@pytest.fixture(scope="session")
def node_connect() -> list[str]:
    return built(toolchain.node_connect)


@pytest.fixture(scope="session")
def node_segments() -> list[str]:
    return built(toolchain.node_segments)


@pytest.fixture(scope="session")
def node_events() -> list[str]:
    return built(toolchain.node_events)


def built(build: Callable[[], Built]) -> Built:
    """Build a client, or skip; where $KINODEX_REQUIRE names the clients, fail."""
    try:
        return build()
    except toolchain.ToolMissing as error:
        if "clients" in os.environ.get("KINODEX_REQUIRE", "").split(","):
            pytest.fail(str(error))
        pytest.skip(str(error))
