"""Makes sources in all formats that cut_chunks() accepts, and cuts them into chunks."""

import re
import threading
from pathlib import Path

from ingest.config import PublishConfig
from ingest.stream.chunker import ChunkHooks, cut_chunks
from ingest.values import Chunk
from support.media import Sound, Track, times, write_media
from support.waiting import HANG_SECONDS

NINE = times(216)  # nine seconds at 24 fps


EVEN = {"x264-params": "scenecut=0"}


ALTREF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "realtime", "cpu-used": "8"}


OPEN_H264 = {"x264-params": "open-gop=1:bframes=3:keyint=20:min-keyint=20:scenecut=0:b-adapt=0"}


TS, WEBM, MKV = "video/mp2t", "video/webm", "video/x-matroska"


# name: format, track, codec of the sound, media type of the chunks
MEDIA: dict[str, tuple[str, Track, str | None, str]] = {
    "h264-mp4": ("mp4", Track(times=NINE, gop=48, options=EVEN), "aac", TS),
    "h264-ts": ("mpegts", Track(times=NINE, gop=48, options=EVEN), "mp2", TS),
    "h264-mkv": ("matroska", Track(times=NINE, gop=48, options=EVEN), "aac", TS),
    "h264-opus": ("matroska", Track(times=NINE, gop=48, options=EVEN), "libopus", MKV),
    "h264-avi": ("avi", Track(times=NINE, gop=48, options={"bf": "0"}), "libmp3lame", TS),
    "h264-open-gop-mp4": ("mp4", Track(times=NINE, gop=20, options=OPEN_H264), "aac", TS),
    "h264-open-gop-ts": ("mpegts", Track(times=NINE, gop=20, options=OPEN_H264), "aac", TS),
    "hevc-open-gop-mp4": (
        "mp4",
        Track(codec="libx265", times=NINE, gop=30, options={"x265-params": "log-level=none"}),
        "ac3",
        TS,
    ),
    "mpeg2-ts": ("mpegts", Track(codec="mpeg2video", times=NINE, gop=12, options={"bf": "2", "b": "2M"}), "mp2", TS),
    "mpeg4-mp4": ("mp4", Track(codec="mpeg4", times=NINE, gop=40, options={"bf": "2", "b": "2M"}), "aac", TS),
    "mpeg4-avi": ("avi", Track(codec="mpeg4", times=NINE, gop=40, options={"bf": "2", "b": "2M"}), "libmp3lame", TS),
    "vp8-webm": ("webm", Track(codec="libvpx", times=NINE, gop=48, options=ALTREF), "libopus", WEBM),
    "vp9-webm": ("webm", Track(codec="libvpx-vp9", times=NINE, gop=48, options=ALTREF), "libopus", WEBM),
    "av1-mp4": ("mp4", Track(codec="libsvtav1", times=NINE, gop=48, options={"preset": "11"}), "libopus", WEBM),
    "h264-pcm": ("mov", Track(times=NINE, gop=48, options=EVEN), "pcm_s16le", MKV),
    "mjpeg-flac": ("matroska", Track(codec="mjpeg", pix_fmt="yuvj420p", times=NINE), "flac", MKV),
    "wmv2-wma": ("asf", Track(codec="wmv2", times=NINE, gop=40, options={"b": "2M"}), "wmav2", "video/x-ms-asf"),
    "flv1-flv": ("flv", Track(codec="flv", times=NINE, gop=40, options={"b": "2M"}), "libmp3lame", "video/x-nut"),
    "turned-mp4": ("mp4", Track(times=NINE, gop=48, rotation_degrees=90), "aac", MKV),
    "tiny": ("mp4", Track(times=times(90, 10), width=32, height=32, gop=20), None, TS),
}


def make_source(path: Path, name: str) -> tuple[str, Track]:
    format, track, codec, _ = MEDIA[name]
    target = path / f"source.{format}"
    write_media(target, format=format, video=track, sounds=[Sound(codec=codec, seconds=9.0)] if codec else [])
    return str(target), track


def publish(source: str, *, config: PublishConfig | None = None, hooks: ChunkHooks | None = None) -> list[Chunk]:
    """Cut a source; check the names, numbers and end of its chunks; return the chunks with media."""
    found = list(
        cut_chunks(source, collection="c", stream_id="s", session=7, config=config, hooks=hooks or ChunkHooks())
    )
    assert [chunk.sequence for chunk in found] == list(range(len(found)))
    assert {(chunk.collection, chunk.stream_id, chunk.session) for chunk in found} == {("c", "s", 7)}
    assert [chunk.end_of_stream for chunk in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].media == b""
    return found[:-1]


def media_of(found: list[Chunk]) -> list[bytes]:
    return [chunk.media for chunk in found]


class LiveRun:
    """Cuts a source until a given count of waits; it never really waits."""

    def __init__(
        self, source: str, *, wait_count: int = 99, chunk_count: int = 99, read_timeout_seconds: float = HANG_SECONDS
    ) -> None:
        self.notes: list[str] = []
        self.waited = 0.0
        self.waits: list[float] = []
        self.stop = threading.Event()
        self._wait_count, self._chunk_count = wait_count, chunk_count
        hooks = ChunkHooks(notes=self.note, progress=self.progress, monotonic=lambda: self.waited, sleep=self.sleep)
        names = {"collection": "c", "stream_id": "s"}
        config = PublishConfig(open_timeout_seconds=HANG_SECONDS, read_timeout_seconds=read_timeout_seconds)
        self._chunks = cut_chunks(source, **names, session=3, config=config, stop=self.stop, hooks=hooks)

    def note(self, line: str) -> None:
        self.notes.append(line)
        if (found := re.search(r"again in (\d+) s", line)) is not None:
            self.waits.append(float(found[1]))
            if len(self.waits) >= self._wait_count:
                self.stop.set()

    def progress(self, seconds: float, chunk_count: int, byte_count: int) -> None:
        if chunk_count >= self._chunk_count:
            self.stop.set()

    def sleep(self, seconds: float) -> None:
        self.waited += seconds

    def run(self) -> list[Chunk]:
        found = list(self._chunks)
        assert [chunk.sequence for chunk in found] == list(range(len(found)))
        assert found[-1].end_of_stream
        return found[:-1]
