"""`kinodex publish`: publish_stream sends the chunks of a source to Kafka in order, publish_file a whole file's URI."""

import contextlib
import os
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from rich.console import Console

from ingest.errors import BrokerUnavailable, DecodeError, SourceError, SourceNotFound
from ingest.kafka import Delivery, Producer, Topics
from ingest.source.source import check_policy, display_uri, scheme_of
from ingest.stream.chunker import ChunkHooks, cut_chunks
from ingest.values import Chunk
from serve.codec.records import Source, chunk_bytes, source_bytes, video_key
from serve.errors import SettingsError
from serve.settings import Settings
from serve.text import clock, plural, printable, to_json

MAX_UNACKNOWLEDGED = 16  # chunks on their way to the broker: bounds memory, and keeps the order
WAIT_SECONDS = 0.5  # how long to wait for the broker before the next check for a stop
STOP_SECONDS = 10.0  # after a stop: how long to wait for a broker that is away
CLOSE_SECONDS = 1.0  # to close the connection: by then every record is delivered or given up
MILLISECONDS = 1000  # in a second: a session's number is its start time in milliseconds
CLOCK_SLACK_SECONDS = 5.0  # a clock that is this wrong is used as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRecord:
    """A record that the broker has acknowledged. Field names are those of the JSON output."""

    sequence: int
    byte_count: int
    end_of_stream: bool


