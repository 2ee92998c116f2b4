"""Words <-> kinodex.v1: one mapping of utterances for transcripts (library.Utterance) and Kafka segments
(stream.SpokenText), and lines of text in pictures (stream.WrittenText)."""

import math
from typing import TypeVar

from encoders.values import Box, TextLine, Utterance, Word, WordSource
from kinodex.v1 import library_service_pb2, moment_pb2, stream_pb2
from serve.codec.fields import duration_message, duration_value, escape_surrogates, span_message, span_value
from serve.values import Speaker

UtteranceMessage = TypeVar("UtteranceMessage", library_service_pb2.Utterance, stream_pb2.SpokenText)


def fill_utterance(message: UtteranceMessage, utterance: Utterance) -> UtteranceMessage:
    """Write the fields that both messages have, and return the message."""
    message.text = escape_surrogates(utterance.text)
    message.span.CopyFrom(span_message(utterance.start_seconds, utterance.end_seconds))
    message.language = utterance.language
    message.source = moment_pb2.WordSource.Value(f"WORD_SOURCE_{utterance.source}")
    message.spoken_language = utterance.spoken_language
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
    speaker: int = 0,
    avg_logprob: float = math.nan,
    no_speech_prob: float = math.nan,
) -> Utterance:
    """Read the fields that both messages have; the keywords are those that one of them lacks."""
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
        speaker=speaker,
        spoken_language=message.spoken_language,
    )


def _source_value(source: moment_pb2.WordSource.ValueType) -> WordSource:
    """Read a source; one that an older program left out, or that only a newer program knows, is SPEECH."""
    names = {number: name.removeprefix("WORD_SOURCE_") for name, number in moment_pb2.WordSource.items()}
    name = names.get(source, "")
    return WordSource(name) if name in set(WordSource) else WordSource.SPEECH


def utterance_message(utterance: Utterance) -> library_service_pb2.Utterance:
    """Write an utterance of a transcript."""
    return fill_utterance(library_service_pb2.Utterance(speaker=utterance.speaker), utterance)


def utterance_value(message: library_service_pb2.Utterance) -> Utterance:
    """Read an utterance of a transcript: of epoch 0 and without probabilities, which are not sent."""
    return read_utterance(message, speaker=message.speaker)


def speaker_message(speaker: Speaker) -> library_service_pb2.Speaker:
    return library_service_pb2.Speaker(
        number=speaker.number,
        name=escape_surrogates(speaker.name),
        utterance_count=speaker.utterance_count,
        speech_duration=duration_message(speaker.speech_seconds),
        start_offset=duration_message(speaker.start_seconds),
    )


def speaker_values(
    response: library_service_pb2.GetTranscriptResponse | library_service_pb2.NameSpeakerResponse,
) -> list[Speaker]:
    return [
        Speaker(
            number=message.number,
            name=message.name,
            utterance_count=message.utterance_count,
            speech_seconds=duration_value(message.speech_duration),
            start_seconds=duration_value(message.start_offset),
        )
        for message in response.speakers
    ]


def fill_written(message: stream_pb2.WrittenText, line: TextLine) -> stream_pb2.WrittenText:
    """Write a line of text in pictures, and return the message."""
    message.text = escape_surrogates(line.text)
    message.span.CopyFrom(span_message(line.start_seconds, line.end_seconds))
    box = line.box
    message.box.CopyFrom(moment_pb2.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom))
    message.confidence = line.confidence
    return message


def read_written(message: stream_pb2.WrittenText, *, epoch: int) -> TextLine:
    """Read a line of text in pictures.

    Raises:
        ValueError: If its box is none, or its confidence is not in [0, 1].
    """
    start, end = span_value(message.span)
    box = message.box
    if not 0 <= message.confidence <= 1:
        raise ValueError(f"confidence must be in [0, 1], got {message.confidence}")
    return TextLine(
        epoch=epoch, start_seconds=start, end_seconds=end, text=message.text, confidence=message.confidence,
        box=Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom),
    )  # fmt: skip
