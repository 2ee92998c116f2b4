"""ModerationService: the gRPC methods that list the policies in force, and list, watch and review moderation events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1 import moderation_service_pb2_grpc, stream_pb2
from serve.api.access import Access
from serve.api.interceptor import current_caller, current_principal, current_subject
from serve.api.pages import PageSigner, binding, fit_page
from serve.api.tokens import Principal
from serve.api.workers import Workers
from serve.catalog.events import EventLog, EventPlace, event_place
from serve.codec.events import event_filter, event_message, review_request
from serve.codec.fields import duration_message
from serve.codec.rows import write_rows
from serve.codec.violations import Violations
from serve.errors import EventNotFound, PageTokenInvalid, PolicyInvalid, ResumeTokenExpired, ServerNotReady
from serve.event import Event, EventFilter, EventReview
from serve.moderation.active_policies import ActivePolicies
from serve.moderation.policies import Policy
from serve.moderation.visual_rules import VisualRule, visual_rule

DEFAULT_EVENT_COUNT, MAX_EVENT_COUNT = 100, 1000  # events on a page
READ_COUNT = 500  # changes that a watch reads from the catalog at once
POLL_SECONDS = 2.0  # between two looks of a watch at the catalog: another process may write events too
HEARTBEAT_SECONDS = 30.0  # without an event, until a watch sends a newer resume token
STOP_RETRY_SECONDS = 1.0  # when to come back to a server that stops


class EventSignal:
    """Wakes the calls that watch events. Made and used on the server's event loop, except for notify()."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all waiting calls soon; from any thread."""
        self._loop.call_soon_threadsafe(self.notify_now)

    def notify_now(self) -> None:
        """Wake all waiting calls."""
        self._event.set()
        self._event = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """The event that the next notification sets. Take it before you read the catalog, to miss no change."""
        return self._event


@dataclass(slots=True)
class _Cursor:
    """The last change that a watch has sent."""

    identity: str  # of the catalog
    sequence: int


