"""Sample answers, videos and utterances, and a fake library that returns them, for the tests of the command."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from encoders.values import Utterance, Word
from ingest.values import MediaInfo
from serve.errors import DataDirectoryMissing, VideoNotFound
from serve.values import Answer, MatchedWord, Moment, Query, Speaker, Verdict, Video, VideoAnswer
from temporal.values import Chapter, Outline, TimeSpan


def moment(**changes: Any) -> Moment:
    values: dict[str, Any] = {
        "video_id": "3fa9c0ffee123456",
        "uri": "/videos/a talk [part 1].mp4",
        "start_seconds": 62.12345,
        "end_seconds": 78.5,
        "score": 0.912345,
        "confidence": 0.87654,
        "verdict": Verdict.MATCH,
        "visual_score": 0.31,
        "speech_score": None,
        "transcript": "And then we moved to Paris for a year.",
        "matched_words": (MatchedWord(text="Paris", start_seconds=70.0, end_seconds=70.5),),
        "best_frame_seconds": 70.0,
    }
    return Moment(**(values | changes))


def video_answer(*moments: Moment) -> VideoAnswer:
    best = moments[0]
    return VideoAnswer(
        video_id=best.video_id,
        uri=best.uri,
        score=best.score,
        confidence=best.confidence,
        verdict=best.verdict,
        moments=moments,
    )


def video(**changes: Any) -> Video:
    media = MediaInfo(
        container="mov,mp4",
        duration_seconds=123.4,
        video_codec="h264",
        audio_codec="aac",
        width=1280,
        height=720,
        rotation_degrees=0,
        frame_rate_fps=25.0,
    )
    values: dict[str, Any] = {
        "row": 1,
        "video_id": "3fa9c0ffee123456",
        "collection": "default",
        "uri": "/videos/a talk [part 1].mp4",
        "content_sha256": "3fa9c0ffee123456" * 4,
        "media": media,
        "duration_seconds": 123.4,
        "frame_count": 123,
        "segment_count": 15,
        "utterance_count": 2,
        "warnings": (),
        "indexed_time": 1_790_000_000.0,
    }
    return Video(**(values | changes))


def utterance(text: str, start_seconds: float, end_seconds: float, *, timed: bool = True) -> Utterance:
    """Make an utterance whose words share its time evenly. Without `timed` it has no words."""
    words = text.split() if timed else []
    step = (end_seconds - start_seconds) / max(1, len(words))
    return Utterance(
        epoch=0,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        text=text,
        words=tuple(
            Word(
                text=word,
                start_seconds=start_seconds + index * step,
                end_seconds=start_seconds + (index + 1) * step,
                probability=0.9,
            )
            for index, word in enumerate(words)
        ),
        language="en",
        avg_logprob=-0.2,
        no_speech_prob=0.01,
    )


def chapter(start_seconds: float, end_seconds: float, title: str = "") -> Chapter:
    return Chapter(
        span=TimeSpan(start_seconds=start_seconds, end_seconds=end_seconds),
        title=title,
        best_frame_seconds=start_seconds + 1.23456,
    )


def jpeg(width: int = 320, height: int = 180) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "#3366cc").save(stream, "JPEG")
    return stream.getvalue()


class FakeLibrary:
    """Answers every question with `answer`, and keeps the last query in `asked`."""

    answer = Answer()
    parts = Outline(chapters=())  # of every video
    asked: Query | None = None

    @classmethod
    def open(cls, directory: Path, settings: object) -> "FakeLibrary":
        if directory.name == "empty":
            raise DataDirectoryMissing(str(directory))
        return cls()

    def __enter__(self) -> "FakeLibrary":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        pass

    def search(self, query: Query) -> Answer:
        type(self).asked = query
        return replace(self.answer, moments=())

    def moments(self, query: Query) -> Answer:
        type(self).asked = query
        return replace(self.answer, videos=())

    def videos(self, collection: str | None = None) -> list[Video]:
        return [video(), video(video_id="77770000", uri="/videos/b.mp4", warnings=("it ends early",))]

    @property
    def catalog(self) -> "FakeLibrary":
        return self

    def video(self, video_id: str, collection: str | None = None) -> Video:
        if not "3fa9c0ffee123456".startswith(video_id):
            raise VideoNotFound(video_id)
        return video()

    def transcript(self, video: Video) -> list[Utterance]:
        return [utterance("Hello & welcome to the show.", 1.0, 3.5), utterance("Bye.", 4.0, 4.1)]

    def subtitles(self, video: Video) -> str:
        return ""

    def speakers(self, video: Video) -> list[Speaker]:
        return []

    def outline(self, video: Video, highlight_count: int = 0) -> Outline:
        return replace(self.parts, highlights=self.parts.highlights[:highlight_count])

    def thumbnail(self, video: Video, at_seconds: float) -> tuple[float, bytes] | None:
        return at_seconds, jpeg()
