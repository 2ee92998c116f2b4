"""Measures what the starter set of policies, and standing queries, find in ordinary videos.

    python -m benchmarks.policies LIB PICTURES [--queries FILE]... [--out FILE.md] [--write]

LIB is a data directory with the development videos. PICTURES is a folder of labelled pictures (encoders.mini.pictures),
of which only the held-out ones are read. For each policy of the starter set: how many held-out pictures of it reach its
threshold, how surely the videos show it, and which events open with its pictures on. Each of them counts
as wrong: look at it, and mend the count if it is right. FILE holds
questions with known answers, as `kinodex eval` takes them. Each question about pictures becomes a standing query over
all videos: which moments open, and how many of them are right. So does each question about a moment, over all
utterances.

--write stores the measurements of the policies beside the calibration of `mini`: serve.moderation.visual_rules reads
them there. The tables go into the last part of benchmarks/results/events.md.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.mini.pictures import EXCLUDED_SOURCES, is_held_out, read_pictures
from serve.evaluate.policies import find_policy_events
from serve.evaluate.questions import Question, Questions, names_of, read_all_questions
from serve.moderation.policies import STARTER, read_policies
from serve.moderation.scoring import generality_of, text_confidences
from serve.moderation.standing import NEAR_COSINE
from serve.moderation.standing_moments import judge_utterance
from serve.moderation.video_scorer import Rulebook
from serve.moderation.visual_rules import MEASURED, RuleMeasurement, write_measurements
from serve.search.intent import read_intent
from serve.search.library import Library
from serve.search.visual import VisualChannel
from serve.settings import load_settings
from serve.values import Query, Thresholds, Video
from temporal.hysteresis import Hysteresis, Rules
from temporal.values import ChangeKind

RESULTS = Path(__file__).parent / "results" / "events.md"
HEADING = "# What opens in ordinary videos"
# Labels of pictures that show what a policy looks for. Boxing and wrestling are look-alikes of a fight. A person who
# drinks may drink anything.
SHOWN = {
    "violence.weapon": {"shooting", "revolver", "rifle", "assault rifle"},
    "alcohol.drinking": {"beer bottle", "wine bottle", "wine", "beer", "red wine"},
    "smoking": {"person smoking a cigarette"},
}
SPOKEN_ENTERS = (0.3, 0.5, 0.7)
ENTERS = (0.1, 0.2, 0.3, 0.5, 0.7)  # thresholds of the standing queries
LEAVE_SHARE = 0.7  # of enter
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A visual event in a video."""

    policy_id: str
    name: str  # of the video
    start_seconds: float
    end_seconds: float
    confidence: float  # highest


def held_out_pictures(folder: Path, channel: VisualChannel) -> tuple[list[str], NDArray[np.float32]]:
    """Return the labels of the held-out pictures, and their vectors."""
    labels: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    paths = [path for path in sorted(folder.glob("*.tar")) if is_held_out(path)]
    for label, picture in read_pictures(paths, channel.encoder.input_width, EXCLUDED_SOURCES):
        labels.append(label.label)
        pixels.append(picture)
    batches = [np.stack(pixels[n : n + BATCH]) for n in range(0, len(pixels), BATCH)]
    return labels, np.concatenate([channel.encoder.encode_frames(batch) for batch in batches])


def visual_events(library: Library, book: Rulebook, videos: Sequence[Video]) -> Iterator[Opened]:
    """Yield the visual events of a rulebook in some videos."""
    for video in videos:
        events = find_policy_events(library, book, video)
        for n, policy in enumerate(book.policies):
            for span in events.visual[n]:
                assert events.confidences is not None
                inside = (events.pts_seconds >= span.start_seconds) & (events.pts_seconds < span.end_seconds)
                yield Opened(
                    policy_id=policy.policy_id, name=Path(video.uri).name, start_seconds=span.start_seconds,
                    end_seconds=span.end_seconds, confidence=float(events.confidences[inside, n].max()),
                )  # fmt: skip


def speech_events(library: Library, book: Rulebook, videos: Sequence[Video]) -> Iterator[str]:
    """Yield the policy and the video of each event of words."""
    for video in videos:
        events = find_policy_events(library, book, video)
        for policy, spans in zip(book.policies, events.speech, strict=True):
            yield from (f"{policy.policy_id} in {Path(video.uri).name}" for _ in spans)


