"""GetServerInfo on a real server: what it tells its operator, and nobody else."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.api import server_info
from serve.api.tokens import create_token
from serve.cli.main import cli
from serve.client.client import Client
from serve.config import ClientConfig, IndexConfig
from serve.errors import ServerFailed
from serve.indexing.pipeline import index
from serve.overview import CheckResult
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs wait until a test does them
NOW = datetime.datetime.now(datetime.UTC)

pytestmark = pytest.mark.slow


def found(settings: Settings) -> list[CheckResult]:
    """Be check_installation(), with a secret in what it finds."""
    return [
        CheckResult(name="vector index", state="ok", detail="Milvus at https://user:secret@example.org/milvus"),
        CheckResult(name="packages", state="missing", detail="not installed: pymilvus", remedy="pip install"),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("info")
    film = write_scenes(folder / "film.mp4", [("red", 4)], tones=[(440, 1.0)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        patch.setattr(server_info, "check_installation", found)
        list(index([str(film)], folder / "data", Settings(workers=1), progress=SilentProgress()))
        with running(folder / "data", ingest_command=NO_WORKER) as started:
            yield started


def test_the_operator_sees_the_state_of_the_server(server: Running) -> None:
    with Client(server.address) as client:
        client.ingest("https://example.org/a.mp4")
        info = client.server_info()
    assert {each.kind: each.name for each in info.encoders} == {
        "visual": "colour",
        "speech": "tone",
        "sentence": "words",
    }
    library = server.server.loaded.library
    assert library is not None
    assert info.fingerprint == library.encoders.space.fingerprint
    assert (info.video_count, info.index_rows["utterances"], info.index_rows["segments"]) == (1, 1, 1)
    assert (info.queued_job_count, info.running_job_count, info.failed_job_count) == (1, 0, 0)
    assert (info.call_count, info.waiting_question_count, info.pending_events) == (1, 0, {})
    checks = {each.name: each for each in info.checks}
    assert checks["Kafka"].detail == "none, set in the settings: no live streams"
    assert "GB free" in checks["disk"].detail
    assert "secret" not in repr(info)
    assert "example.org/milvus" in checks["vector index"].detail


def test_the_command_prints_it(server: Running) -> None:
    printed = CliRunner().invoke(cli, ["doctor", "--server", server.address])
    assert printed.exit_code == 1  # a package is missing there
    lines = printed.stdout.splitlines()
    assert lines[0].startswith("ok       server        kinodex ")
    assert lines[2].startswith("ok       index         1 video; vectors: 1 segments, 0 text_lines, 1 utterances")
    assert "missing  packages      not installed: pymilvus" in lines
    shown = json.loads(CliRunner().invoke(cli, ["doctor", "--server", server.address, "--json"]).stdout)
    assert (shown["video_count"], shown["checks"][1]["state"]) == (1, "missing")


def test_with_tokens_it_takes_one_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(server_info, "check_installation", found)
    path = tmp_path / "data" / "tokens.json"
    path.parent.mkdir()
    tokens = {
        name: create_token(path, name, collections=collections, can_write=can_write, expire_time=None, now=NOW)
        for name, collections, can_write in (
            ("operator", None, True),
            ("reader", None, False),
            ("writer", ["default"], True),
        )
    }
    film = write_scenes(tmp_path / "film.mp4", [("red", 2)])
    list(index([str(film)], tmp_path / "data", Settings(workers=1), progress=SilentProgress()))
    with running(tmp_path / "data", ingest_command=NO_WORKER) as server:
        for name, token in tokens.items():
            with Client(server.address, ClientConfig(token=token)) as client:
                if name == "operator":
                    assert client.server_info().video_count == 1
                else:
                    with pytest.raises(ServerFailed) as caught:
                        client.server_info()
                    assert (caught.value.code, caught.value.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")


def test_the_installation_is_checked_for_real() -> None:
    from serve.api.installation import check_installation

    checks = {each.name: each for each in check_installation(Settings(index=IndexConfig()))}
    assert set(checks) == {"packages", "decoding", "sandbox", "device", "vector index"}
    assert checks["vector index"].detail.startswith("FAISS ")
