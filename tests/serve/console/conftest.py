"""A library of one film for servers with HTTP."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running
from support.waiting import HANG_SECONDS


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("films") / "paris.mp4", [("blue", 10), ("red", 8)], tones=[(440, 3.0)])


@pytest.fixture(scope="session")
def data(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "data"
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(film)], folder, Settings(workers=2), progress=SilentProgress()))
    return folder


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy of the data directory, for one more server."""
    return Path(shutil.copytree(data, tmp_path / "data"))


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        with running(data, http_listen="127.0.0.1:0") as started:
            yield started


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
        yield client
