"""Measures chapters on joined clips: are the joins found within three seconds, and nothing else?

    python -m benchmarks.chapters LIB shared/videos/queries.json [--half report]

LIB is a library of shared/videos. Videos are joined from its stored vectors: some clips of one half in a random order,
one after the other. Beside the chapters: as many equal parts as there are clips, and as many of the strongest changes
of the picture (both are told the number), and every cut. The table goes to benchmarks/results/chapters.md.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from serve.catalog.catalog import Catalog
from serve.catalog.spelling import STOP_WORDS
from temporal.chapters.boundaries import find_parts, timed_pictures, timed_sentences
from temporal.chapters.chapters import find_chapters
from temporal.chapters.highlights import find_highlights
from temporal.config import ChapterConfig
from temporal.moments.shots import picture_changes
from temporal.values import TimeSpan, VideoContent

RESULTS = Path(__file__).parent / "results" / "chapters.md"
TOLERANCE_SECONDS = 3.0
MIN_CLIP_SECONDS = 10.0  # the shortest chapter
JOINED_COUNT = 200
CONFIG = ChapterConfig()
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a library holds of a video, or of several that are joined."""

    duration_seconds: float
    frames: FrameEmbeddings
    utterances: Sequence[Utterance]
    sentences: NDArray[np.float32]  # (U, E)


@dataclass(slots=True)
class Score:
    """Found and true boundaries, added up over videos."""

    found: int = 0
    true: int = 0
    right: int = 0

    def add(self, found: Floats, true: Floats) -> None:
        self.found, self.true = self.found + len(found), self.true + len(true)
        self.right += count_matches(found, true)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.found)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.true)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(1, self.found + self.true)


def count_matches(found: Floats, true: Floats) -> int:
    """Return how many boundaries are within the tolerance of a true one of their own."""
    count, first = 0, 0
    for boundary in np.sort(true):
        while first < len(found) and found[first] < boundary - TOLERANCE_SECONDS:
            first += 1
        if first < len(found) and found[first] <= boundary + TOLERANCE_SECONDS:
            count, first = count + 1, first + 1
    return count


def read_clips(library: Path, questions: Path, half: str) -> list[Clip]:
    """Return the clips of one half that are at least as long as the shortest chapter."""
    files = {each["file"] for each in json.loads(questions.read_text())["videos"] if each["half"] == half}
    clips = []
    catalog = Catalog.open_reader(library)
    for video in catalog.videos():
        if video.duration_seconds >= MIN_CLIP_SECONDS and Path(video.uri).name in files:
            clips.append(
                Clip(
                    duration_seconds=video.duration_seconds,
                    frames=catalog.frames(video.row),
                    utterances=catalog.utterances(video.row, with_words=False),
                    sentences=catalog.utterance_vectors(video.row),
                )
            )
    catalog.close()
    return clips


def join(clips: Sequence[Clip]) -> tuple[Clip, Floats]:
    """Return the clips one after the other, and the times of the joins."""
    ends = np.cumsum([clip.duration_seconds for clip in clips])
    starts = np.concatenate([[0.0], ends[:-1]])
    utterances = [
        replace(each, start_seconds=each.start_seconds + start, end_seconds=each.end_seconds + start, words=())
        for clip, start in zip(clips, starts, strict=True)
        for each in clip.utterances
    ]
    joined = Clip(
        duration_seconds=float(ends[-1]),
        frames=FrameEmbeddings(
            epochs=np.concatenate([clip.frames.epochs for clip in clips]),
            pts_seconds=np.concatenate([c.frames.pts_seconds + s for c, s in zip(clips, starts, strict=True)]),
            vectors=stack([clip.frames.vectors for clip in clips]),
        ),
        utterances=utterances,
        sentences=stack([clip.sentences for clip in clips]),
    )
    return joined, ends[:-1]


