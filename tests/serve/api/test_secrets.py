"""Secrets in the URIs that callers name: no answer or log line shows them; one file holds them until the job ends."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.config import SourceConfig
from serve.client.client import Client
from serve.errors import ServerFailed
from serve.settings import Settings
from serve.values import VideoState
from support.fakes import use_fakes, write_scenes
from support.running import running
from support.waiting import HANG_SECONDS

pytestmark = pytest.mark.slow

NO_WORKER = ["sh", "-c", "exec cat"]  # jobs stay as they are
SECRET = "hunter2"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    film = write_scenes(tmp_path / "film.mp4", [("red", 3)]).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            is_good = self.path == f"/film.mp4;sid={SECRET}?pin={SECRET}" and "Authorization" in self.headers
            self.send_response(200 if is_good else 404)
            self.send_header("Content-Length", str(len(film) if is_good else 0))
            self.end_headers()
            self.wfile.write(film if is_good else b"")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def files_with_secrets(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).parts[0]
        for path in directory.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    }


def test_a_url_with_secrets_is_fetched_after_a_restart_and_nothing_shows_them(
    site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    use_fakes(monkeypatch)
    monkeypatch.setenv("KINODEX_SOURCE_PRIVATE_NETWORKS", "127.0.0.0/8")  # for the ingest worker
    data, settings = tmp_path / "data", Settings(workers=1, source=SourceConfig(private_networks=("127.0.0.0/8",)))
    uri = f"http://ann:{SECRET}@{site}/film.mp4;sid={SECRET}?pin={SECRET}#{SECRET}"
    missing = f"http://{site}/missing.mp4?pin={SECRET}"
    said = []
    with running(data, settings, ingest_command=NO_WORKER) as started, Client(started.address) as client:
        first, second = client.ingest(uri, request_id="a"), client.ingest(missing)
        assert client.ingest(uri, request_id="a").video_id == client.ingest(uri).video_id == first.video_id
        with pytest.raises(ServerFailed) as caught:
            client.ingest(f"ftp://ann:{SECRET}@{site}/film.mp4?pin={SECRET}")
        said += [repr(first), repr(second), repr(list(client.videos())), str(caught.value)]
    assert first.uri == f"http://{site}/film.mp4;sid=REDACTED?pin=REDACTED"
    # Nobody can try passwords until the id comes out.
    assert first.video_id not in hashlib.sha256(f"default\n{uri}".encode()).hexdigest()
    assert files_with_secrets(data) == {"fetch-uris"}
    with running(data, settings) as started, Client(started.address) as client:
        done = client.wait(first.video_id, timeout_seconds=HANG_SECONDS)
        failed = client.wait(second.video_id, timeout_seconds=HANG_SECONDS)
        said += [repr(done), repr(failed), repr(list(client.videos()))]
    assert (done.state, done.uri) == (VideoState.READY, first.uri)
    assert (failed.state, failed.failure_reason) == (VideoState.FAILED, "SOURCE_NOT_FOUND")
    assert f"http://{site}/missing.mp4?pin=REDACTED" in failed.failure_message
    assert files_with_secrets(data) == set()
    output = capfd.readouterr()
    assert "job done" in output.err  # of the ingest worker
    for text in (*said, caplog.text, output.out, output.err):
        assert SECRET not in text
