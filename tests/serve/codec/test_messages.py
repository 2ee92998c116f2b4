"""What goes over the wire comes back the same, and prints the same."""

import dataclasses
import math
import random
import struct

import pytest

from encoders.values import WordSource
from kinodex.v1 import library_service_pb2, moment_pb2, search_service_pb2
from serve.cli.render import moment_json, moments_json, search_json
from serve.codec.fields import (
    duration_message,
    duration_value,
    nanoseconds,
    timestamp_message,
    timestamp_value,
    unescape_surrogates,
)
from serve.codec.messages import (
    moment_message,
    moment_value,
    moments_answer,
    moments_request,
    moments_response,
    ready_status,
    search_answer,
    search_request,
    search_response,
    video_message,
    video_value,
)
from serve.codec.requests import moments_query, search_query
from serve.codec.utterances import fill_utterance, read_utterance
from serve.errors import RequestInvalid
from serve.text import to_json
from serve.values import (
    Answer,
    Filter,
    MetadataCondition,
    Moment,
    MomentReference,
    Query,
    Verdict,
    VideoState,
    VideoStatus,
)
from support.sample_answers import moment, utterance, video, video_answer
from temporal.values import TimeSpan

DAY_SECONDS = 86_400.0


def sent(message: moment_pb2.Moment) -> moment_pb2.Moment:
    """What arrives of a message."""
    return moment_pb2.Moment.FromString(message.SerializeToString())


# ------------------------------------------------------------------ times
@pytest.mark.parametrize(
    ("seconds", "whole", "nanos"),
    [(0.0, 0, 0), (-0.0, 0, 0), (1.5, 1, 500_000_000), (2**-10, 0, 976_562), (0.1, 0, 100_000_000), (4e-10, 0, 0)],
)
def test_seconds_become_the_nearest_nanoseconds(seconds: float, whole: int, nanos: int) -> None:
    message = duration_message(seconds)
    assert (message.seconds, message.nanos) == (whole, nanos)


def test_a_time_before_1970_and_one_of_today_come_back() -> None:
    for seconds in (-1.25, 0.0, 1_790_000_000.123456):
        message = timestamp_message(seconds)
        assert message is not None
        assert 0 <= message.nanos < 10**9
        assert timestamp_value(message) == seconds
    assert timestamp_message(None) is None


def some_times() -> list[float]:
    """Times of every size, most of them near a rounding edge; the same in every run."""
    generator = random.Random(7)
    times = [0.0, -0.0, 5e-324, 1e-12, 2**-10, 0.0005, 0.9995, 62.12345, 2**22 + 0.0005, 3.1e11]
    for _ in range(1500):
        milliseconds = generator.randrange(10 ** generator.randint(1, 13))
        half = milliseconds / 1000 + 0.0005  # where rounding to milliseconds turns
        times += [
            half,
            math.nextafter(half, 0),
            half + generator.choice([-1, 1]) * 5e-10,
            generator.uniform(0, 100 * DAY_SECONDS),
            generator.uniform(0, 1) * 10.0 ** generator.randint(-12, 11),
        ]
    return times


def test_a_time_that_was_sent_prints_as_one_that_was_not() -> None:
    for time in some_times():
        arrived = duration_value(duration_message(time))
        assert nanoseconds(arrived) == nanoseconds(time) or arrived == time
        shown = [moment_json(moment(start_seconds=each))["start_seconds"] for each in (time, arrived)]
        assert to_json(shown[0]) == to_json(shown[1]), time.hex()


def test_scores_come_back_to_the_last_bit() -> None:
    generator = random.Random(7)
    scores = [0.0, -0.0, -1e-9, 5e-324, 1e300, math.inf, math.nan]
    scores += [struct.unpack("<d", generator.randbytes(8))[0] for _ in range(2000)]
    for score in scores:
        here = moment(score=score, confidence=score, visual_score=score, speech_score=score)
        there = moment_value(sent(moment_message(here)))
        assert struct.pack("<d", there.score) == struct.pack("<d", score)
        assert to_json(moment_json(there)) == to_json(moment_json(here))


# ------------------------------------------------------------------ answers
FULL = moment(collection="talks", recorded_time=1_790_000_000.5, start_seconds=62.125, final=False)
BARE = moment(visual_score=None, best_frame_seconds=None, matched_words=(), transcript="", start_seconds=0.0)


@pytest.mark.parametrize("value", [FULL, BARE, moment(start_seconds=1.0, visual_score=0.0, best_frame_seconds=0.0)])
def test_a_moment_comes_back_with_what_is_unset(value: Moment) -> None:
    assert moment_value(sent(moment_message(value))) == value


def test_a_file_name_that_is_no_utf8_comes_back_and_prints_the_same_bytes() -> None:
    odd = moment(uri="/videos/caf\u00e9 \udcff.mp4")
    arrived = moment_value(sent(moment_message(odd)))
    assert moment_message(odd).uri == "/videos/caf\u00e9 \\udcff.mp4"
    assert arrived.uri == odd.uri
    assert to_json(moment_json(arrived)) == to_json(moment_json(odd))
    assert unescape_surrogates("C:\\users\\udo") == "C:\\users\\udo"


