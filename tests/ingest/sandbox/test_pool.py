"""Whatever a decoding child does, the caller gets frames or a typed error, and the pool still works."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.config import DecodeConfig
from ingest.errors import DecodeError, DecoderCrashed, DecoderTimeout, LimitExceeded
from ingest.media.decode import decode
from ingest.sandbox import process as sandbox
from ingest.sandbox import protocol
from ingest.sandbox.pool import DecodePool
from ingest.sandbox.protocol import Message
from ingest.values import AudioBlock, Decoded, DecodeSummary, Frame, MediaInfo
from support.media import Sound, Track, encode_media, read_number, times
from support.photos import draw_quarters, encode_picture
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow

CONFIG = DecodeConfig(resize="squash", input_width=64, input_height=64)
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc and PR_SET_PDEATHSIG are Linux's")


@pytest.fixture(scope="module")
def media() -> bytes:
    return encode_media(format="mp4", video=Track(times=times(24 * 6), gop=24), sounds=[Sound(seconds=6)])


@pytest.fixture(scope="module")
def long_media() -> bytes:
    return encode_media(format="mp4", video=Track(times=times(600, 1), gop=10))


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(CONFIG, workers=2) as pool:
        yield pool


def children_of(pool: DecodePool) -> set[int]:
    return {child._process.pid for child in pool._children}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_works(pool: DecodePool, media: bytes) -> None:
    items = list(pool.decode(io.BytesIO(media), uri="after"))
    assert [read_number(item.pixels) for item in items if isinstance(item, Frame)] == [0, 24, 48, 72, 96, 120]


def test_a_child_yields_the_same_as_decoding_in_this_process(pool: DecodePool, media: bytes) -> None:
    for inside, outside in zip(
        pool.decode(io.BytesIO(media), uri="x"), decode(io.BytesIO(media), uri="x", config=CONFIG), strict=True
    ):
        assert type(inside) is type(outside)
        if isinstance(inside, Frame) and isinstance(outside, Frame):
            assert (inside.epoch, inside.pts_seconds) == (outside.epoch, outside.pts_seconds)
            assert np.array_equal(inside.pixels, outside.pixels)
            assert inside.thumbnail == outside.thumbnail
        elif isinstance(inside, AudioBlock) and isinstance(outside, AudioBlock):
            assert (inside.epoch, inside.start_seconds) == (outside.epoch, outside.start_seconds)
            assert np.array_equal(inside.samples, outside.samples)
        else:
            assert inside == outside


def test_information_comes_first_and_the_summary_last(pool: DecodePool, media: bytes) -> None:
    items = list(pool.decode(io.BytesIO(media), uri="x"))
    assert isinstance(items[0], MediaInfo)
    assert isinstance(items[-1], DecodeSummary)
    assert sum(isinstance(item, MediaInfo | DecodeSummary) for item in items) == 2


def test_accepts_files_descriptors_and_memory(pool: DecodePool, media: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(media)
    descriptor = os.open(path, os.O_RDONLY)
    with path.open("rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        file.seek(100)  # decoding begins at the first byte and does not move the caller's position
        spooled.write(media)
        sources: list[Any] = [file, descriptor, io.BytesIO(media), spooled]
        for source in sources:
            assert isinstance(list(pool.decode(source, uri="x"))[-1], DecodeSummary)
        assert file.tell() == 100
    os.fstat(descriptor)  # still open
    os.close(descriptor)


def test_another_config_holds_for_one_decode(pool: DecodePool, media: bytes) -> None:
    config = replace(CONFIG, input_width=32, input_height=48, sampling="keyframes")
    frames = [item for item in pool.decode(io.BytesIO(media), uri="x", config=config) if isinstance(item, Frame)]
    assert {frame.pixels.shape for frame in frames} == {(48, 32, 3)}
    check_works(pool, media)


def test_errors_carry_the_caller_s_name(pool: DecodePool, media: bytes) -> None:
    before = children_of(pool)
    with pytest.raises(DecodeError, match="not a media file: s3://a/b") as caught:
        list(pool.decode(io.BytesIO(b"hello" * 100), uri="s3://a/b"))
    assert caught.value.uri == "s3://a/b"
    with pytest.raises(LimitExceeded) as limited:
        list(pool.decode(io.BytesIO(media), uri="big", config=replace(CONFIG, max_pixels=99)))
    assert (limited.value.uri, limited.value.limit) == ("big", "max_pixels")
    check_works(pool, media)
    assert children_of(pool) & before or not before  # bad bytes alone do not replace a child


def test_more_inputs_than_children_wait_for_a_free_child(pool: DecodePool, media: bytes) -> None:
    with ThreadPoolExecutor(6) as threads:
        for items in threads.map(lambda _: list(pool.decode(io.BytesIO(media), uri="x")), range(8)):
            assert sum(isinstance(item, Frame) for item in items) == 6
    assert len(children_of(pool)) <= 2


def test_a_consumer_may_stop_early(pool: DecodePool, media: bytes, long_media: bytes) -> None:
    for _ in range(3):
        items = pool.decode(io.BytesIO(long_media), uri="x")
        assert isinstance(next(items), MediaInfo)
        items.close()  # type: ignore[attr-defined]
    check_works(pool, media)


def test_a_slow_consumer_makes_the_child_wait_without_a_timeout(pool: DecodePool, long_media: bytes) -> None:
    config = replace(CONFIG, max_stall_seconds=5.0, input_width=224, input_height=224)
    items = pool.decode(io.BytesIO(long_media), uri="x", config=config)
    next(items)
    time.sleep(config.max_stall_seconds + 1)
    rest = list(items)
    assert isinstance(rest[-1], DecodeSummary)
    assert rest[-1].frame_count == 600


@ON_LINUX
def test_a_killed_child_fails_only_its_input(media: bytes, long_media: bytes) -> None:
    with DecodePool(CONFIG, workers=1) as pool:
        items = pool.decode(io.BytesIO(long_media), uri="victim")
        next(items)
        (pid,) = children_of(pool)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DecoderCrashed, match="signal 9") as caught:
            list(items)
        assert caught.value.uri == "victim"
        check_works(pool, media)
        (pid,) = children_of(pool)
        os.kill(pid, signal.SIGKILL)  # between two inputs
        wait_until(lambda: not is_running(pid))
        check_works(pool, media)


def test_only_a_child_that_is_started_for_photos_decodes_them(media: bytes) -> None:
    photo = encode_picture(draw_quarters(160, 96), "PNG")
    with DecodePool(CONFIG, workers=1) as pool:
        check_works(pool, media)
        first = children_of(pool)
        assert [type(item) for item in pool.decode(io.BytesIO(photo), uri="photo")] == [MediaInfo, Frame, DecodeSummary]
        second = children_of(pool)
        assert first.isdisjoint(second)  # the first has not loaded libheif, and can load nothing any more
        check_works(pool, media)
        assert children_of(pool) == second


def test_a_child_that_hangs_is_ended(media: bytes) -> None:
    reading, writing = os.pipe()  # no bytes ever come
    with DecodePool(CONFIG, workers=1) as pool:
        begin = time.monotonic()
        with pytest.raises(DecoderTimeout, match="max_stall_seconds") as caught:
            list(pool.decode(reading, uri="hang", config=replace(CONFIG, max_stall_seconds=0.5)))
        assert time.monotonic() - begin < HANG_SECONDS
        assert caught.value.uri == "hang"
        check_works(pool, media)
    os.close(reading)
    os.close(writing)


def test_a_child_that_never_ends_is_ended(media: bytes) -> None:
    reading, writing = os.pipe()
    is_done = threading.Event()

    def dribble() -> None:
        while not is_done.wait(0.02):
            os.write(writing, b"\x47" + bytes(187))  # empty transport packets

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        with DecodePool(CONFIG, workers=1) as pool:
            config = replace(CONFIG, max_stall_seconds=2.0, max_wall_seconds=1.0)
            with pytest.raises(DecoderTimeout, match="max_wall_seconds"):
                list(pool.decode(reading, uri="endless", config=config))
            check_works(pool, media)
    finally:
        is_done.set()
        thread.join()
        os.close(reading)
        os.close(writing)


@ON_LINUX
def test_memory_is_limited(media: bytes) -> None:
    width, height = 8192, 4320
    grey = np.full((height, width, 3), 99, dtype=np.uint8)
    big = encode_media(
        format="avi",
        video=Track(
            codec="mjpeg", pix_fmt="yuvj420p", times=times(2, 1), width=width, height=height, picture=lambda _: grey
        ),
    )
    with DecodePool(CONFIG, workers=1) as pool:
        with pytest.raises(LimitExceeded) as caught:
            list(pool.decode(io.BytesIO(big), uri="big", config=replace(CONFIG, max_memory_bytes=120 << 20)))
        assert caught.value.limit == "max_memory_bytes"
        check_works(pool, media)
        assert isinstance(list(pool.decode(io.BytesIO(big), uri="big"))[-1], DecodeSummary)


@ON_LINUX
def test_a_child_can_open_no_file(pool: DecodePool, media: bytes, long_media: bytes) -> None:
    items = pool.decode(io.BytesIO(long_media), uri="x")
    next(items)
    for pid in children_of(pool):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "Max open files            5                    5" in limits
        assert "Max core file size        0                    0" in limits
    assert any(len(os.listdir(f"/proc/{pid}/fd")) == 5 for pid in children_of(pool))
    items.close()  # type: ignore[attr-defined]


def test_playlists_open_nothing(pool: DecodePool, media: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(media)
    for text in (f"ffconcat version 1.0\nfile '{other}'\n", f"#EXTM3U\n#EXTINF:6,\n{other}\n#EXT-X-ENDLIST\n"):
        with pytest.raises(DecodeError):
            list(pool.decode(io.BytesIO(text.encode()), uri="x"))


def test_closing_while_a_child_starts_ends_that_child(media: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecodePool(CONFIG, workers=1)
    started: list[sandbox.ChildProcess] = []

    def start(*options: Any) -> sandbox.ChildProcess:
        child = sandbox.ChildProcess(*options)
        started.append(child)
        pool._is_closed = True  # as by close() in another thread, which did not see the child
        return child

    monkeypatch.setattr("ingest.sandbox.pool.ChildProcess", start)
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.decode(io.BytesIO(media), uri="x"))
    pool.close()
    assert [child.is_alive() for child in started] == [False]


def test_closing_ends_the_children_and_their_decodes(long_media: bytes) -> None:
    pool = DecodePool(CONFIG, workers=1)
    items = pool.decode(io.BytesIO(long_media), uri="x")
    next(items)
    pids = children_of(pool)
    pool.close()
    with pytest.raises(DecoderCrashed):
        list(items)
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.decode(io.BytesIO(long_media), uri="x"))
    assert not children_of(pool)
    if sys.platform == "linux":
        assert not any(is_running(pid) for pid in pids)


ORPHAN_SCRIPT = """
import signal, sys, threading, time
from ingest.config import DecodeConfig
from ingest.sandbox.pool import DecodePool
pool = DecodePool(DecodeConfig(), workers=2)
busy = pool.decode(open(sys.argv[1], "rb"), uri="busy")
next(busy)
stuck = pool.decode(0, uri="stuck")  # a pipe without bytes
threading.Thread(target=lambda: next(stuck), daemon=True).start()
while len(pool._children) < 2 or not all(child._process.stderr.closed for child in pool._children):  # not ready
    time.sleep(0.05)
