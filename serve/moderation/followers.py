"""What follows a server's videos for those who are to be told of them, beside the calls that ask."""

from collections.abc import Callable
from pathlib import Path

from serve.catalog.catalog import Catalog
from serve.catalog.events import EventLog
from serve.errors import ServerNotReady
from serve.event import Event
from serve.moderation.delivery import Deliverer, Sink
from serve.moderation.moderator import Moderator
from serve.moderation.policy_file import ActivePolicies
from serve.moderation.standing import Watcher
from serve.moderation.webhook import DEAD_LETTERS_NAME, Webhook
from serve.observe.metrics import ServerMetrics
from serve.search.engine import Engine
from serve.settings import Settings

BUSY_SECONDS = 1.0  # after which one who watches may come back


class Followers:
    """The moderator, which scores videos by policies; the tellers of its events; the watcher of standing queries."""

    def __init__(
        self,
        directory: Path,
        settings: Settings,
        editor: Catalog,
        metrics: ServerMetrics,
        on_events: Callable[[], object],
    ) -> None:
        """Take what they work with; nothing begins yet.

        Args:
            editor: Open for small changes.
            on_events: Told, from a thread of ours, that there are new changes of events.
        Raises:
            SettingsError: If the webhook is set up wrong.
        """
        self.editor, self.metrics, self.on_events = editor, metrics, on_events
        self.policies = ActivePolicies.of(directory, settings.server.policies)
        self.moderator: Moderator | None = None  # None: there is no engine yet
        self.watcher: Watcher | None = None
        sinks: list[Sink] = []
        if settings.kafka.servers and settings.server.publish_events:
            from serve.moderation.kafka_topic import EventTopic  # imports kafka

            sinks.append(EventTopic(settings.kafka))
        self.dead_letters = directory / DEAD_LETTERS_NAME
        if settings.server.webhook_url:
            sinks.append(Webhook(settings.server.webhook_url, settings.server.webhook_secret, self.dead_letters))
        self.tellers = [Deliverer(EventLog(editor), sink) for sink in sinks]

    def start(self) -> None:
        """Begin to tell what is known."""
        for teller in self.tellers:
            teller.start()

    def follow(self, engine: Engine) -> None:
        """Begin to follow the videos of an engine, instead of those of another."""
        self.unfollow()
        self.moderator = Moderator(engine, self.editor, self.policies, on_events=self.tell)
        self.moderator.start()
        self.watcher = Watcher(engine)
        self.watcher.start()

    def unfollow(self) -> None:
        """End with the engine, which may be closed then."""
        for each in (self.moderator, self.watcher):
            if each is not None:
                each.stop()
        self.moderator = self.watcher = None

    def stop(self) -> None:
        """End. May be called twice."""
        self.unfollow()
        for teller in self.tellers:
            teller.stop()

    def wake(self) -> None:
        """Look at once: the videos changed."""
        for each in (self.moderator, self.watcher):
            if each is not None:
                each.wake()

    def tell(self, events: list[Event]) -> None:
        """Have everybody told of changes that are written."""
        for event in events:
            self.metrics.events.labels(event.state.lower()).inc()
        for teller in self.tellers:
            teller.wake()
        self.on_events()

    def measure(self, log: EventLog) -> None:
        """Tell the metrics how far each sink is behind, and what was given up.

        Args:
            log: Of a catalog that nobody writes with, so that this never waits.
        """
        for teller in self.tellers:
            self.metrics.events_untold.labels(teller.sink.name).set(log.untold_count(teller.sink.name))
        size = self.dead_letters.stat().st_size if self.dead_letters.exists() else 0
        self.metrics.dead_letter_bytes.set(size)

    def ready_watcher(self) -> Watcher:
        """Return what follows live videos for standing queries.

        Raises:
            ServerNotReady: While there is no engine.
        """
        if self.watcher is None:
            raise ServerNotReady("loading", BUSY_SECONDS)
        return self.watcher
