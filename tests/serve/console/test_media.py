"""Files of videos and clips over HTTP: ranges, changed and missing files, and what a token opens."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import av
import httpx2
import pytest

from ingest.config import SourceConfig
from serve.api.tokens import FILE, create_token
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import Running, running

pytestmark = pytest.mark.slow


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "film.mp4", [("blue", 4), ("red", 6)], tones=[(440, 1.0)])


@pytest.fixture
def server(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    use_fakes(monkeypatch)
    data = tmp_path / "data"
    list(index([str(film)], data, Settings(workers=1), progress=SilentProgress()))
    settings = Settings(workers=1, source=SourceConfig(file_roots=(str(tmp_path),)))
    with running(data, settings, http_listen="127.0.0.1:0") as started:
        yield started


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    assert server.server.http is not None
    with httpx2.Client(base_url=server.server.http.url, timeout=60) as client:  # type: ignore[attr-defined]
        yield client


def path_of(http: httpx2.Client, **headers: str) -> str:
    videos = http.post("/kinodex.v1.LibraryService/ListVideos", json={}, headers=headers).json()["videos"]
    return f"/media/{videos[0]['videoId']}"


def test_the_file_comes_whole_and_in_ranges(http: httpx2.Client, film: Path) -> None:
    path, content = path_of(http), film.read_bytes()
    whole = http.get(path)
    assert (whole.status_code, whole.headers["content-type"], whole.content) == (200, "video/mp4", content)
    assert http.head(path).headers["content-length"] == str(len(content))
    for header, part in (
        ("bytes=0-9", content[:10]),
        ("bytes=100-", content[100:]),
        ("bytes=-7", content[-7:]),
        (f"bytes=5-{len(content) * 2}", content[5:]),
    ):
        answer = http.get(path, headers={"range": header})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(content)}")
    assert http.get(path, headers={"range": f"bytes={len(content)}-"}).status_code == 416
    for ignored in ("bytes=", "bytes=x-y", "lines=0-1", "bytes=0-1,5-6", "bytes=9-3x"):
        assert http.get(path, headers={"range": ignored}).status_code == 200
    fresh = http.get(path, headers={"range": "bytes=0-9", "if-range": whole.headers["etag"]})
    stale = http.get(path, headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert (fresh.status_code, stale.status_code) == (206, 200)


def test_a_file_with_other_content_is_not_given_out(http: httpx2.Client, film: Path) -> None:
    path = path_of(http)
    film.write_bytes(b"a secret that was put in its place")
    answer = http.get(path)
    assert answer.json()["reason"] == "MEDIA_CHANGED"
    assert b"secret" not in answer.content
    film.unlink()
    assert http.get(path).json()["reason"] == "MEDIA_GONE"
    film.symlink_to("/etc/passwd")
    assert http.get(path).json()["reason"] in ("MEDIA_CHANGED", "MEDIA_GONE")


def test_a_clip_is_made_to_the_picture(http: httpx2.Client) -> None:
    path = path_of(http).replace("/media/", "/clips/") + ".mp4"
    answer = http.get(path, params={"start": 4.4, "end": 6.4, "exact": 1})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    with av.open(io.BytesIO(answer.content)) as clip:
        pictures = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert abs(len(pictures) - 10) <= 1  # two seconds of five pictures
    assert all(picture[..., 0].mean() > 200 > 60 > picture[..., 2].mean() for picture in pictures)  # red


@pytest.mark.parametrize("query", [{"start": 5, "end": 3}, {"start": 99, "end": 100}, {"start": "x", "end": 3}, {}])
def test_a_clip_of_nothing_is_refused(http: httpx2.Client, query: dict[str, str]) -> None:
    answer = http.get(path_of(http).replace("/media/", "/clips/") + ".mp4", params=query)
    assert answer.status_code == 400
    assert answer.json()["message"]


def test_only_a_token_or_its_signed_link_opens_media(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    data = tmp_path / "data"
    list(index([str(film)], data, Settings(workers=1), progress=SilentProgress()))
    now = datetime.now(UTC)
    token = create_token(data / FILE, "ana", collections=None, can_write=False, expire_time=None, now=now)
    other = create_token(data / FILE, "bob", collections=("his",), can_write=False, expire_time=None, now=now)
    ana, bob = {"authorization": f"Bearer {token}"}, {"authorization": f"Bearer {other}"}
    with running(data, Settings(workers=1), http_listen="127.0.0.1:0") as started:
        assert started.server.http is not None
        with httpx2.Client(base_url=started.server.http.url, timeout=60) as http:  # type: ignore[attr-defined]
            path = path_of(http, **ana)
            clip = path.replace("/media/", "/clips/") + ".mp4?start=0&end=2"
            statuses = [http.get(each, headers=who).status_code for each in (path, clip) for who in ({}, bob, ana)]
            assert statuses == [401, 404, 200, 401, 404, 200]
            link, clip_link = http.post("/links", json={"paths": [path, clip]}, headers=ana).json()["links"]
            assert token not in link
            assert [http.get(each).status_code for each in (link, clip_link)] == [200, 200]
            assert http.get(link[:-4] + "AAAA").status_code == 401
