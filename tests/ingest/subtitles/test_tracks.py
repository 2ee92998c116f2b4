"""Subtitle tracks of containers: their text, times, languages and kinds."""

import io
import os
from fractions import Fraction
from pathlib import Path

import pytest
from av.stream import Disposition

from ingest.config import DecodeConfig
from ingest.media.decode import decode
from ingest.subtitles import tracks
from ingest.values import AudioBlock, Decoded, Frame, MediaInfo, SubtitleTrack
from support.media import Captions, Sound, Track, encode_media, times

LINES = [(1.0, 2.5, "Where are you going?"), (3.2, 4.0, "Über die Straße — für Käse."), (5.5, 6.0, "Куда ты идёшь?")]
VIDEO = Track(codec="mpeg4", times=times(20, 2), width=64, height=48)


def items_of(data: bytes, *, reads: bool = True) -> list[Decoded]:
    return list(decode(io.BytesIO(data), uri="a", config=DecodeConfig(read_subtitles=reads)))


def tracks_of(data: bytes) -> list[SubtitleTrack]:
    return [item for item in items_of(data) if isinstance(item, SubtitleTrack)]


def spans(track: SubtitleTrack) -> list[tuple[float, float, str]]:
    return [(round(one.start_seconds, 3), round(one.end_seconds, 3), one.text) for one in track.subtitles]


@pytest.mark.parametrize(
    ("format_", "codec", "name"),
    [
        ("matroska", "subrip", "subrip"), ("matroska", "webvtt", "webvtt"), ("matroska", "ass", "ass"),
        ("matroska", "text", "subrip"), ("mp4", "mov_text", "mov_text"),
        ("webm", "webvtt", "webvtt"),
    ],
)  # fmt: skip
def test_each_container_gives_its_words_and_times(format_: str, codec: str, name: str) -> None:
    video = Track(codec="libvpx", times=VIDEO.times, width=64, height=48) if format_ == "webm" else VIDEO
    styled = [(start, end, f"<i>{text}</i>" if codec in ("subrip", "webvtt") else text) for start, end, text in LINES]
    captions = Captions(codec=codec, lines=styled, language="deu")
    (track,) = tracks_of(encode_media(format=format_, video=video, captions=[captions]))
    assert (track.codec, track.language, track.kind, track.is_text) == (name, "deu", "full", True)
    assert spans(track) == LINES


def test_times_are_those_of_a_player_where_the_container_begins_later() -> None:
    late = [(start + 30, end + 30, text) for start, end, text in LINES]
    video = Track(codec="mpeg4", times=times(20, 2, Fraction(30)), width=64, height=48)
    (track,) = tracks_of(encode_media(format="matroska", video=video, captions=[Captions(lines=late)]))
    assert spans(track) == LINES


def test_tracks_come_after_the_facts_and_before_pictures_and_sound() -> None:
    data = encode_media(format="matroska", video=VIDEO, sounds=[Sound(seconds=9)], captions=[Captions(lines=LINES)] * 2)
    items = items_of(data)
    assert [type(item) for item in items[:3]] == [MediaInfo, SubtitleTrack, SubtitleTrack]
    without = items_of(data, reads=False)
    assert not any(isinstance(item, SubtitleTrack) for item in without)
    for kind in (Frame, AudioBlock):
        assert sum(isinstance(item, kind) for item in items) == sum(isinstance(item, kind) for item in without)


@pytest.mark.parametrize(
    ("disposition", "title", "kind"),
    [
        (Disposition.default, "", "full"), (Disposition.forced, "", "forced"),
        (Disposition(0), "English (Forced)", "forced"),
        (Disposition.comment, "", "commentary"), (Disposition(0), "Director's Commentary", "commentary"),
        (Disposition.hearing_impaired, "", "impaired"), (Disposition(0), "English [SDH]", "impaired"),
    ],
)  # fmt: skip
def test_forced_and_commentary_tracks_are_told_apart(disposition: Disposition, title: str, kind: str) -> None:
    captions = Captions(lines=LINES, title=title, disposition=disposition)
    (track,) = tracks_of(encode_media(format="matroska", video=VIDEO, captions=[captions]))
    assert (track.kind, track.is_default) == (kind, disposition == Disposition.default)


def test_text_in_an_old_encoding_is_read() -> None:
    lines = [(1.0, 2.0, "Куда ты идёшь сегодня вечером?".encode("cp1251"))] * 3
    (track,) = tracks_of(encode_media(format="matroska", video=VIDEO, captions=[Captions(lines=lines)]))
    assert spans(track) == [(1.0, 2.0, "Куда ты идёшь сегодня вечером?")]


def test_wrong_times_are_refused() -> None:
    lines = [*LINES, (7.0, 5000.0, "For an hour and more")]
    (track,) = tracks_of(encode_media(format="matroska", video=VIDEO, captions=[Captions(lines=lines)]))
    assert (spans(track), track.refused_count) == (LINES, 1)


def test_subtitles_without_lengths_last_until_the_next() -> None:
    lines = [(1.0, 1.0, "One"), (3.0, 3.0, "Two"), (30.0, 30.0, "Three")]
    (track,) = tracks_of(encode_media(format="matroska", video=VIDEO, captions=[Captions(lines=lines)]))
    assert spans(track) == [(1.0, 3.0, "One"), (3.0, 13.0, "Two"), (30.0, 40.0, "Three")]


def test_a_track_that_is_too_large_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracks, "MAX_COUNT", 2)
    (track,) = tracks_of(encode_media(format="matroska", video=VIDEO, captions=[Captions(lines=LINES)]))
    assert (spans(track), track.is_cut) == (LINES[:2], True)


def test_damaged_bytes_give_what_is_left() -> None:
    data = bytearray(encode_media(format="matroska", video=VIDEO, captions=[Captions(lines=LINES)]))
    for track in tracks_of(bytes(data[: len(data) * 2 // 3])):
        assert set(spans(track)) <= set(LINES)
    at = data.index(b"Where are you going")
    data[at : at + 19] = os.urandom(19)
    (track,) = tracks_of(bytes(data))
    assert spans(track)[-2:] == LINES[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "count", "kinds"),
    [
        ("media__ssasample.mkv", (4.233, 6.903, "The prince should be with the princess."), 462, ["ass"]),
        ("torchcodec__nasa_13013.mp4", (0.21, 4.26, "NAR: This is the optical and science segment of the Webb"), 4,
         ["mov_text", "mov_text"]),
        ("media__sample_with_vobsub_434e7e.mkv", None, 0, ["dvd_subtitle"]),
    ],
)  # fmt: skip
def test_real_files(
    shared: Path, name: str, first: tuple[float, float, str] | None, count: int, kinds: list[str]
) -> None:
    found = tracks_of((shared / "videos" / "files" / name).read_bytes())
    assert [track.codec for track in found] == kinds
    assert next(iter(spans(found[0])), None) == first
    assert count - 25 <= len(found[0].subtitles) <= count  # some lines are shown twice, in layers
    assert found[0].is_text == (first is not None)
