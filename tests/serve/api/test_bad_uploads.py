"""Uploads and URIs of videos that are wrong, sent over the wire to a real server, and what it answers."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import grpc
import pytest

from kinodex.v1 import library_service_pb2 as library_pb2
from kinodex.v1.library_service_pb2_grpc import LibraryServiceStub
from support.bad_requests import (
    CHANNEL_OPTIONS,
    INVALID,
    MAX_UPLOAD_BYTES,
    REFUSED,
    TOO_LARGE,
    Bad,
    Outcome,
    World,
    check_refusal,
)
from support.bad_requests import world as world
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.slow


def header(filename: str = "new.mp4", **fields: Any) -> library_pb2.UploadVideoRequest:
    return library_pb2.UploadVideoRequest(header=library_pb2.UploadHeader(filename=filename, **fields))


def data(content: bytes) -> library_pb2.UploadVideoRequest:
    return library_pb2.UploadVideoRequest(data=content)


class Waiting:
    """Messages of an upload, and then none, until it is over."""

    def __init__(self, *messages: library_pb2.UploadVideoRequest) -> None:
        self.messages, self.is_over = messages, threading.Event()

    def __iter__(self) -> Iterator[library_pb2.UploadVideoRequest]:
        yield from self.messages
        self.is_over.wait(HANG_SECONDS)


def stalled(world: World) -> Any:
    messages = Waiting(header(), data(b"beginning"))
    try:
        with patch.object(world.running.server.library_service, "max_stall_seconds", 0.3):
            return world.upload(messages)
    finally:
        messages.is_over.set()


class Relay:
    """One connection to a server, which can break."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends = [socket.create_connection((host, int(port)))]
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        self.ends.append(self.listener.accept()[0])
        self.listener.close()
        for one, other in (self.ends, self.ends[::-1]):
            self.threads.append(threading.Thread(target=self.pump, args=(one, other)))
            self.threads[-1].start()

    def pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        for thread in self.threads:
            thread.join()
        for end in self.ends:
            end.close()


def cut_off(world: World, library: LibraryServiceStub, cut: Callable[[Any], None]) -> Any:
    """Send the beginning of an upload and then cut it off; nothing may be left of it."""
    messages, before = Waiting(header(), data(b"beginning")), world.list_videos()
    call = library.UploadVideo.future(iter(messages), timeout=HANG_SECONDS)
    try:
        wait_until(lambda: any((world.directory / "uploads" / name).stat().st_size for name in world.uploads))
        cut(call)
        wait_until(lambda: not world.uploads)
    finally:
        messages.is_over.set()
    assert world.list_videos() == before
    return Outcome(code=call.code().name)


def cancelled_upload(world: World) -> Any:
    return cut_off(world, world.library, lambda call: call.cancel())


def spool_full(world: World) -> Any:
    with patch.object(world.running.server.library_service.spool, "max_spool_bytes", 10):
        return world.upload([header(), data(bytes(1000))])


def text_file(world: World) -> Any:
    content = b"These are words, and no pictures.\n" * 20
    return world.index_all(world.upload([header("letter.txt", video_id="letter"), data(content)]))


def reused(world: World) -> Any:
    uri = f"file://{world.settings.source.file_roots[0]}/film.mp4"
    world.ingest(uri, video_id="once", request_id="retry-1")
    try:
        return world.ingest(uri, video_id="twice", request_id="retry-1")
    finally:
        world.get("DeleteVideo", "once")


def metadata_service(world: World) -> Any:
    return world.index_all(world.ingest("http://169.254.169.254/latest/meta-data/"))


