"""A webhook that is told of moderation events: half of those who want them have no Kafka."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToJson

from serve.codec.events import event_message
from serve.errors import SettingsError
from serve.event import Event
from serve.moderation.delivery import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS, Stopped

logger = logging.getLogger(__name__)

WEBHOOK_SECONDS = 10.0  # for an answer
ATTEMPT_COUNT = 8  # of one event, over some two minutes; then it is a dead letter
REFUSALS_THAT_PASS = frozenset({408, 425, 429})  # of 4xx: come back later
SECRET_PREFIX = "whsec_"  # of secrets in base64, as the specification writes them
LEAST_SECRET_BYTES = 16
DEAD_LETTERS_NAME = "webhook-deadletters.jsonl"  # in the data directory


class Webhook:
    """An HTTP server that is sent each change, as JSON, signed.

    Source: Standard Webhooks, https://github.com/standard-webhooks/standard-webhooks (headers webhook-id,
    webhook-timestamp, webhook-signature).
    """

    name = "webhook"
    batch_count = 1  # what was taken is noted at once: whoever gets it twice may not look at its id

    def __init__(self, url: str, secret: str, dead_letters: Path) -> None:
        """Take where to send to.

        Args:
            dead_letters: A file that gets what was refused, or not taken in time: a JSON object a line.
        Raises:
            SettingsError: If the URL is none, or the secret too short to keep anybody out.
        """
        check_url(url)
        self.url, self.key, self.dead_letters = url, webhook_key(secret), dead_letters
        self._lifeline = _Lifeline()
        self._opener = urllib.request.build_opener(_NoRedirects(), _Held(self._lifeline))

    def begin(self, state: Any) -> None:
        """There is nothing to go on from."""

    def tell(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Post each until it is taken; what never is becomes a dead letter, so that the others are."""
        for event in events:
            self._deliver(event, wait)
        return None

    def close(self) -> None:
        """There is nothing to let go of."""

    def _deliver(self, event: Event, wait: Callable[[float], bool]) -> None:
        body = MessageToJson(event_message(event), indent=None, always_print_fields_with_no_presence=True).encode()
        backoff_seconds = FIRST_BACKOFF_SECONDS
        for attempt in range(1, ATTEMPT_COUNT + 1):
            reason, is_final = self._post(f"{event.event_id}-{event.revision}", body)
            if not reason:
                return
            logger.warning("webhook failed event_id=%s attempt=%d reason=%s", event.event_id, attempt, reason)
            if is_final or attempt == ATTEMPT_COUNT:
                break
            if wait(backoff_seconds):
                raise Stopped
            backoff_seconds = min(LAST_BACKOFF_SECONDS, 2 * backoff_seconds)
        logger.error("event is a dead letter event_id=%s file=%s", event.event_id, self.dead_letters)
        with self.dead_letters.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "reason": reason, "event": json.loads(body)}) + "\n")

    def _post(self, message_id: str, body: bytes) -> tuple[str, bool]:
        """Send once; return why it was not taken, empty if it was, and whether another time is of no use."""
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self.key, message_id, timestamp, body),
        }
        try:
            request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
            with self._lifeline.cut_after(WEBHOOK_SECONDS), self._opener.open(request, timeout=WEBHOOK_SECONDS):
                if self._lifeline.is_cut:  # a half answer looks like a whole one
                    raise TimeoutError
                return "", True
        except urllib.error.HTTPError as error:
            error.close()
            is_final = 300 <= error.code < 500 and error.code not in REFUSALS_THAT_PASS
            return f"HTTP {error.code}", is_final
        except (OSError, http.client.HTTPException) as error:
            if self._lifeline.is_cut or isinstance(getattr(error, "reason", error), TimeoutError):  # whichever is first
                return f"no answer within {WEBHOOK_SECONDS:g} s", False
            return str(error) or type(error).__name__, False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is signed for one address is not sent to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def check_url(url: str) -> None:
    """Make sure that something can be sent to a URL, which may be a secret and is not shown.

    Raises:
        SettingsError: If nothing can.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"server.webhook_url is no URL: {error}") from error
    wrong = ""
    if parts.scheme not in ("http", "https"):
        wrong = "must be http:// or https://"
    elif not parts.hostname or port == 0:
        wrong = "must name a host, and no port or one from 1 to 65535"
    elif parts.username is not None:
        wrong = "must not hold a user: what is sent is signed"
    elif not url.isascii() or not url.isprintable() or " " in url:
        wrong = "must be of ASCII characters without spaces: write others as %C3%A9, and hosts as xn--..."
    if wrong:
        raise SettingsError(f"server.webhook_url {wrong}")


class _Lifeline:
    """The connection that is in use, which is cut when its time is over.

    A socket's own timeout is for each piece that comes: whoever sends a byte now and then would never be over.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # of all below
        self.socket: socket.socket | None = None  # a duplicate: whoever wraps or closes the connection does not mind
        self.is_cut = False

    @contextlib.contextmanager
    def cut_after(self, seconds: float) -> Iterator[None]:
        """Cut the connection that is made meanwhile after so many seconds."""
        self.is_cut = False
        timer = threading.Timer(seconds, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            self._take(None)

    def hold(self, connected: socket.socket) -> None:
        """Take a connection; one that comes too late is cut at once."""
        self._take(connected.dup())
        if self.is_cut:
            self.cut()

    def cut(self) -> None:
        """End the connection: whoever reads from it reads no more."""
        with self.lock:
            self.is_cut = True
            if self.socket is not None:
                with contextlib.suppress(OSError):  # the other end was faster
                    self.socket.shutdown(socket.SHUT_RDWR)

    def _take(self, connected: socket.socket | None) -> None:
        with self.lock:
            before, self.socket = self.socket, connected
        if before is not None:
            before.close()


class _Connection(http.client.HTTPConnection):
    """A connection that is held by a lifeline as soon as there is one, before TLS begins."""

    lifeline: _Lifeline

    def connect(self) -> None:
        super().connect()
        self.lifeline.hold(self.sock)


class _TlsConnection(http.client.HTTPSConnection, _Connection):
    """The same with TLS: HTTPSConnection makes its connection by what comes next, then wraps it."""


class _Held(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http: and https: with a lifeline."""

    def __init__(self, lifeline: _Lifeline) -> None:
        super().__init__()
        self.lifeline = lifeline

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._maker(_Connection), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._maker(_TlsConnection), request)

    def _maker(self, kind: type[_Connection]) -> Callable[..., _Connection]:
        def make(*arguments: Any, **named: Any) -> _Connection:
            made = kind(*arguments, **named)
            made.lifeline = self.lifeline
            return made

        return make


def webhook_key(secret: str) -> bytes:
    """Read a secret: whsec_ and base64, or any text.

    Raises:
        SettingsError: If it is too short, or no base64.
    """
    try:
        key = (
            base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
            if secret.startswith(SECRET_PREFIX)
            else secret.encode()
        )
    except binascii.Error as error:
        raise SettingsError(f"server.webhook_secret is not {SECRET_PREFIX} and base64") from error
    if len(key) < LEAST_SECRET_BYTES:
        raise SettingsError(f"server.webhook_secret must have at least {LEAST_SECRET_BYTES} bytes, got {len(key)}")
    return key


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the value of webhook-signature."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
