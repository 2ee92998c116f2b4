"""Broadcasts over RTMP and RTSP, from small servers on this machine."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from support.chunked import LiveRun
from support.joined import decode_chunk, join_frames, summary_of
from support.media import Sound, Track, encode_media, times, write_media
from support.rtmp_server import METADATA, PICTURES, RtmpServer, amf, flv_messages, kind_of, message
from support.rtsp_server import RtspServer

REORDERED = {"bf": "3", "x264-params": "scenecut=0:b-adapt=0:bframes=3"}
Play = Callable[[int, socket.socket], None]


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(None)


@pytest.fixture
def broadcast() -> Iterator[Callable[[Play], str]]:
    """A function that starts an RTMP server and returns its address."""
    servers: list[RtmpServer] = []

    def start(play: Play) -> str:
        servers.append(RtmpServer(play))
        return servers[-1].uri

    yield start
    for server in servers:
        server.close()


def messages(seconds: int, gop: int) -> list[tuple[int, bytes]]:
    """Return a broadcast without metadata: those of a file name its duration."""
    track = Track(times=times(24 * seconds), gop=gop, options={"bf": "0", "x264-params": "scenecut=0"})
    flv = encode_media(format="flv", video=track, sounds=[Sound(seconds=float(seconds))])
    return [(at, part) for at, part in flv_messages(flv) if kind_of(part) != METADATA]


@pytest.mark.slow
def test_rtmp_is_dated_and_connected_again_with_backoff(broadcast: Callable[[Play], str]) -> None:
    found = [part for _, part in messages(6, 48)]

    def play(number: int, client: socket.socket) -> None:
        client.sendall(message(METADATA, amf("onMetaData") + amf({"duration": 0.0})))
        for part in found:
            client.sendall(part)

    run = LiveRun(broadcast(play), wait_count=2)
    chunks = run.run()
    assert len(chunks) == 6
    assert all(chunk.start_time is not None for chunk in chunks)
    assert run.waits == [1, 1]


@pytest.mark.slow
def test_a_recording_over_rtmp_ends_at_its_end(broadcast: Callable[[Play], str]) -> None:
    """Its metadata announce its duration, and the server hangs up where it ends."""
    found = [part for _, part in messages(6, 48)]

    def play(number: int, client: socket.socket) -> None:
        client.sendall(message(METADATA, amf("onMetaData") + amf({"duration": 6.0})))
        for part in found:
            client.sendall(part)

    run = LiveRun(broadcast(play), wait_count=1)
    assert len(run.run()) == 3
    assert run.notes == []


@pytest.mark.slow
def test_pictures_that_come_after_the_sound_are_published(broadcast: Callable[[Play], str]) -> None:
    """Servers that hold pictures back until the next keyframe send sound alone for many seconds."""
    found = messages(30, 24 * 20)
    header, *pictures = [part for _, part in found if kind_of(part) == PICTURES]

    def play(number: int, client: socket.socket) -> None:
        for at, part in found:
            if kind_of(part) == PICTURES and (at < 20_000 or part is header):
                continue
            if part is pictures[20 * 24]:
                client.sendall(header)
            client.sendall(part)

    run = LiveRun(broadcast(play), wait_count=2)
    chunks = run.run()
    assert any("pictures have come" in note for note in run.notes)
    summaries = [summary_of(decode_chunk(chunk.media)) for chunk in chunks]
    assert len(join_frames([chunk.media for chunk in chunks[-1:]], "exact")) == 10, summaries


def test_first_pictures_without_times_are_dated_back(tmp_path: Path) -> None:
    """FFmpeg gives the first picture of RTSP no times where pictures are reordered."""
    path = tmp_path / "film.mp4"
    write_media(path, format="mp4", video=Track(times=times(24 * 6), gop=48, options=REORDERED))
    server = RtspServer(path)
    run = LiveRun(server.uri, wait_count=1)
    chunks = run.run()
    server.close()
    assert "ended" in run.notes[0]
    summaries = [summary_of(decode_chunk(chunk.media)) for chunk in chunks]
    starts = [summary.start_seconds for summary in summaries]
    assert [start - starts[0] for start in starts] == pytest.approx([0, 2, 4], abs=0.01)
    assert [summary.error_count for summary in summaries] == [0, 0, 0]
    assert len(join_frames([chunk.media for chunk in chunks], "exact")) == 6