def test_pages_come_back() -> None:
    answer = Answer(videos=(video_answer(FULL, BARE),), degraded_channels=("visual", "speech"))
    message = search_response(answer, "next")
    assert message.next_page_token == "next"
    arrived = search_answer(search_service_pb2.SearchVideosResponse.FromString(message.SerializeToString()))
    assert arrived == answer
    assert to_json(search_json("q", arrived)) == to_json(search_json("q", answer))
    answer = Answer(moments=(FULL, BARE), is_live_behind=True)
    arrived = moments_answer(moments_response(answer))
    assert arrived == answer
    assert to_json(moments_json("q", arrived)) == to_json(moments_json("q", answer))


def test_a_verdict_of_a_newer_server_is_an_error_not_a_guess() -> None:
    message = moment_message(FULL)
    message.verdict = 9  # type: ignore[assignment]
    with pytest.raises(ValueError, match="9"):
        moment_value(message)
    assert [moment_value(moment_message(moment(verdict=verdict))).verdict for verdict in Verdict] == list(Verdict)


# ------------------------------------------------------------------ videos and what is said in them
def test_videos_in_every_state_come_back() -> None:
    ready = ready_status(video(metadata={"camera": "7"}, recorded_time=1.5))
    assert (ready.state, ready.progress, ready.metadata) == (VideoState.READY, 1.0, {"camera": "7"})
    failed = VideoStatus(
        video_id="a",
        collection="c",
        uri="/videos/\udcff.mp4",
        state=VideoState.FAILED,
        failure_reason="DECODE_FAILED",
        failure_message="no media",
        warnings=("it ends early",),
    )
    waiting = VideoStatus(video_id="a", collection="c", uri="u", state=VideoState.PROCESSING, progress=0.25)
    live = ready_status(video(is_live=True, is_ended=False, watermark_seconds=62.125))
    assert (live.is_live, live.watermark_seconds) == (True, 62.125)
    over = ready_status(video(is_live=True, is_ended=True, watermark_seconds=62.125))
    assert (over.is_live, over.watermark_seconds) == (False, None)  # as a file: all of it is final
    for status in (ready, failed, waiting, live, over):
        assert video_value(video_message(status)) == status
    assert not video_message(waiting).HasField("failure")
    assert not video_message(waiting).HasField("duration")


def test_an_utterance_comes_back_but_for_what_is_not_sent() -> None:
    said = utterance("Hello there, Paris.", 1.0, 2.5)
    arrived = read_utterance(fill_utterance(library_service_pb2.Utterance(), said))
    assert math.isnan(arrived.avg_logprob)
    assert math.isnan(arrived.no_speech_prob)
    known = {"avg_logprob": said.avg_logprob, "no_speech_prob": said.no_speech_prob}
    words = tuple(
        dataclasses.replace(word, start_seconds=round(word.start_seconds, 9), end_seconds=round(word.end_seconds, 9))
        for word in said.words
    )
    assert dataclasses.replace(arrived, **known) == dataclasses.replace(said, words=words)


@pytest.mark.parametrize("source", WordSource)
def test_an_utterance_says_where_its_words_come_from(source: WordSource) -> None:
    said = dataclasses.replace(utterance("Hello there, Paris.", 1.0, 2.5), source=source)
    assert read_utterance(fill_utterance(library_service_pb2.Utterance(), said)).source == source


@pytest.mark.parametrize("number", [0, 99])
def test_words_of_an_older_or_newer_program_count_as_heard(number: int) -> None:
    message = fill_utterance(library_service_pb2.Utterance(), utterance("Hello there, Paris.", 1.0, 2.5))
    message.source = number  # type: ignore[assignment]
    assert read_utterance(message).source == WordSource.SPEECH


# ------------------------------------------------------------------ questions
QUERIES = [
    Query(text="a red car"),
    Query(image=b"jpeg", channel="visual", limit=100),
    Query(text="a", image=b"jpeg", image_weight=0.0, exclude_text="people", min_confidence=0.25, channel="speech"),
    Query(
        like=MomentReference(video_id="v", span=TimeSpan(start_seconds=1.5, end_seconds=2.25), collection="c"),
        image_weight=1.0,
        max_moments_per_video=20,
    ),
    Query(
        text="x",
        filter=Filter(
            collections=("a", "b"),
            video_ids=("v",),
            metadata=(
                MetadataCondition(key="camera", equals=""),
                MetadataCondition(key="floor", least=-1.5),
                MetadataCondition(key="year", greatest=0.0),
            ),
            recorded_from=-1.5,
            recorded_until=1_790_000_000.0,
            min_duration_seconds=1.5,
            max_duration_seconds=60.0,
        ),
    ),
    Query(text="x", filter=Filter(recorded_until=0.0, max_duration_seconds=0.0)),
]


@pytest.mark.parametrize("query", QUERIES)
def test_the_service_reads_what_the_client_writes(query: Query) -> None:
    assert search_query(search_request(query, page_size=query.limit)) == query
    assert moments_query(moments_request(query, page_size=query.limit)) == query


def test_words_that_are_no_utf8_can_be_asked() -> None:
    assert search_request(Query(text="caf\udcff"), page_size=1).query.text == "caf\\udcff"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query(image=bytes((8 << 20) + 1)), "query.image"),
        (Query(text="x", filter=Filter(collections=())), "filter.collections"),
    ],
)
def test_a_query_that_no_request_can_carry_is_refused_here(query: Query, field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        moments_request(query, page_size=1)
    assert [name for name, _ in caught.value.violations] == [field]