def stack(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join vectors; those of a clip that has none may have any width."""
    return np.concatenate([part for part in vectors if len(part)] or vectors[:1])


def joined_videos(clips: Sequence[Clip], counts: tuple[int, int], seed: int = 0) -> list[tuple[Clip, Floats]]:
    """Return JOINED_COUNT videos of random clips, each clip at most once in a video."""
    random = np.random.default_rng(seed)
    videos = []
    for _ in range(JOINED_COUNT):
        count = int(random.integers(counts[0], min(counts[1], len(clips)) + 1))
        videos.append(join([clips[i] for i in random.permutation(len(clips))[:count]]))
    return videos


def chapters(clip: Clip, config: ChapterConfig) -> Floats:
    span = TimeSpan(start_seconds=0.0, end_seconds=clip.duration_seconds)
    pictures, speech = timed_pictures(clip.frames, span), timed_sentences(clip.utterances, clip.sentences)
    return find_parts(pictures, speech, span, config)[1:-1]


def equal_parts(clip: Clip, count: int) -> Floats:
    return np.linspace(0, clip.duration_seconds, count + 2)[1:-1]


def strongest_changes(clip: Clip, count: int) -> Floats:
    changes = picture_changes(clip.frames)
    return np.sort(changes.seconds[np.argsort(-changes.strengths)[:count]])


def cuts(clip: Clip) -> Floats:
    return picture_changes(clip.frames).cut_seconds


def measure(videos: Sequence[tuple[Clip, Floats]], find: Callable[[Clip, int], Floats]) -> Score:
    score = Score()
    for clip, joins in videos:
        score.add(find(clip, len(joins)), joins)
    return score


def table(videos: Sequence[tuple[Clip, Floats]]) -> list[str]:
    """Return the rows of all methods."""
    pictures_only = replace(CONFIG, speech_weight=0.0)
    methods: dict[str, Callable[[Clip, int], Floats]] = {
        "chapters": lambda clip, count: chapters(clip, CONFIG),
        "... of the pictures alone": lambda clip, count: chapters(clip, pictures_only),
        "equal parts, their number known": equal_parts,
        "the strongest changes of the picture, their number known": strongest_changes,
        "every cut": lambda clip, count: cuts(clip),
    }
    lines = ["| method | precision | recall | F1 | boundaries found |", "| --- | --- | --- | --- | --- |"]
    for name, find in methods.items():
        score = measure(videos, find)
        if not score.found:
            continue
        lines.append(f"| {name} | {score.precision:.2f} | {score.recall:.2f} | {score.f1:.2f} | {score.found} |")
    return lines


def without_pictures(clip: Clip) -> Clip:
    none = clip.frames.vectors[:0]
    return replace(clip, frames=FrameEmbeddings(epochs=np.empty(0, np.int32), pts_seconds=np.empty(0), vectors=none))


def long_video(clips: Sequence[Clip], hours: float) -> Clip:
    """Return the clips one after the other, again and again until the video is so long."""
    once, _ = join(clips)
    video, _ = join([once] * -(-int(hours * 3600) // int(once.duration_seconds)))
    return video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("library", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--half", default="report")
    arguments = parser.parse_args()
    clips = read_clips(arguments.library, arguments.questions, arguments.half)
    spoken = [clip for clip in clips if len(clip.utterances) > 1]
    lines = [
        "# Chapters of joined clips",
        "",
        f"`python -m benchmarks.chapters LIB QUERIES --half {arguments.half}`: boundaries within "
        f"{TOLERANCE_SECONDS:g} s of a join. {JOINED_COUNT} videos of three to eight clips each.",
        "",
    ]
    videos = joined_videos(clips, (3, 8))
    talks = joined_videos(spoken, (3, 8), seed=1)
    for name, group, count in (
        ("All clips", videos, len(clips)),
        ("Clips in which somebody speaks", talks, len(spoken)),
        ("The same without their pictures", [(without_pictures(clip), joins) for clip, joins in talks], len(spoken)),
    ):
        joins = sum(len(each) for _, each in group)
        minutes = np.mean([clip.duration_seconds for clip, _ in group]) / 60
        lines += [
            f"## {name}",
            "",
            f"{count} clips; {joins} joins; {minutes:.1f} minutes a video.",
            "",
            *table(group),
            "",
        ]
    inside = sum(len(chapters(clip, CONFIG)) for clip in clips)
    whole = sum(len(chapters(clip, CONFIG)) == 0 for clip in clips)
    lines += [
        "## The clips alone",
        "",
        f"{whole} of the {len(clips)} clips are one chapter; the others have {inside} boundaries. These count as wrong"
        " above, though some clips have scenes.",
        "",
        "## Time",
        "",
    ]
    clip = long_video(clips, 2)
    content = VideoContent(
        frames=clip.frames,
        utterances=clip.utterances,
        sentences=clip.sentences,
        span=TimeSpan(start_seconds=0.0, end_seconds=clip.duration_seconds),
    )
    works: dict[str, Callable[[], object]] = {
        "chapters with titles": lambda: find_chapters(content, STOP_WORDS, CONFIG),
        "ten highlights": lambda: find_highlights(content, 10),
    }
    lines += [
        f"Two hours: the clips again and again, {len(clip.frames.pts_seconds)} frames and {len(clip.utterances)}"
        " utterances. Memory is beside the vectors.",
        "",
    ]
    for name, work in works.items():
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        lines.append(f"- {name}: {seconds:.1f} s, {peak:.0f} MiB")
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