print(*(child._process.pid for child in pool._children), flush=True)
signal.pause()
"""


@ON_LINUX
def test_no_child_outlives_a_killed_parent(long_media: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(long_media)
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN_SCRIPT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_running(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids))
    parent.stdin.close()
    parent.stdout.close()


FAKE_CHILD = """#!{python}
import os, socket, struct, sys, time
connection = socket.socket(fileno=int(sys.argv[4]))
def send(header, payload=b""):
    connection.sendall(struct.pack(">II", len(header), len(payload)) + header + payload)
{start}
connection.recv(1 << 16)
{answer}
time.sleep(0.2)
"""
READY = """send(b'{"kind": "ready", "missing": {}}')"""
INFO = (
    """send(b'{"kind": "info", "container": "x", "duration_seconds": null, "video_codec": null, "audio_codec": null,"""
    """ "width": null, "height": null, "rotation_degrees": 0, "frame_rate_fps": null}')"""
)


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        ("sys.exit(3)", ""),
        ("""send(b'{"kind": "beat"}')""", ""),
        (READY, "sys.exit(0)"),
        (READY, "send(b'nonsense')"),
        (READY, "send(b'[]')"),
        (READY, "connection.sendall(b'\\xff' * 64)"),
        (READY, """send(b'{"kind": "frame"}')"""),
        (READY, """send(b'{"kind": "other"}')"""),
        (READY, INFO + "\n" + INFO),
        (READY, """send(b'{"kind": "summary", "duration_seconds": NaN}')"""),
        (READY, """send(b'{"kind": "audio", "epoch": 0, "start_seconds": 0}', b'123')"""),
        (
            READY,
            INFO
            + """\nsend(b'{"kind": "frame", "epoch": 0, "pts_seconds": -1}', bytes(64 * 64 * 3) + b'\\xff\\xd8')""",
        ),
        (READY, INFO + """\nsend(b'{"kind": "frame", "epoch": 0, "pts_seconds": 1}', bytes(64 * 64 * 3))"""),
    ],
)
def test_a_child_that_breaks_the_protocol_counts_as_crashed(
    start: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, media: bytes
) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE_CHILD.format(python=sys.executable, start=start, answer=answer))
    fake.chmod(0o755)
    with DecodePool(CONFIG, workers=1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(sandbox.sys, "executable", str(fake))
            with pytest.raises(DecoderCrashed) as caught:
                list(pool.decode(io.BytesIO(media), uri="x"))
        assert caught.value.uri == "x"
        check_works(pool, media)


def test_a_child_that_does_not_start_in_time_counts_as_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, media: bytes
) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE_CHILD.format(python=sys.executable, start="time.sleep(60)", answer=""))
    fake.chmod(0o755)
    monkeypatch.setattr(sandbox.sys, "executable", str(fake))
    monkeypatch.setattr(sandbox, "START_SECONDS", 0.3)
    with DecodePool(CONFIG, workers=1) as pool, pytest.raises(DecoderCrashed, match="did not start"):
        list(pool.decode(io.BytesIO(media), uri="x"))


ITEMS: list[Decoded] = [
    MediaInfo(
        container="mov",
        duration_seconds=None,
        video_codec="h264",
        audio_codec=None,
        width=1,
        height=2,
        rotation_degrees=90,
        frame_rate_fps=25.0,
    ),
    DecodeSummary(
        duration_seconds=1.5,
        epoch_count=1,
        frame_count=2,
        error_count=0,
        truncated=True,
        zero_seconds=-15.0,
        start_seconds=1.25,
        damaged=((0.0, 0.25), (3.0, 4.5)),
    ),
]


@pytest.mark.parametrize("item", ITEMS)
def test_items_survive_the_message_format(item: Decoded) -> None:
    message = protocol.to_message(item)
    fields = json.loads(json.dumps(message.fields))
    assert protocol.from_message(Message(kind=message.kind, fields=fields), CONFIG) == item


@pytest.mark.parametrize("count", [0, -1])
def test_a_pool_without_children_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        DecodePool(CONFIG, workers=count)
