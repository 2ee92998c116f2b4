"""Sources that cannot be sent, are damaged, or begin below zero."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from ingest.errors import DecodeError, SourceNotFound, SourceUnreadable
from ingest.stream.chunker import cut_chunks
from support.chunked import NINE, make_source, media_of, publish
from support.joined import decode_chunk, join_frames, summary_of
from support.marks import first_quick
from support.media import Track, write_media


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(None)


def fail_to_cut(source: str) -> Exception:
    with pytest.raises((DecodeError, SourceNotFound, SourceUnreadable)) as caught:
        list(cut_chunks(source, collection="c", stream_id="s", session=0))
    assert "\n" not in str(caught.value)
    return caught.value


def test_unsendable_sources_are_explained_in_one_line(tmp_path: Path) -> None:
    assert isinstance(fail_to_cut(str(tmp_path / "none.mp4")), SourceNotFound)
    assert isinstance(fail_to_cut(str(tmp_path)), SourceUnreadable)
    text = tmp_path / "text.mp4"
    text.write_text("no media at all " * 100)
    assert isinstance(fail_to_cut(str(text)), DecodeError)
    source, _ = make_source(tmp_path, "h264-mp4")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(source).read_bytes()[:5000])
    assert "never finished" in str(fail_to_cut(str(cut)))
    raw = tmp_path / "raw.h264"
    write_media(raw, format="h264", video=Track(times=NINE))
    assert "have no times" in str(fail_to_cut(str(raw)))


def truncate(media: bytes) -> bytes:
    return media[: len(media) * 2 // 3]


def damage(media: bytes) -> bytes:
    middle = len(media) // 2
    return media[:middle] + bytes(5000) + media[middle + 5000 :]


@pytest.mark.slow
@pytest.mark.parametrize("harm", [truncate, damage])
@pytest.mark.parametrize("name", first_quick(["h264-ts", "vp9-webm", "mpeg4-avi"]))
def test_a_damaged_file_yields_its_undamaged_parts(name: str, harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    source, _ = make_source(tmp_path, name)
    Path(source).write_bytes(harm(Path(source).read_bytes()))
    found = publish(source)
    ticks = set()
    for piece in media_of(found):
        ticks |= set(join_frames([piece], "fast"))
    assert len(ticks) >= 5


def test_a_stream_that_begins_below_zero_is_shifted_once(tmp_path: Path) -> None:
    source = tmp_path / "source.ts"
    with av.open(
        str(source), "w", format="mpegts", options={"avoid_negative_ts": "disabled", "mpegts_copyts": "1"}
    ) as t:
        stream = t.add_stream("libx264", rate=24, options={"bf": "0", "x264-params": "scenecut=0"})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 64, 64, "yuv420p", 24
        for index in range(120):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts, frame.time_base = index - 12, Fraction(1, 24)
            t.mux(stream.encode(frame))
        t.mux(stream.encode(None))
    starts = [summary_of(decode_chunk(piece)).start_seconds for piece in media_of(publish(str(source)))]
    assert starts == pytest.approx([0.5, 2.5, 4.5], abs=0.001)