class ModerationService(moderation_service_pb2_grpc.ModerationServiceServicer):
    """Answers for the policies and events of the collections that the caller may read."""

    def __init__(
        self,
        log: EventLog,
        policies: Callable[[], ActivePolicies],
        new_events: EventSignal,
        access: Access,
        workers: Workers,
        signer: PageSigner,
        changes: EventLog,
        change_workers: Workers,
        on_review: Callable[[list[Event]], object],
    ) -> None:
        """Take the parts.

        Args:
            log: The events of a catalog that is open for reading.
            new_events: Notified of new events.
            changes: The events of a catalog that is open for changes.
            change_workers: Threads for calls that change the catalog.
            on_review: Called with the changes that a review made.
        """
        self.log, self.policies, self.new_events = log, policies, new_events
        self.access, self.workers, self.signer = access, workers, signer
        self.changes, self.change_workers, self._on_review = changes, change_workers, on_review
        self._is_stopping = False

    def stop(self) -> None:
        """End the running WatchEvents calls. Call it on the event loop."""
        self._is_stopping = True
        self.new_events.notify_now()

    async def ListPolicies(
        self, request: moderation.ListPoliciesRequest, context: Any
    ) -> moderation.ListPoliciesResponse:
        active, readable = self.policies(), self.access.readable_collections(current_principal(), None)
        response = moderation.ListPoliciesResponse(refused=describe_mistake(active.mistake, is_whole=readable is None))
        if active.policies is not None:
            response.version = active.policies.version
            space = self.log.catalog.space()
            for policy in readable_policies(active.policies.policies, readable):
                rule = None if space is None else visual_rule(policy, space.visual, space.visual_fingerprint)
                response.policies.append(policy_message(policy, rule))
        return response

    async def ListEvents(self, request: moderation.ListEventsRequest, context: Any) -> moderation.ListEventsResponse:
        principal, violations = current_principal(), Violations()
        wanted = event_filter(violations, request.filter)
        page_size = violations.read_page_size(request.page_size, DEFAULT_EVENT_COUNT, MAX_EVENT_COUNT)
        violations.check()
        bound_to = binding(principal.scope, "ListEvents", request)
        after: EventPlace | None = None
        if request.page_token:
            payload = self.signer.verify(request.page_token, binding=bound_to)
            if payload.keys() != {"after"}:
                raise PageTokenInvalid
            collection, video_id, start_seconds, event_id = payload["after"]
            after = (collection, video_id, start_seconds, event_id)

        def work(check: Callable[[], None]) -> list[Event]:
            return self.log.page(self._narrow(principal, wanted), after, page_size + 1, check)

        events = await self.workers.run(work)

        def write(count: int) -> moderation.ListEventsResponse:
            page, token = events[:count], ""
            if len(events) > len(page):
                token = self.signer.sign({"after": event_place(page[-1])}, binding=bound_to)
            return moderation.ListEventsResponse(events=write_rows(event_message, page), next_page_token=token)

        return fit_page(write, page_size)

    async def WatchEvents(
        self, request: moderation.WatchEventsRequest, context: Any
    ) -> AsyncIterator[moderation.WatchEventsResponse]:
        principal, violations = current_principal(), Violations()
        named = event_filter(violations, request.filter)
        violations.check()
        bound_to = binding(principal.scope, "WatchEvents", request)
        wanted, cursor = await self.workers.run(lambda check: self._begin_watch(request, principal, named, bound_to))

        def response(*events: stream_pb2.Event) -> moderation.WatchEventsResponse:
            token = self.signer.sign({"catalog": cursor.identity, "sequence": cursor.sequence}, binding=bound_to)
            return moderation.WatchEventsResponse(event=events[0] if events else None, resume_token=token)

        yield response()
        sent_at = time.monotonic()
        while True:
            new_event = self.new_events.next
            if self._is_stopping:
                raise ServerNotReady("stopping", STOP_RETRY_SECONDS)
            changes = await self.workers.run(lambda check: self.log.changes(cursor.sequence, READ_COUNT))
            for change in changes:
                cursor.sequence = change.sequence
                admitted = [change.event] if wanted.admits(change.event) else []
                for message in write_rows(event_message, admitted):
                    yield response(message)
                    sent_at = time.monotonic()
            if time.monotonic() - sent_at >= HEARTBEAT_SECONDS:
                yield response()
                sent_at = time.monotonic()
            if len(changes) < READ_COUNT:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await new_event.wait()

    async def ReviewEvent(self, request: moderation.ReviewEventRequest, context: Any) -> moderation.ReviewEventResponse:
        (event_id, state, note), principal = review_request(request), current_principal()
        review = EventReview(state=state, note=note, reviewer=current_caller(), review_time=time.time())

        def require_change(collection: str) -> None:
            if not principal.may_read(collection):
                raise EventNotFound(event_id)
            current_subject().add(collection=collection)
            self.access.require_writable(principal, collection)

        def work(check: Callable[[], None]) -> Event:
            event, is_changed = self.changes.review(event_id, review, require_change)
            if is_changed:
                self._on_review([event])
            return event

        return moderation.ReviewEventResponse(event=event_message(await self.change_workers.run(work)))

    def _begin_watch(
        self, request: moderation.WatchEventsRequest, principal: Principal, named: EventFilter, bound_to: bytes
    ) -> tuple[EventFilter, _Cursor]:
        """Return the filter, narrowed to what the caller may read, and the place where the watch begins.

        Raises:
            PageTokenInvalid: If the resume token is not ours.
            ResumeTokenExpired: If it belongs to another catalog, such as one from before a restored backup.
        """
        wanted = self._narrow(principal, named)
        identity = self.log.catalog.identity()
        if not request.resume_token:
            return wanted, _Cursor(identity, 0 if request.from_start else self.log.last_sequence())
        payload = self.signer.verify(request.resume_token, binding=bound_to)
        if payload.keys() != {"catalog", "sequence"}:
            raise PageTokenInvalid
        if payload["catalog"] != identity or payload["sequence"] > self.log.last_sequence():
            raise ResumeTokenExpired
        return wanted, _Cursor(identity, int(payload["sequence"]))

    def _narrow(self, principal: Principal, wanted: EventFilter) -> EventFilter:
        """Narrow a filter to the collections that the caller may read.

        Raises:
            PermissionDenied, CollectionNotFound: If the filter names a collection that the caller may not read.
        """
        return replace(wanted, collections=self.access.readable_collections(principal, wanted.collections))


def readable_policies(policies: Sequence[Policy], readable: Sequence[str] | None) -> Iterator[Policy]:
    """Yield the policies of the collections a caller may read (None: all), without the names of other collections."""
    for policy in policies:
        if readable is None or not policy.collections:
            yield policy
        elif collections := tuple(name for name in policy.collections if name in readable):
            yield replace(policy, collections=collections)


def describe_mistake(mistake: PolicyInvalid | None, *, is_whole: bool) -> str:
    """Describe the mistake in the policy file, without the file's path; empty if there is none.

    A caller who may not read all collections gets the place of the mistake, not its text.
    """
    if mistake is None:
        return ""
    parts = (mistake.where, mistake.reason) if is_whole else (mistake.where or "the file",)
    return ": ".join(part for part in parts if part)


def policy_message(policy: Policy, rule: VisualRule | None) -> moderation.Policy:
    """Make the message of a policy; `rule` is the state of its pictures, None if it has none or it is unknown."""
    state = moderation.Policy.VISUAL_STATE_UNSPECIFIED
    if rule is not None:
        state = moderation.Policy.VISUAL_STATE_ON if rule.is_on else moderation.Policy.VISUAL_STATE_OFF
    return moderation.Policy(
        policy_id=policy.policy_id,
        label=policy.label,
        parent_labels=policy.parents,
        shows=policy.shows,
        unlike=policy.unlike,
        says=policy.says,
        patterns=policy.patterns,
        reads=policy.reads,
        read_patterns=policy.read_patterns,
        enter_confidence=policy.enter,
        leave_confidence=policy.leave,
        min_duration=duration_message(policy.min_seconds),
        cooldown=duration_message(policy.cooldown_seconds),
        action_hint=policy.action,
        collections=policy.collections,
        visual_state=state,
        visual_note="" if rule is None else rule.note,
    )
