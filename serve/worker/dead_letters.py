"""`kinodex dead-letters`: reads the dead letters, and sends their records again."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ingest.config import KafkaConfig
from ingest.errors import BrokerUnavailable
from ingest.kafka import PartitionReader, Producer, Topics
from serve.codec.dead_letters import BATCH_UNREADABLE, DeadLetter, read_dead_letter
from serve.codec.records import read_chunk, read_source
from serve.errors import RecordInvalid

logger = logging.getLogger(__name__)


def load_dead_letters(config: KafkaConfig) -> list[DeadLetter]:
    """Return the dead letters that were not sent again, the oldest record first.

    Raises:
        BrokerUnavailable: If no broker answers, or there is no such topic.
    """
    topic, found = Topics(config.topic_prefix).deadletter, dict[bytes, DeadLetter]()
    with PartitionReader(config) as reader:
        for partition in reader.partitions_of(topic):
            for record in reader.read_to_end(topic, partition):
                if record.value is None:  # a letter that was sent again
                    found.pop(record.key, None)
                    continue
                try:
                    found[record.key] = read_dead_letter(record.value)
                except RecordInvalid as error:
                    logger.warning("record skipped topic=%s offset=%d reason=%s", topic, record.offset, error)
    return sorted(found.values(), key=lambda letter: letter.append_seconds)


def check_retry(letter: DeadLetter, config: KafkaConfig) -> str:
    """Return why a record cannot be sent again; empty: it can."""
    topics = Topics(config.topic_prefix)
    if letter.reason == BATCH_UNREADABLE:
        return "a batch that cannot be unpacked: send its records anew"
    if letter.topic not in (topics.chunks, topics.sources):
        return f"a record of {letter.topic}, which workers do not read"
    if not letter.value:
        return "it was too large to be kept, or empty"
    return ""


def retry_dead_letters(config: KafkaConfig, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Send the records of dead letters to their topics again, and mark the letters as done; return them.

    The mark is a record without a value under the letter's key. If the command ends in between, a record is sent again
    and its letter stays: workers drop chunks that they have.

    Raises:
        BrokerUnavailable: If a record is not delivered.
    """
    done: list[DeadLetter] = []
    producer, topic = Producer(config), Topics(config.topic_prefix).deadletter
    try:
        for letter in letters:
            _deliver(producer, config, letter.topic, letter.key, letter.value)
            _deliver(producer, config, topic, letter.letter_id.encode(), None)
            done.append(letter)
    finally:
        producer.close(0)
    return done


def _deliver(producer: Producer, config: KafkaConfig, topic: str, key: bytes, value: bytes | None) -> None:
    delivery = producer.send(topic, key, value)
    if not delivery.wait(config.bootstrap_timeout_seconds) or delivery.error is not None:
        raise delivery.error or BrokerUnavailable(config.servers, f"a record for {topic} was not taken in time")


def media_uri(letter: DeadLetter) -> str:
    """Return where the media of a record are; empty: in the record, or the record is no chunk and no source."""
    for read in (read_chunk, read_source):
        with suppress(RecordInvalid):
            return read(letter.value).uri
    return ""


def media_of(letter: DeadLetter) -> bytes:
    """Return the media of a chunk; empty: it has none, or the record is no chunk."""
    with suppress(RecordInvalid):
        return read_chunk(letter.value).media
    return b""


def select(letters: Sequence[DeadLetter], ids: Sequence[str], reason: str | None) -> list[DeadLetter]:
    """Return the letters of these ids, or all, of one reason or any.

    Raises:
        ValueError: If there is no letter of an id.
    """
    known = {letter.letter_id: letter for letter in letters}
    for letter_id in ids:
        if letter_id not in known:
            raise ValueError(f"there is no dead letter {letter_id!r}")
    chosen = [known[letter_id] for letter_id in ids] if ids else list(letters)
    return [letter for letter in chosen if reason is None or letter.reason == reason]
