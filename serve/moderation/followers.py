"""Followers: all threads of a server that follow its videos and deliver moderation events."""

from collections.abc import Callable
from pathlib import Path

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.errors import ServerNotReady
from serve.event import Event
from serve.moderation.active_policies import ActivePolicies
from serve.moderation.delivery import Deliverer, Sink
from serve.moderation.moderator import Moderator
from serve.moderation.standing import Watcher
from serve.moderation.webhook import DEAD_LETTERS_NAME, Webhook
from serve.observe.metrics import ServerMetrics
from serve.search.engine import Engine
from serve.settings import Settings

RETRY_SECONDS = 1.0  # after which a client may ask again for standing queries while the server loads


class Followers:
    """Owns the moderator, the watcher of standing queries, and the deliverers of moderation events."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        editor: Catalog,
        metrics: ServerMetrics,
        on_events: Callable[[], object],
    ) -> None:
        """Make the deliverers; no thread starts yet.

        Args:
            editor: Open for small changes.
            on_events: Called by the moderator's thread after it wrote changes of events.
        Raises:
            SettingsError: If the webhook's settings are invalid.
        """
        self._editor, self._metrics, self._on_events = editor, metrics, on_events
        self.policies = ActivePolicies.of(directory, settings.server.policies)
        self._moderator: Moderator | None = None  # None: there is no engine yet
        self._watcher: Watcher | None = None
        sinks: list[Sink] = []
        if settings.kafka.servers and settings.server.publish_events:
            from serve.moderation.kafka_topic import EventTopic  # imports kafka

            sinks.append(EventTopic(settings.kafka))
        self._dead_letters = directory / DEAD_LETTERS_NAME
        if settings.server.webhook_url:
            sinks.append(Webhook(settings.server.webhook_url, settings.server.webhook_secret, self._dead_letters))
        self._deliverers = [Deliverer(EventLog(editor), sink) for sink in sinks]

    def start(self) -> None:
        """Start to deliver the events that the catalog holds."""
        for deliverer in self._deliverers:
            deliverer.start()

    def follow(self, engine: Engine) -> None:
        """Start to follow the videos of an engine, in place of the engine before."""
        self.unfollow()
        self._moderator = Moderator(engine, self._editor, self.policies, on_events=self.announce)
        self._moderator.start()
        self._watcher = Watcher(engine)
        self._watcher.start()

    def unfollow(self) -> None:
        """Stop to follow videos; the engine may be closed afterwards."""
        for follower in (self._moderator, self._watcher):
            if follower is not None:
                follower.stop()
        self._moderator = self._watcher = None

    def stop(self) -> None:
        """Stop all threads. May be called twice."""
        self.unfollow()
        for deliverer in self._deliverers:
            deliverer.stop()

    def wake(self) -> None:
        """Have the moderator and the watcher look now, as the videos changed."""
        for follower in (self._moderator, self._watcher):
            if follower is not None:
                follower.wake()

    def announce(self, events: list[Event]) -> None:
        """Count changes of events that were written, and have them delivered. From any thread."""
        for event in events:
            self._metrics.events.labels(event.state.lower()).inc()
        for deliverer in self._deliverers:
            deliverer.wake()
        self._on_events()

    def update_metrics(self, log: EventLog) -> None:
        """Set the metrics of undelivered changes and of dead letters.

        `log` is that of a catalog open for reading only: reads never wait for a writer.
        """
        for name, count in self.pending_counts(log).items():
            self._metrics.events_untold.labels(name).set(count)
        size = self._dead_letters.stat().st_size if self._dead_letters.exists() else 0
        self._metrics.dead_letter_bytes.set(size)

    def pending_counts(self, log: EventLog) -> dict[str, int]:
        """Return the number of changes not delivered to each sink yet, at most, by the sink's name; `log` as above."""
        return {each.sink.name: log.pending_count(each.sink.name) for each in self._deliverers}

    def ready_watcher(self) -> Watcher:
        """Return the watcher of standing queries.

        Raises:
            ServerNotReady: While there is no engine.
        """
        if self._watcher is None:
            raise ServerNotReady("loading", RETRY_SECONDS)
        return self._watcher
