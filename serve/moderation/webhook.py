"""Webhook: a sink that posts each change of a moderation event to a URL, signed, at least once."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from google.protobuf.json_format import MessageToJson

from serve.background import Backoff, Stopped
from serve.codec.events import event_message
from serve.codec.rows import log_unwritable
from serve.errors import SettingsError
from serve.event import Event
from serve.files import private_opener
from serve.moderation.delivery import FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS

logger = logging.getLogger(__name__)

POST_SECONDS = 10.0  # for one post, from connecting to the status line and headers, however slowly bytes come
POLL_SECONDS = 0.1  # between two looks, during a post, at whether the server stops
ATTEMPT_COUNT = 8  # posts of one event, over some two minutes; then it is a dead letter
TEMPORARY_STATUSES = frozenset({408, 425, 429})  # of 4xx: the receiver asks for another try
SECRET_PREFIX = "whsec_"  # of secrets in base64, as the specification writes them
MIN_SECRET_BYTES = 16
DEAD_LETTERS_NAME = "webhook-deadletters.jsonl"  # in the data directory


class Webhook:
    """Posts each change as JSON, signed, and retries. A change that is refused or never taken is a dead letter.

    Source: Standard Webhooks, https://github.com/standard-webhooks/standard-webhooks (headers webhook-id,
    webhook-timestamp, webhook-signature).
    """

    name = "webhook"
    batch_count = 1  # progress is noted after every change, as a receiver may not recognise repeated ids

    def __init__(self, url: str, secret: str, dead_letters: Path, *, post_seconds: float = POST_SECONDS) -> None:
        """Check the URL and the secret; nothing is sent yet. `dead_letters` gets the events never taken, as JSON lines.

        Raises:
            SettingsError: If the URL is invalid, or the secret is too short.
        """
        check_url(url)
        self._url, self._key, self._dead_letters = url, read_secret(secret), dead_letters
        self._post_seconds = post_seconds
        self._tls: ssl.SSLContext | None = None  # made at the first post: it reads the system's certificates

    def begin(self, state: Any) -> None:
        """Do nothing: there is no state."""

    def deliver(self, events: Sequence[Event], wait: Callable[[float], bool]) -> Any:
        """Post each event until it is taken, or becomes a dead letter and lets the next event pass."""
        for event in events:
            self._deliver_event(event, wait)
        return None

    def close(self) -> None:
        """Do nothing: every post has a connection of its own."""

    def _deliver_event(self, event: Event, wait: Callable[[float], bool]) -> None:
        try:
            body = MessageToJson(event_message(event), indent=None, always_print_fields_with_no_presence=True).encode()
        except (ValueError, OverflowError) as error:  # no message can carry it: the next events pass
            log_unwritable(event, error)
            return
        backoff = Backoff(FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS)
        for attempt in range(1, ATTEMPT_COUNT + 1):
            reason, is_final = self._post(f"{event.event_id}-{event.revision}", body, wait)
            if not reason:
                return
            logger.warning("webhook failed event_id=%s attempt=%d reason=%s", event.event_id, attempt, reason)
            if is_final or attempt == ATTEMPT_COUNT:
                break
            if wait(backoff.next_seconds()):
                raise Stopped
        logger.error("event is a dead letter event_id=%s file=%s", event.event_id, self._dead_letters)
        with open(self._dead_letters, "a", encoding="utf-8", opener=private_opener) as file:
            file.write(json.dumps({"time": time.time(), "reason": reason, "event": json.loads(body)}) + "\n")

    def _post(self, message_id: str, body: bytes, wait: Callable[[float], bool]) -> tuple[str, bool]:
        """Post once.

        Returns:
            Why the receiver did not take it (empty: it did), and whether that is final.
        Raises:
            Stopped: If the server stops meanwhile.
        """
        import httpx2  # here, as it takes a fifth of a second

        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "connection": "close",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._key, message_id, timestamp, body),
        }
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # leaves the thread's own loop alone
                status = runner.run(self._post_until_stopped(headers, body, wait))
        except TimeoutError:
            return f"no answer within {self._post_seconds:g} s", False
        # ValueError: the proxy is no URL. ImportError: it is a SOCKS proxy, which needs another package.
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError) as error:
            return _reason_of(error), False
        if 200 <= status < 300:
            return "", True
        return f"HTTP {status}", 300 <= status < 500 and status not in TEMPORARY_STATUSES

    async def _post_until_stopped(self, headers: dict[str, str], body: bytes, wait: Callable[[float], bool]) -> int:
        """Return the status of the answer; TimeoutError after POST_SECONDS, Stopped as soon as the server stops."""
        async with asyncio.timeout(self._post_seconds):
            post = asyncio.create_task(self._send(headers, body))
            try:
                while not post.done():
                    if wait(0.0):
                        raise Stopped
                    await asyncio.wait({post}, timeout=POLL_SECONDS)
                return post.result()
            finally:
                post.cancel()
                await asyncio.gather(post, return_exceptions=True)

    async def _send(self, headers: dict[str, str], body: bytes) -> int:
        """Send one request; return the status. The answer's body is not read, and redirects are not followed."""
        import httpx2

        connections: list[Any] = []

        async def note_connection(event: str, details: dict[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                connections.append(details["return_value"])

        self._tls = self._tls or ssl.create_default_context()
        client = httpx2.AsyncClient(
            verify=self._tls, proxy=proxy_for(self._url), trust_env=False, timeout=None, follow_redirects=False
        )
        request = client.build_request("POST", self._url, headers=headers, content=body)
        request.extensions["trace"] = note_connection
        try:
            async with client:
                response = await client.send(request, stream=True)
                await response.aclose()
            return response.status_code
        finally:
            for connection in connections:  # httpcore2 leaves it open if a TLS handshake is cancelled
                await connection.aclose()


def proxy_for(url: str) -> str | None:
    """Return the proxy for a URL: HTTP_PROXY or HTTPS_PROXY of the environment, unless NO_PROXY holds the host.

    httpx2 would also read ALL_PROXY, and then fail at a SOCKS proxy that is meant for other programs.
    """
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _reason_of(error: BaseException) -> str:
    """Return the text of the innermost cause: "[Errno 111] ..." rather than "All connection attempts failed"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__


def check_url(url: str) -> None:
    """Make sure that a URL can be posted to. Errors do not quote it, as it may hold a secret.

    Raises:
        SettingsError: If it cannot.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"server.webhook_url is not a URL: {error}") from error
    problem = ""
    if parts.scheme not in ("http", "https"):
        problem = "must be http:// or https://"
    elif not parts.hostname or port == 0:
        problem = "must name a host, and no port or a port from 1 to 65535"
    elif parts.username is not None:
        problem = "must not hold a user: requests are signed instead"
    elif not url.isascii() or not url.isprintable() or " " in url:
        problem = "must be of ASCII characters without spaces: write others as %C3%A9, and hosts as xn--..."
    if problem:
        raise SettingsError(f"server.webhook_url {problem}")


def read_secret(secret: str) -> bytes:
    """Return the key of a secret: whsec_ and base64, or any text.

    Raises:
        SettingsError: If it is too short, or not base64 after whsec_.
    """
    try:
        key = (
            base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
            if secret.startswith(SECRET_PREFIX)
            else secret.encode()
        )
    except binascii.Error as error:
        raise SettingsError(f"server.webhook_secret is not {SECRET_PREFIX} and base64") from error
    if len(key) < MIN_SECRET_BYTES:
        raise SettingsError(f"server.webhook_secret must have at least {MIN_SECRET_BYTES} bytes, got {len(key)}")
    return key


def signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the value of the header webhook-signature."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