class Publisher:
    """Sends one stream. Nothing is lost while the broker is away for up to kafka.delivery_timeout_seconds."""

    def __init__(
        self,
        settings: Settings,
        *,
        collection: str,
        stream_id: str,
        report: Callable[[SentRecord], None],
        note: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        """Connect.

        Args:
            report: Called with each record that the broker has acknowledged.
            note: Called with a line if this machine's clock is wrong.
            stop: Once it is set, the wait for a broker that is away ends after STOP_SECONDS.
        Raises:
            BrokerUnavailable: If no broker answers.
        """
        self._producer = Producer(settings.kafka)
        self._topic = Topics(settings.kafka.topic_prefix).chunks
        self._key = video_key(collection, stream_id)
        self._config = settings.kafka
        self._report, self._note, self._stop = report, note, stop
        self._stopped_at: float | None = None
        self._session: int | None = None  # None: before the first chunk
        self._clock_lead_seconds = 0.0  # of this machine's clock ahead of the brokers'; 0: about right
        self._sent: deque[tuple[SentRecord, Delivery]] = deque()

    def send(self, chunk: Chunk) -> None:
        """Send the next chunk as a part of this publisher's session; wait while too many are on their way.

        Raises:
            BrokerUnavailable: If a chunk could not be delivered.
        """
        if self._session is None:
            self._session = self._open_session()
        start_time = None if chunk.start_time is None else chunk.start_time - self._clock_lead_seconds
        chunk = replace(chunk, session=self._session, start_time=start_time)
        data = chunk_bytes(chunk)
        sent = SentRecord(sequence=chunk.sequence, byte_count=len(data), end_of_stream=chunk.end_of_stream)
        self._sent.append((sent, self._producer.send(self._topic, self._key, data)))
        self._await_acknowledged(MAX_UNACKNOWLEDGED)

    def _open_session(self) -> int:
        """Let the stream's sessions begin anew; return the number of this one: the brokers' time in milliseconds.

        So neither this machine's clock nor that of an earlier publisher can make the workers refuse the chunks.
        """
        asked_at = time.time()
        delivery = self._producer.send(self._topic, self._key, None)
        while not delivery.wait(WAIT_SECONDS):
            self._check_patience(1)
        if delivery.append_seconds is None:
            raise delivery.error or BrokerUnavailable(self._config.servers, "no time of the append")
        lead_seconds = asked_at - delivery.append_seconds
        if not -CLOCK_SLACK_SECONDS - (time.time() - asked_at) <= lead_seconds <= CLOCK_SLACK_SECONDS:
            self._clock_lead_seconds = lead_seconds
            self._note(
                f"this machine's clock is {abs(lead_seconds):.0f} s {'ahead of' if lead_seconds > 0 else 'behind'} the"
                " brokers': the stream is dated by theirs"
            )
        return round(delivery.append_seconds * MILLISECONDS)

    def finish(self) -> None:
        """Wait until the broker has acknowledged every chunk.

        Raises:
            BrokerUnavailable: If a chunk could not be delivered.
        """
        self._await_acknowledged(0)

    def close(self) -> None:
        self._producer.close(CLOSE_SECONDS)

    def _await_acknowledged(self, max_count: int) -> None:
        """Wait until at most `max_count` chunks are not acknowledged."""
        while self._sent:
            sent, delivery = self._sent[0]
            if not delivery.is_done and len(self._sent) <= max_count:
                return
            if not delivery.wait(WAIT_SECONDS):
                self._check_patience(len(self._sent))
                continue
            if delivery.error is not None:
                raise delivery.error
            self._sent.popleft()
            self._report(sent)

    def _check_patience(self, waiting_count: int) -> None:
        if not self._stop.is_set():
            return
        now = time.monotonic()
        self._stopped_at = self._stopped_at or now
        if now - self._stopped_at > STOP_SECONDS:
            lost = plural(waiting_count, "record")
            raise BrokerUnavailable(self._config.servers, f"{lost} not delivered within {STOP_SECONDS:g} s of the stop")


def publish_stream(
    settings: Settings, source: str, *, collection: str, stream_id: str, realtime: bool, as_json: bool
) -> None:
    """Send a source as a stream until the source ends, or until SIGTERM or SIGINT.

    Raises:
        SettingsError: If the collection or the stream has an invalid name.
        BrokerUnavailable: If no broker answers at the start or for kafka.delivery_timeout_seconds.
        SourceError, DecodeError: If the source cannot be opened or read.
    """
    check_names(collection, stream_id)
    stop = threading.Event()

    def end(number: int, frame: types.FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C: end without waiting for the broker
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with contextlib.ExitStack() as stack:
        display = PublishDisplay(as_json=as_json, name=f"{collection}/{stream_id}")
        stack.callback(display.close)
        publisher = Publisher(
            settings, collection=collection, stream_id=stream_id, report=display.show_sent, note=display.note, stop=stop
        )
        stack.callback(publisher.close)
        stack.enter_context(deliver_at_exit(publisher))
        for chunk in cut_chunks(
            source,
            collection=collection,
            stream_id=stream_id,
            session=0,  # the publisher numbers it
            config=replace(settings.publish, realtime=realtime),
            stop=stop,
            hooks=ChunkHooks(notes=display.note, progress=display.advance),
        ):
            publisher.send(chunk)


@contextlib.contextmanager
def deliver_at_exit(publisher: Publisher) -> Iterator[None]:
    """Wait for the delivery of every chunk at the end. If the source failed, raise its error and no other."""
    try:
        yield
    except (SourceError, DecodeError):
        with contextlib.suppress(BrokerUnavailable):
            publisher.finish()
        raise
    publisher.finish()


def publish_file(settings: Settings, source: str, *, collection: str, video_id: str) -> None:
    """Send the URI of a whole file; of a path, its file: URI.

    Raises:
        SettingsError: If the collection or the video has an invalid name.
        SourceNotFound: If there is no file of that path.
        SourceRefused: If the source is a URI that workers do not read.
        BrokerUnavailable: If the record is not delivered.
    """
    check_names(collection, video_id)
    is_path = scheme_of(source) is None
    if is_path:
        if not os.path.isfile(source):
            raise SourceNotFound(display_uri(source), "no such file", "check the path")
        source = Path(os.path.abspath(source)).as_uri()
    check_policy(source, replace(settings.source, hosts=("*",), file_roots=("/",)))  # the worker's own policy decides
    producer = Producer(settings.kafka)
    try:
        record = Source(collection=collection, video_id=video_id, uri=source)
        topic = Topics(settings.kafka.topic_prefix).sources
        delivery = producer.send(topic, video_key(collection, video_id), source_bytes(record))
        while not delivery.wait(WAIT_SECONDS):  # ends by kafka.delivery_timeout_seconds
            pass
        if delivery.error is not None:
            raise delivery.error
    finally:
        producer.close()
    line = f"sent {display_uri(source)} as {collection}/{video_id}"
    if is_path:
        line += ": workers read it if they have the same path below their source.file_roots"
    Console(stderr=True).print(line, highlight=False, soft_wrap=True)


def check_names(collection: str, stream_id: str) -> None:
    """Check the names of a collection and of a stream or video.

    Raises:
        SettingsError: If a name is invalid.
    """
    try:
        Chunk(collection=collection, stream_id=stream_id, session=0, sequence=0, end_of_stream=True)
    except ValueError as error:
        raise SettingsError(str(error)) from error


class PublishDisplay:
    """Shows progress: one changing line on a terminal, JSON lines, or a line every few seconds in a log."""

    LINE_SECONDS = 10.0  # between two lines in a log

    def __init__(self, *, as_json: bool, name: str) -> None:
        self._as_json, self._name = as_json, name
        self._console = Console(stderr=True)
        self._status = self._console.status(f"{name}: connecting") if self._console.is_terminal else None
        if self._status is not None:
            self._status.start()
        self._media_seconds = 0.0
        self._count = self._bytes = 0
        self._printed_at = time.monotonic()

    def advance(self, media_seconds: float, chunk_count: int, byte_count: int) -> None:
        self._media_seconds = media_seconds

    def show_sent(self, sent: SentRecord) -> None:
        self._count += not sent.end_of_stream
        self._bytes += sent.byte_count
        if self._as_json:
            click.echo(to_json({"stream": self._name, **asdict(sent)}))
            sys.stdout.flush()
        if self._status is not None:
            self._status.update(self._summary())
        elif not self._as_json and time.monotonic() - self._printed_at >= self.LINE_SECONDS:
            self._printed_at = time.monotonic()
            self._console.print(self._summary(), highlight=False)

    def note(self, line: str) -> None:
        self._console.print(f"{self._name}: {printable(line)}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
        self._console.print(self._summary(), highlight=False)

    def _summary(self) -> str:
        size = f"{self._bytes / 1e6:.1f} MB"
        return f"{self._name}: {plural(self._count, 'chunk')}, {clock(self._media_seconds)}, {size} sent"
