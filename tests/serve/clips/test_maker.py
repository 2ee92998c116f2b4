"""Clips of videos of a library, whose files may be gone, changed or too long."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest

from ingest.errors import LimitExceeded, SourceRefused, SpanOutside
from ingest.source import source as source_module
from ingest.values import Cut
from serve.catalog.catalog import Catalog, NewVideo
from serve.clips.maker import ClipMaker
from serve.config import ClipConfig
from serve.errors import MediaChanged, MediaGone
from serve.settings import Settings
from serve.values import Video
from support.media import Track, read_number, times, write_media
from support.sample_catalog import FINGERPRINT, MEDIA

HALF = Cut(start_seconds=0.5, end_seconds=1.5)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open_writer(tmp_path / "library") as opened:
        yield opened


def put_film(catalog: Catalog, path: Path, *, uri: str = "") -> Video:
    """Make a film of two seconds, and list it."""
    write_media(path, format="mp4", video=Track(times=times(48)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = catalog.begin(
        NewVideo(
            video_id="film", collection="default", uri=uri or str(path), content_sha256=digest, fingerprint=FINGERPRINT
        )
    )
    catalog.finish(row, media=MEDIA, duration_seconds=2.0, warnings=())
    return catalog.video("film")


@pytest.mark.slow
def test_clip_of_a_video_is_written(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = put_film(catalog, tmp_path / "film.mp4")
    with ClipMaker(catalog, tmp_path, Settings()) as maker:
        target = io.BytesIO()
        clip = maker.make(video, HALF, target)
        assert (clip.video, clip.size_bytes) == ("copied", len(target.getvalue()))
        with av.open(io.BytesIO(target.getvalue())) as container:
            numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert numbers == list(range(12, 36))
        monkeypatch.setattr(source_module, "_hash_file", lambda *arguments: pytest.fail("it was hashed before"))
        maker.make(video, replace(HALF, is_exact=True), io.BytesIO())  # in the same child

        with pytest.raises(InterruptedError):
            maker.make(video, HALF, io.BytesIO(), check=_leave)
        monkeypatch.undo()
        (tmp_path / "film.mp4").write_bytes(b"another film")
        with pytest.raises(MediaChanged, match="index it again"):
            maker.make(video, HALF, io.BytesIO())
        (tmp_path / "film.mp4").unlink()
        with pytest.raises(MediaGone, match="no such file"):
            maker.make(video, HALF, io.BytesIO())


def _leave() -> None:
    raise InterruptedError


def test_limits_of_clips_are_kept(catalog: Catalog, tmp_path: Path) -> None:
    video = put_film(catalog, tmp_path / "film.mp4")
    with ClipMaker(catalog, tmp_path, Settings(clip=ClipConfig(max_seconds=1.0))) as maker:
        with pytest.raises(LimitExceeded, match=r"clip\.max_seconds"):
            maker.make(video, Cut(start_seconds=0.0, end_seconds=9.0), io.BytesIO())
        with pytest.raises(SpanOutside, match="the video ends at 0:02"):
            maker.make(video, Cut(start_seconds=2.0, end_seconds=3.0), io.BytesIO())


@pytest.mark.slow
def test_clip_larger_than_the_limit_is_not_written(catalog: Catalog, tmp_path: Path) -> None:
    video = put_film(catalog, tmp_path / "film.mp4")
    target = io.BytesIO()
    with (
        ClipMaker(catalog, tmp_path, Settings(clip=ClipConfig(max_bytes=100))) as maker,
        pytest.raises(LimitExceeded, match=r"clip\.max_bytes"),
    ):
        maker.make(video, HALF, target)
    assert not target.getvalue()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"uri": "upload:1"}, MediaGone, "uploaded files are not kept"),
        ({"uri": "stream:cam", "is_live": True}, MediaGone, "live streams are not kept"),
        ({"uri": "https://example.org/a.mp4?token=REDACTED"}, MediaGone, "had secrets"),
        ({"uri": "file:///etc/passwd"}, SourceRefused, "outside the allowed folders"),
    ],
)
def test_videos_without_a_file_have_no_clips(
    catalog: Catalog, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    video = replace(put_film(catalog, tmp_path / "film.mp4"), **changes)  # type: ignore[arg-type]
    with ClipMaker(catalog, tmp_path, Settings()) as maker, pytest.raises(error, match=message):
        maker.make(video, HALF, io.BytesIO())