def measure_starter(
    library: Library, videos: Sequence[Video], labels: Sequence[str], pictures: NDArray[np.float32]
) -> tuple[list[RuleMeasurement], list[str]]:
    """Return the measurements of the starter set, and the lines of their table."""
    channel = library.engine.visual
    assert channel is not None
    policies = read_policies(STARTER)
    all_on = replace(policies, policies=tuple(replace(each, visual="on") for each in policies.policies))
    book = Rulebook(all_on, "", channel, library.engine.fingerprint)
    assert book.frame_scorer is not None
    opened = list(visual_events(library, book, videos))
    hours = sum(video.duration_seconds for video in videos) / 3600
    frames = np.concatenate([frame_vectors(channel, video) for video in videos])
    of_frames, of_pictures = book.frame_scorer.confidences(frames), book.frame_scorer.confidences(pictures)
    rules = []
    lines = [
        "| policy | enter | its pictures: found | best | other pictures: found | videos: best | events | `mini` |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for n, policy in enumerate(policies.policies):
        is_shown = np.array([label in SHOWN.get(policy.policy_id, ()) for label in labels])
        own, others = of_pictures[is_shown, n], of_pictures[~is_shown, n]
        rule = RuleMeasurement(
            label=policy.label, shows=policy.shows, unlike=policy.unlike, enter=policy.enter,
            picture_count=len(own), found_count=int((own >= policy.enter).sum()),
            wrong_event_count=sum(event.policy_id == policy.policy_id for event in opened), hours=round(hours, 2),
        )  # fmt: skip
        rules.append(rule)
        found = f"{rule.found_count} of {len(own)} | {own.max():.2f}" if len(own) else "none at hand | -"
        wrong = f"{int((others >= policy.enter).sum())} of {len(others)}"
        lines.append(
            f"| {policy.policy_id} | {policy.enter:g} | {found} | {wrong} | {of_frames[:, n].max():.2f} |"
            f" {rule.wrong_event_count} | {'on' if rule.can_tell else 'off'} |"
        )
    return rules, lines


def frame_vectors(channel: VisualChannel, video: Video) -> NDArray[np.float32]:
    frames = channel.frames.get(video.row, video.version)
    return frames.vectors.take(np.arange(len(frames)))


def measure_standing(library: Library, videos: Sequence[Video], questions: Sequence[Question]) -> list[str]:
    """Return the lines of a table: what opens at each threshold if every question is a standing query."""
    channel = library.engine.visual
    assert channel is not None
    texts = np.stack([channel.encode_text(read_intent(question.text).text) for question in questions])
    hours = sum(video.duration_seconds for video in videos) / 3600
    by, generality = channel.calibration.moment, generality_of(texts, channel.bank)
    of_videos = [
        text_confidences(frame_vectors(channel, video), texts, generality, channel.bank, by) for video in videos
    ]
    present_count = sum(question.file is not None for question in questions)
    lines = []
    for enter in ENTERS:
        peaks, is_right, found = [], [], set()
        for video, confidences in zip(videos, of_videos, strict=True):
            times = channel.frames.get(video.row, video.version).pts_seconds
            for peak, n, start, end in moments(times, confidences, video.duration_seconds, enter):
                question = questions[n]
                peaks.append(peak)
                is_right.append(
                    question.file in names_of(video)
                    and (
                        not question.spans
                        or any(start < s.end_seconds and s.start_seconds < end for s in question.spans)
                    )
                )
                found |= {n} if is_right[-1] else set()
        right, count = sum(is_right), len(peaks)
        share = f"{right / count:.2f} | {np.mean(peaks):.2f}" if count else "- | -"
        lines.append(
            f"| {enter:g} | {count} | {right} | {share} | {len(found)} of {present_count} |"
            f" {(count - right) / len(questions) / hours:.2f} |"
        )
    return lines


def measure_spoken(library: Library, videos: Sequence[Video], questions: Sequence[Question]) -> Iterator[str]:
    """Yield the lines of a table: which utterances open a moment if every question is a standing query."""
    engine = library.engine
    targets = [engine.target_of(Query(text=question.text), None) for question in questions]
    vectors = np.stack([target.speech for target in targets if target.speech is not None])
    if len(vectors) < len(questions):
        sys.exit("a question asks for nothing that is said")
    hours = sum(video.duration_seconds for video in videos) / 3600
    answers: list[tuple[float, int, bool]] = []  # confidence, question, whether it is right
    for video in videos:
        for utterance in library.catalog.utterances(video.row):
            if not utterance.text.strip():
                continue
            vector = engine.sentences.encode([utterance.text])[0]
            cosines = vectors @ vector
            for n in np.flatnonzero(cosines >= NEAR_COSINE).tolist():
                is_right = questions[n].file in names_of(video) and any(
                    utterance.start_seconds < span.end_seconds and span.start_seconds < utterance.end_seconds
                    for span in questions[n].spans
                )
                answers.append((judge_utterance(utterance, vector, float(cosines[n]), targets[n]), n, is_right))
    for channel in ("speech", "visual"):
        asked = [question for question in questions if question.channel == channel]
        for enter in SPOKEN_ENTERS:
            opened = [each for each in answers if each[0] >= enter and questions[each[1]].channel == channel]
            right = [each for each in opened if each[2]]
            share = (
                f"{len(right) / len(opened):.2f} | {np.mean([each[0] for each in opened]):.2f}" if opened else "- | -"
            )
            found = len({each[1] for each in right})
            yield (
                f"| {channel} | {enter:g} | {len(opened)} | {len(right)} | {share} |"
                f" {found} of {sum(question.file is not None for question in asked)} |"
                f" {(len(opened) - len(right)) / max(1, len(asked)) / hours:.2f} |"
            )


def moments_of(questions: Questions, videos: Sequence[Video]) -> list[Question]:
    """Return the questions about moments of some videos, and about absent events."""
    names = {name for video in videos for name in names_of(video)}
    return [each for each in (*questions.moments, *questions.absent) if each.file is None or each.file in names]


def moments(
    times: NDArray[np.float64], confidences: NDArray[np.float64], duration_seconds: float, enter: float
) -> Iterator[tuple[float, int, float, float]]:
    """Yield the confidence, the query, start and end of each moment that N queries open in one video."""
    count = confidences.shape[1]
    tracks = Hysteresis(
        Rules(
            enter=np.full(count, enter), leave=np.full(count, LEAVE_SHARE * enter),
            min_seconds=np.full(count, Thresholds().min_seconds), cooldown_seconds=np.zeros(count),
        )
    )  # fmt: skip
    changes = []
    for seconds, row in zip(times.tolist(), confidences, strict=True):
        changes += tracks.step(seconds, row)
    changes += tracks.finish(max(duration_seconds, times[-1]))
    for change in changes:
        if change.kind is ChangeKind.CLOSED:
            yield change.peak, change.track, change.start_seconds, change.end_seconds


def starter_part(library: Library, videos: Sequence[Video], pictures: Path, *, is_written: bool) -> list[str]:
    """Measure the starter set, store the measurements if `is_written`, and return the lines about it."""
    channel = library.engine.visual
    assert channel is not None
    rules, lines = measure_starter(library, videos, *held_out_pictures(pictures, channel))
    if is_written:
        write_measurements(MEASURED, channel.encoder.fingerprint, rules)
    book = Rulebook(read_policies(STARTER), "", channel, library.engine.fingerprint)
    opened = list(visual_events(library, book, videos))
    said = list(speech_events(library, book, videos))
    return [
        "",
        "## The starter set",
        "",
        "Pictures of what a policy looks for and all other pictures, both held out, and the videos, with the pictures",
        "of every policy on. Found: at least at the confidence `enter`. Best: the highest confidence. Events: of",
        "pictures, in the videos; each would have to be looked at, and counts as wrong. Last: as shipped.",
        "",
        *lines,
        "",
        f"As shipped, the starter set opens {len(opened)} events of pictures and {len(said)} of words.",
        *(f"- pictures: {event}" for event in opened),
        *(f"- words: {event}" for event in said),
    ]


def standing_parts(library: Library, videos: Sequence[Video], paths: Sequence[Path]) -> Iterator[str]:
    """Measure standing queries on each half of some files of questions; yield the lines about them."""
    every = read_all_questions(paths)
    names = {name for video in videos for name in names_of(video)}
    with_sound = [video for video in library.videos() if video.utterance_count]
    for half in sorted({question.half for question in (*every.videos, *every.moments, *every.absent)}):
        part = every.of(half)
        questions = [
            question
            for question in (*part.videos, *part.moments, *part.absent)
            if question.channel == "visual" and (question.file is None or question.file in names)
        ]
        yield from (
            "",
            f"## Standing queries, half {half}",
            "",
            f"{len(questions)} questions about pictures, each a standing query over all videos.",
            "",
            "| enter | moments | right | share | mean confidence | questions found | wrong, a query and hour |",
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *measure_standing(library, videos, questions),
            "",
            "Questions about moments of videos with words, and about absent events, each a standing query over all",
            "utterances.",
            "",
            "| asks for | enter | moments | right | share | mean confidence | found | wrong, a query and hour |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            *measure_spoken(library, with_sound, moments_of(part, with_sound)),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--queries", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write", action="store_true", help="store the measurements for mini")
    given = parser.parse_args()
    with Library.open(given.library, load_settings(given.library)) as library:
        library.engine.refresh()
        if library.engine.visual is None:
            sys.exit("the library has no visual encoder")
        videos = [video for video in library.videos() if video.frame_count]
        hours = sum(video.duration_seconds for video in videos) / 3600
        command = shlex.join(["python", "-m", "benchmarks.policies", *sys.argv[1:]])
        lines = [
            HEADING,
            "",
            f"`{command}`, {date.today()}.",
            f"{len(videos)} development videos, {hours:.2f} h; visual encoder {library.engine.visual.encoder.name}.",
            *starter_part(library, videos, given.pictures, is_written=given.write),
            *(standing_parts(library, videos, given.queries) if given.queries else ()),
        ]
    text = "\n".join(lines) + "\n"
    before = given.out.read_text(encoding="utf-8").partition(HEADING)[0].rstrip("\n") if given.out.exists() else ""
    given.out.write_text(f"{before}\n\n{text}" if before else text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
