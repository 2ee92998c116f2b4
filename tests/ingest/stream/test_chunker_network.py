"""Live and finite sources over HTTP, HLS and UDP, from servers on this machine."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import pytest

from ingest.errors import DecodeError, SourceNotFound, SourceUnavailable, SourceUnreadable
from ingest.stream.chunker import cut_chunks
from ingest.values import Chunk
from support.chunked import LiveRun
from support.joined import decode_chunk, join_frames, summary_of
from support.media import Sound, Track, encode_media, times, write_media
from support.waiting import HANG_SECONDS

EVEN = {"bf": "0", "x264-params": "scenecut=0"}
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def quiet() -> None:
    av.logging.set_level(None)


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """A function that starts a server, which answers each GET with a given function, and returns its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def whole(handler: BaseHTTPRequestHandler, body: bytes, *, type: str = "video/mp4") -> None:
    """Answer with a file, or with the requested range of it."""
    begin = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    first = int(begin[1]) if begin else 0
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Type", type)
    handler.send_header("Accept-Ranges", "bytes")
    handler.send_header("Content-Length", str(len(body) - first))
    if begin:
        handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
    handler.end_headers()
    handler.wfile.write(body[first:])


def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Answer without a length, like a live server."""
    handler.send_response(200)
    handler.send_header("Content-Type", "video/mp2t")
    handler.end_headers()
    handler.wfile.write(body)


def ts(seconds: int = 6, start: int = 0) -> bytes:
    track = Track(times=times(24 * seconds, start=start), gop=48, options=EVEN)
    return encode_media(format="mpegts", video=track, sounds=[Sound(seconds=float(seconds), start_seconds=start)])


def test_a_file_over_http_ends_at_its_end(serve: Callable[[Answer], str], tmp_path: Path) -> None:
    write_media(tmp_path / "a.mp4", format="mp4", video=Track(times=times(144), gop=48, options=EVEN))
    body = (tmp_path / "a.mp4").read_bytes()
    run = LiveRun(serve(lambda handler: whole(handler, body)) + "/a.mp4")
    assert len(join_frames([chunk.media for chunk in run.run()], "exact")) == 6
    assert run.notes == []


@pytest.mark.slow
def test_requests_the_rest_of_a_file_that_breaks_off(serve: Callable[[Answer], str]) -> None:
    body = ts(12)
    asked: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers.get("Range"))
        if len(asked) == 1:
            handler.send_response(200)
            handler.send_header("Accept-Ranges", "bytes")
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2])
            handler.close_connection = True
        else:
            whole(handler, body, type="video/mp2t")

    run = LiveRun(serve(answer) + "/a.ts")
    assert len(join_frames([chunk.media for chunk in run.run()], "exact")) == 12
    assert len(asked) > 1
    assert run.waits == []


def test_a_file_that_breaks_off_for_good_ends_the_stream_and_is_an_error(
    serve: Callable[[Answer], str], tmp_path: Path
) -> None:
    track = Track(times=times(480), gop=48, options=EVEN)
    write_media(tmp_path / "a.mp4", format="mp4", video=track, options={"movflags": "faststart"})
    body = (tmp_path / "a.mp4").read_bytes()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if (handler.headers.get("Range") or "bytes=0-") != "bytes=0-":
            handler.send_error(403)
            return
        handler.send_response(200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.close_connection = True

    found: list[Chunk] = []
    with pytest.raises((SourceUnavailable, SourceUnreadable)):
        found.extend(cut_chunks(serve(answer) + "/a.mp4", collection="c", stream_id="s", session=0))
    assert 2 <= len(found) < 9
    assert [chunk.end_of_stream for chunk in found] == [False] * (len(found) - 1) + [True]


def test_a_live_source_that_ends_is_connected_again_with_backoff(serve: Callable[[Answer], str]) -> None:
    body = ts()
    count = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal count
        count += 1
        if count in (1, 5):
            endless(handler, body)
        else:
            handler.send_error(503 if count % 2 else 404)

    run = LiveRun(serve(answer) + "/live", wait_count=6)
    found = run.run()
    assert len(found) == 6
    assert run.waits == [1, 2, 4, 8, 1, 2]
    assert all(note.endswith("/live") for note in run.notes)
    starts = [summary_of(decode_chunk(chunk.media)).start_seconds for chunk in found]
    assert starts[:3] == pytest.approx(starts[3:])
    assert {chunk.session for chunk in found} == {3}
    assert all(chunk.start_time is not None for chunk in found)


def test_backoff_has_a_bound(serve: Callable[[Answer], str]) -> None:
    body, count = ts(), 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal count
        count += 1
        endless(handler, body) if count == 1 else handler.send_error(500)

    run = LiveRun(serve(answer) + "/live", wait_count=8)
    run.run()
    assert run.waits == [1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.slow
def test_a_live_source_that_falls_silent_is_connected_again(serve: Callable[[Answer], str]) -> None:
    body, is_done = ts(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        endless(handler, body)
        handler.wfile.flush()
        is_done.wait(HANG_SECONDS)

    run = LiveRun(serve(answer) + "/live", wait_count=1, read_timeout_seconds=5.0)
    found = run.run()
    is_done.set()
    assert len(found) == 3
    assert "does not answer" in run.notes[0]


def hls(folder: Path, *, is_over: bool) -> None:
    """Write a playlist and its segments."""
    options = {"hls_time": "2", "hls_list_size": "0", "hls_playlist_type": "vod"}
    write_media(
        folder / "live.m3u8",
        format="hls",
        video=Track(times=times(240), gop=48, options=EVEN),
        sounds=[Sound(seconds=10.0)],
        options=options,
    )
    playlist = (folder / "live.m3u8").read_text()
    assert "#EXT-X-ENDLIST" in playlist
    if not is_over:
        playlist = playlist.replace("#EXT-X-ENDLIST\n", "").replace("#EXT-X-PLAYLIST-TYPE:VOD\n", "")
    (folder / "live.m3u8").write_text(playlist)


@pytest.mark.slow
@pytest.mark.parametrize("is_over", [True, False], ids=["finite", "live"])
def test_hls(is_over: bool, serve: Callable[[Answer], str], tmp_path: Path) -> None:
    hls(tmp_path, is_over=is_over)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        whole(handler, (tmp_path / handler.path.strip("/")).read_bytes(), type="application/octet-stream")

    run = LiveRun(serve(answer) + "/live.m3u8", chunk_count=5 if is_over else 2)
    found = run.run()
    media = [chunk.media for chunk in found]
    assert {chunk.media_type for chunk in found} == {"video/mp2t"}
    # A live playlist is joined three segments before its end, and stopped in the last one.
    assert len(join_frames(media, "exact")) in ([10] if is_over else [4, 5, 6])
    assert (found[0].start_time is None) == is_over
    for piece in media:
        assert summary_of(decode_chunk(piece)).error_count == 0


def list_of(folder: Path, *, is_over: bool, segment_count: int) -> bytes:
    """Return the playlist of hls() as it is when some of its segments are there."""
    lines = (folder / "live.m3u8").read_text().splitlines()
    ends = [place for place, line in enumerate(lines) if line.endswith(".ts")]
    kept = [line for line in lines[: ends[segment_count - 1] + 1] if "PLAYLIST-TYPE" not in line]
    return "\n".join([*kept, "#EXT-X-ENDLIST" if is_over else "", ""]).encode()


@pytest.mark.slow
@pytest.mark.parametrize("breaks", [False, True], ids=["ends", "breaks off, then ends"])
def test_an_hls_playlist_that_gets_an_end_is_published_once(
    breaks: bool, serve: Callable[[Answer], str], tmp_path: Path
) -> None:
    hls(tmp_path, is_over=True)
    asked = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal asked
        if not handler.path.endswith(".m3u8"):
            whole(handler, (tmp_path / handler.path.strip("/")).read_bytes(), type="application/octet-stream")
            return
        asked += 1
        if breaks and asked == 2:
            handler.send_error(503)
            return
        # The first connection joins at the first of three segments; all five are there when the list has ended.
        is_over = asked > 1
        body = list_of(tmp_path, is_over=is_over, segment_count=5 if is_over else 3)
        whole(handler, body, type="application/vnd.apple.mpegurl")

    run = LiveRun(serve(answer) + "/live.m3u8", wait_count=4)
    media = [chunk.media for chunk in run.run()]
    ticks = [tick for piece in media for tick in sorted(join_frames([piece], "exact"))]
    assert len(ticks) == len(set(ticks)) == 10, "each second once"
    assert len(run.waits) == 1
    assert not run.stop.is_set(), "it ended by itself"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_udp() -> None:
    port = free_port()
    body, is_done = ts(30), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            size = 7 * 188
            while not is_done.is_set():  # repeat it: the receiver does not report when it listens
                for begin in range(0, len(body), size):
                    sender.sendto(body[begin : begin + size], ("127.0.0.1", port))
                    if begin // size % 8 == 0:
                        time.sleep(0.001)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    run = LiveRun(f"udp://127.0.0.1:{port}", chunk_count=4)
    found = run.run()
    is_done.set()
    sender.join()
    assert len(found) >= 4
    for chunk in found:
        assert chunk.start_time is not None
        assert decode_chunk(chunk.media)


STATUSES = [(404, SourceNotFound), (403, SourceUnreadable), (401, SourceUnreadable), (500, SourceUnavailable)]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_a_failure_of_the_first_connection_is_an_error(
    status: int, error: type[Exception], serve: Callable[[Answer], str]
) -> None:
    url = serve(lambda handler: handler.send_error(status)).replace("http://", "http://user:secret@")
    with pytest.raises(error) as caught:
        LiveRun(url + "/a.mp4").run()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_server_and_bytes_that_are_not_media_are_errors(serve: Callable[[Answer], str]) -> None:
    with pytest.raises(SourceUnavailable):
        LiveRun(f"http://127.0.0.1:{free_port()}/a.mp4").run()
    with pytest.raises(SourceUnavailable):
        LiveRun(f"rtsp://127.0.0.1:{free_port()}/a").run()
    for scheme in ("nothing", "srt"):  # the FFmpeg in PyAV's wheels has no SRT
        with pytest.raises(SourceUnavailable, match=f"FFmpeg has no protocol {scheme}: {scheme}://"):
            LiveRun(f"{scheme}://127.0.0.1:9/a").run()
    url = serve(lambda handler: whole(handler, b"<html>no media</html>" * 100, type="text/html"))
    with pytest.raises(DecodeError):
        LiveRun(url + "/a.mp4").run()
