"""The ModerationService: the policies in force, and what they find."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kinodex.v1 import moderation_service_pb2, moderation_service_pb2_grpc
from kinodex.v1 import moderation_service_pb2 as moderation
from serve.api.access import Access
from serve.api.interceptor import current_principal
from serve.api.pages import PageSigner, binding
from serve.api.tokens import Principal
from serve.api.workers import Workers
from serve.catalog.events import EventLog, Place, place_of
from serve.codec.events import event_filter, event_message
from serve.codec.fields import (
    duration_message,
)
from serve.codec.violations import Violations
from serve.errors import PageTokenInvalid, PolicyInvalid, ResumeTokenExpired, ServerNotReady
from serve.event import Event, EventChange, EventFilter
from serve.moderation.policies import Policy
from serve.moderation.policy_file import ActivePolicies

DEFAULT_EVENT_COUNT, MAX_EVENT_COUNT = 100, 1000  # on a page
READ_COUNT = 500  # changes read at once for one who watches
POLL_SECONDS = 2.0  # between two looks at the catalog, where another process may have written
HEARTBEAT_SECONDS = 30.0  # without an event, until a newer token is sent
STOP_RETRY_SECONDS = 1.0


class News:
    """Wakes those who wait for changes. All of it on one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """What the next tell() sets. Take it before looking, so that nothing comes between."""
        return self._event


@dataclass(slots=True)
class _Cursor:
    """How far one who watches was told."""

    identity: str  # of the catalog
    sequence: int  # of the last change


class ModerationService(moderation_service_pb2_grpc.ModerationServiceServicer):
    """Tells callers of the events of what they may read."""

    def __init__(
        self,
        log: EventLog,
        policies: Callable[[], ActivePolicies],
        access: Access,
        workers: Workers,
        signer: PageSigner,
    ) -> None:
        """Take what answers.

        Args:
            log: Of a catalog that is open for reading.
        """
        self.log, self.policies, self.access, self.workers, self.signer = log, policies, access, workers, signer
        self.news = News()
        self.is_stopping = False

    def stop(self) -> None:
        """End the calls that watch. On the event loop."""
        self.is_stopping = True
        self.news.tell()

    async def ListPolicies(
        self, request: moderation.ListPoliciesRequest, context: Any
    ) -> moderation.ListPoliciesResponse:
        held, readable = self.policies(), self.access.readable_collections(current_principal(), None)
        response = moderation.ListPoliciesResponse(refused=refused(held.mistake, is_whole=readable is None))
        if held.policies is not None:
            response.version = held.policies.version
            response.policies.extend(policy_message(policy) for policy in narrowed(held.policies.policies, readable))
        return response

    async def ListEvents(self, request: moderation.ListEventsRequest, context: Any) -> moderation.ListEventsResponse:
        principal, wrong = current_principal(), Violations()
        wanted = event_filter(wrong, request.filter)
        page_size = wrong.page_size(request.page_size, DEFAULT_EVENT_COUNT, MAX_EVENT_COUNT)
        wrong.check()
        bound_to = binding(principal.scope, "ListEvents", request)
        after: Place | None = None
        if request.page_token:
            held = self.signer.verify(request.page_token, binding=bound_to)
            if held.keys() != {"after"}:
                raise PageTokenInvalid
            collection, video_id, start_seconds, event_id = held["after"]
            after = (collection, video_id, start_seconds, event_id)

        def work(check: Callable[[], None]) -> list[Event]:
            return self.log.page(self.readable(principal, wanted), after, page_size + 1, check)

        found: list[Event] = await self.workers.run(work)
        page = found[:page_size]
        token = self.signer.sign({"after": place_of(page[-1])}, binding=bound_to) if len(found) > len(page) else ""
        return moderation.ListEventsResponse(events=[event_message(one) for one in page], next_page_token=token)

    async def WatchEvents(
        self, request: moderation.WatchEventsRequest, context: Any
    ) -> AsyncIterator[moderation.WatchEventsResponse]:
        principal, wrong = current_principal(), Violations()
        wanted = event_filter(wrong, request.filter)
        wrong.check()
        bound_to = binding(principal.scope, "WatchEvents", request)
        wanted, cursor = await self.workers.run(lambda check: self.begin(request, principal, wanted, bound_to))

        def response(event: Event | None) -> moderation.WatchEventsResponse:
            token = self.signer.sign({"catalog": cursor.identity, "sequence": cursor.sequence}, binding=bound_to)
            return moderation.WatchEventsResponse(
                event=None if event is None else event_message(event), resume_token=token
            )

        yield response(None)
        sent_at = time.monotonic()
        while True:
            told = self.news.next
            if self.is_stopping:
                raise ServerNotReady("stopping", STOP_RETRY_SECONDS)
            changes: list[EventChange] = await self.workers.run(
                lambda check: self.log.changes(cursor.sequence, READ_COUNT)
            )
            for change in changes:
                cursor.sequence = change.sequence
                if wanted.admits(change.event):
                    yield response(change.event)
                    sent_at = time.monotonic()
            if time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                yield response(None)
                sent_at = time.monotonic()
            if len(changes) < READ_COUNT:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await told.wait()

    def begin(
        self, request: moderation.WatchEventsRequest, principal: Principal, wanted: EventFilter, bound_to: bytes
    ) -> "tuple[EventFilter, _Cursor]":
        """Return what of it the caller may see, and where a watch begins."""
        wanted = self.readable(principal, wanted)
        identity = self.log.catalog.identity()
        if not request.resume_token:
            return wanted, _Cursor(identity, 0 if request.from_start else self.log.last_sequence())
        held = self.signer.verify(request.resume_token, binding=bound_to)
        if held.keys() != {"catalog", "sequence"}:
            raise PageTokenInvalid
        if held["catalog"] != identity or held["sequence"] > self.log.last_sequence():
            raise ResumeTokenExpired
        return wanted, _Cursor(identity, int(held["sequence"]))

    def readable(self, principal: Principal, wanted: EventFilter) -> EventFilter:
        """Narrow a filter to what the caller may read.

        Raises:
            PermissionDenied, CollectionNotFound: For what it names and may not have.
        """
        return replace(wanted, collections=self.access.readable_collections(principal, wanted.collections))


def narrowed(policies: Sequence[Policy], readable: Sequence[str] | None) -> Iterator[Policy]:
    """Yield the policies that hold for what a caller may read, without the other collections' names; None: all."""
    for policy in policies:
        if readable is None or not policy.collections:
            yield policy
        elif held := tuple(name for name in policy.collections if name in readable):
            yield replace(policy, collections=held)


def refused(mistake: PolicyInvalid | None, *, is_whole: bool) -> str:
    """Say what is wrong with the file of policies, not where it is; what it says only to who may see all of it."""
    if mistake is None:
        return ""
    said = (mistake.where, mistake.reason) if is_whole else (mistake.where or "the file",)
    return ": ".join(part for part in said if part)


def policy_message(policy: Policy) -> moderation_service_pb2.Policy:
    """Write a policy."""
    return moderation_service_pb2.Policy(
        policy_id=policy.policy_id,
        label=policy.label,
        parent_labels=policy.parents,
        shows=policy.shows,
        unlike=policy.unlike,
        says=policy.says,
        patterns=policy.patterns,
        enter_confidence=policy.enter,
        leave_confidence=policy.leave,
        min_duration=duration_message(policy.min_seconds),
        cooldown=duration_message(policy.cooldown_seconds),
        action_hint=policy.action,
        collections=policy.collections,
    )