UPLOADS: list[Bad] = [
    # ---- ingest
    Bad("ingest of nothing", lambda w: w.ingest(""), *INVALID, "uri: is required"),
    Bad(
        "ingest of /etc/passwd",
        lambda w: w.ingest("/etc/passwd"),
        *INVALID,
        "uri: is not a URI, such as https://example.org/video.mp4",
    ),
    Bad(
        "ingest of a file outside file_roots",
        lambda w: w.ingest("file:///etc/passwd"),
        *REFUSED,
        "outside the allowed folders: file:///etc/passwd (list its folder in source.file_roots)",
    ),
    Bad(
        "ingest of a file behind ..",
        lambda w: w.ingest(f"file://{w.settings.source.file_roots[0]}/../../../etc/passwd"),
        *REFUSED,
        "outside the allowed folders: file:///films/../../../etc/passwd (list its folder in source.file_roots)",
    ),
    Bad(
        "ingest over ftp:",
        lambda w: w.ingest("ftp://example.org/film.mp4"),
        *REFUSED,
        "not a URI of a supported scheme: ftp://example.org/film.mp4 (use one of http, https, file)",
    ),
    Bad(
        "ingest over gopher:",
        lambda w: w.ingest("gopher://example.org/film.mp4"),
        *REFUSED,
        "not a URI of a supported scheme: gopher://example.org/film.mp4 (use one of http, https, file)",
    ),
    Bad(
        "ingest of javascript:",
        lambda w: w.ingest("javascript:alert(1)"),
        *REFUSED,
        "not a URI of a supported scheme: javascript:alert(1) (use one of http, https, file)",
    ),
    Bad(
        "ingest of data:",
        lambda w: w.ingest("data:video/mp4;base64,AAAA"),
        *REFUSED,
        "not a URI of a supported scheme: data:video/mp4;base64,AAAA (use one of http, https, file)",
    ),
    Bad(
        "ingest of http: without a host",
        lambda w: w.ingest("http:///film.mp4"),
        *REFUSED,
        "not a valid http or https URL: http:///film.mp4 (check its spelling)",
    ),
    Bad(
        "a URI with a line break",
        lambda w: w.ingest("https://example.org/film\r\nHost: other"),
        *INVALID,
        "uri: is not a URI, such as https://example.org/video.mp4",
    ),
    Bad(
        "a URI of 8,193 characters",
        lambda w: w.ingest("https://example.org/" + "a" * 8173),
        *INVALID,
        "uri: must be at most 8,192 characters, got 8,193",
    ),
    Bad(
        "ingest of a cloud's metadata service",
        metadata_service,
        "FAILED",
        "SOURCE_REFUSED",
        "the host 169.254.169.254 does not exist, or its address is not public: "
        "http://169.254.169.254/latest/meta-data/ (check its spelling, or list its network in private_networks)",
    ),
    Bad(
        "a video_id with a slash",
        lambda w: w.ingest("https://example.org/a", video_id="../x"),
        *INVALID,
        'video_id: must be letters, digits, ".", "_" and "-", at most 128',
    ),
    Bad(
        "a video_id of two dots",
        lambda w: w.ingest("https://example.org/a", video_id=".."),
        *INVALID,
        'video_id: must be letters, digits, ".", "_" and "-", at most 128',
    ),
    Bad(
        "a collection with a blank",
        lambda w: w.ingest("https://example.org/a", collection="my films"),
        *INVALID,
        'collection: must be letters, digits, ".", "_" and "-", at most 64',
    ),
    Bad(
        "metadata of 65 keys",
        lambda w: w.ingest("https://example.org/a", metadata={str(n): "" for n in range(65)}),
        *INVALID,
        "metadata: must have at most 64 keys, got 65",
    ),
    Bad(
        "a request_id of another request",
        reused,
        "INVALID_ARGUMENT",
        "REQUEST_ID_REUSED",
        "request_id retry-1 was used for another request",
    ),
    # ---- uploads
    Bad("an upload without a message", lambda w: w.upload([]), *INVALID, "header: is required, and comes first"),
    Bad(
        "an upload without a header",
        lambda w: w.upload([data(b"film")]),
        *INVALID,
        "header: is required, and comes first",
    ),
    Bad(
        "an upload with an empty message",
        lambda w: w.upload([header(), library_pb2.UploadVideoRequest()]),
        *INVALID,
        "data: is required in every message after the first",
    ),
    Bad(
        "an upload with two headers",
        lambda w: w.upload([header(), header(), data(b"film")]),
        *INVALID,
        "data: is required in every message after the first",
    ),
    Bad(
        "a filename that is a path",
        lambda w: w.upload([header("../../etc/passwd"), data(b"film")]),
        *INVALID,
        "header.filename: must be a name, not a path",
    ),
    Bad(
        "a block above 1 MiB",
        lambda w: w.upload([header(), data(bytes((1 << 20) + 1))]),
        *INVALID,
        "data: must be at most 1048576 bytes",
    ),
    Bad(
        "an invalid checksum",
        lambda w: w.upload([header(sha256="beef"), data(b"film")]),
        *INVALID,
        "header.sha256: must be 64 hexadecimal digits",
    ),
    Bad(
        "an upload with another checksum",
        lambda w: w.upload([header(sha256=hashlib.sha256(b"").hexdigest()), data(b"film")]),
        "DATA_LOSS",
        "UPLOAD_CORRUPT",
        "the upload of new.mp4 was damaged on its way, its SHA-256 differs: send it again",
    ),
    Bad(
        "an upload of another length",
        lambda w: w.upload([header(size_bytes=5), data(b"film")]),
        "DATA_LOSS",
        "UPLOAD_CORRUPT",
        "the upload of new.mp4 was damaged on its way, 4 of 5 bytes arrived: send it again",
    ),
    Bad(
        "an upload of no bytes",
        lambda w: w.upload([header()]),
        "INVALID_ARGUMENT",
        "SOURCE_UNREADABLE",
        "empty file: upload:new.mp4",
    ),
    Bad(
        "an upload announced above max_upload_bytes",
        lambda w: w.upload([header(size_bytes=MAX_UPLOAD_BYTES + 1)]),
        *TOO_LARGE,
        "more than 100000 bytes: upload:new.mp4 (the limit is the setting max_upload_bytes)",
    ),
    Bad(
        "an upload that grows above max_upload_bytes",
        lambda w: w.upload([header(), *[data(bytes(60_000))] * 2]),
        *TOO_LARGE,
        "more than 100000 bytes: upload:new.mp4 (the limit is the setting max_upload_bytes)",
    ),
    Bad(
        "an upload when the spool is full",
        spool_full,
        "RESOURCE_EXHAUSTED",
        "SPOOL_FULL",
        "the server has no room now (max_spool_bytes): come back when other videos are indexed or deleted",
    ),
    Bad(
        "an upload that stalls",
        stalled,
        "DEADLINE_EXCEEDED",
        "UPLOAD_STALLED",
        "the upload of new.mp4 sent nothing for 0.3 s: send it again",
    ),
    Bad("an upload that is cancelled", cancelled_upload, "CANCELLED"),
    Bad("an upload of a text file", text_file, "FAILED", "DECODE_ERROR", "not a media file: upload:letter.txt"),
]


@pytest.mark.parametrize("row", UPLOADS, ids=lambda row: row.request)
def test_says_what_is_wrong_with_a_new_video_and_goes_on(row: Bad, world: World) -> None:
    check_refusal(row, world)


def test_half_a_file_is_no_upload_when_the_connection_breaks(world: World) -> None:
    with (
        Relay(world.running.address) as relay,
        grpc.insecure_channel(relay.address, CHANNEL_OPTIONS) as channel,
    ):
        assert cut_off(world, LibraryServiceStub(channel), lambda call: relay.close()).code == "UNAVAILABLE"
    assert world.answers()
