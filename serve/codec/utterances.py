"""Utterances <-> kinodex.v1: one mapping for transcripts (library.Utterance) and Kafka segments (stream.SpokenText)."""

import math
from typing import TypeVar

from encoders.values import Utterance, Word, WordSource
from kinodex.v1 import library_service_pb2, moment_pb2, stream_pb2
from serve.codec.fields import escape_surrogates, span_message, span_value

UtteranceMessage = TypeVar("UtteranceMessage", library_service_pb2.Utterance, stream_pb2.SpokenText)


def fill_utterance(message: UtteranceMessage, utterance: Utterance) -> UtteranceMessage:
    """Write the fields that both messages have, and return the message."""
    message.text = escape_surrogates(utterance.text)
    message.span.CopyFrom(span_message(utterance.start_seconds, utterance.end_seconds))
    message.language = utterance.language
    message.source = moment_pb2.WordSource.Value(f"WORD_SOURCE_{utterance.source}")
    for word in utterance.words:
        message.words.add(
            text=escape_surrogates(word.text),
            span=span_message(word.start_seconds, word.end_seconds),
            probability=word.probability,
        )
    return message


def read_utterance(
    message: library_service_pb2.Utterance | stream_pb2.SpokenText,
    *,
    epoch: int = 0,
    avg_logprob: float = math.nan,
    no_speech_prob: float = math.nan,
) -> Utterance:
    """Read the fields that both messages have; the keywords are those that library.Utterance does not carry."""
    start, end = span_value(message.span)
    words = ((word, *span_value(word.span)) for word in message.words)
    return Utterance(
        epoch=epoch,
        start_seconds=start,
        end_seconds=end,
        text=message.text,
        words=tuple(
            Word(text=word.text, start_seconds=word_start, end_seconds=word_end, probability=word.probability)
            for word, word_start, word_end in words
        ),
        language=message.language,
        avg_logprob=avg_logprob,
        no_speech_prob=no_speech_prob,
        source=_source_value(message.source),
    )


def _source_value(source: moment_pb2.WordSource.ValueType) -> WordSource:
    """Read a source; one that an older program left out, or that only a newer program knows, is SPEECH."""
    names = {number: name.removeprefix("WORD_SOURCE_") for name, number in moment_pb2.WordSource.items()}
    name = names.get(source, "")
    return WordSource(name) if name in set(WordSource) else WordSource.SPEECH
