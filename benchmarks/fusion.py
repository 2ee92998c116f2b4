"""Trains a fusion on composed videos, and measures what its segments find, beside the mean of the frames and a search.

    python -m benchmarks.fusion PICTURES WORK [--library DATA --queries QUERIES.json] [--half report] [--out FILE.md]

PICTURES is a folder of labelled pictures in tar files. WORK gets the vectors of the pictures, the composed training
videos and the checkpoint of `kinodex train --pictures`; what is there already is not made again. The encoders are the
built-in ones of this checkout.

composed  a library of videos composed of pictures whose labels were held out of the training (temporal.fusion.
          composition). The questions and the sentences have other forms than in the training. Each of "order" has a
          twin with the same frames in the other order.
library   with --library: DATA is a data directory with the videos of QUERIES.json, asked for whole videos.

Segments alone: the score of a video is that of its nearest segment. "search" is the whole search over segments that are
means: it scores frames, sentences and words, and needs segments only to choose among more than 200 videos. "search +
fusion" is what a channel of fused segments would give: the sum of both reciprocal ranks, with a smaller weight for the
segments.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.clip import VisualEncoder
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders, load_encoders
from serve.evaluate.composed_library import (
    encode_sentences,
    encoded,
    find_pictures,
    part_of,
    store_video,
    topics_of,
    view_pictures,
)
from serve.evaluate.questions import names_of, read_questions
from serve.evaluate.training_data import training_video
from serve.search.library import Library
from serve.search.visual import encode_text
from serve.settings import Settings
from serve.values import Query
from temporal.config import WindowConfig
from temporal.fusion.composition import KINDS, TEST_SENTENCES, ComposedVideo, Composer
from temporal.fusion.fusion import Fusion, MeanPooling
from temporal.fusion.retrieval_eval import segments_of
from temporal.fusion.train import CANDIDATE
from temporal.fusion.training_set import TrainingVideo
from temporal.values import Pooling, WindowTokens

TEST_COUNT = 160  # composed videos in the library that is asked; under 200, so that the search scores all of them
# How a question of each kind is asked.
FORMS = {"held": "{0}", "event": "{0}", "order": "first {0}, then {1}", "both": "{0}, and somebody says {1}"}
FUSED = "trained fusion"
FUSED_WEIGHTS = 0.15, 0.3, 0.5  # of the segments' reciprocal ranks beside the search's
RANK_CONSTANT = 10  # added to a rank, from 0, before the reciprocal
SENTENCE_SHARE = 0.5  # of the mean sentence, beside the mean frame, in the plain sum of both


class SumPooling:
    """The mean of the frames and, with a smaller weight, of the sentences: what needs no training."""

    name = "sum"

    def load(self, frame_size: int, utterance_size: int) -> None: ...

    def vectors(self, windows: Sequence[WindowTokens]) -> list[NDArray[np.float32] | None]:
        found: list[NDArray[np.float32] | None] = []
        for window in windows:
            total = window.frames.mean(axis=0) if len(window.frames) else None
            if total is not None and len(window.utterances):
                total = total + SENTENCE_SHARE * window.utterances.mean(axis=0)
            found.append(None if total is None else (total / np.linalg.norm(total)).astype(np.float32))
        return found


def train(pictures: Path, work: Path, videos: int, steps: int) -> Path:
    """Run `kinodex train`, unless WORK has its checkpoint; return the best one, promoted or not."""
    if not (work / CANDIDATE).exists():
        command = [sys.executable, "-m", "kinodex", "train", "--pictures", str(pictures), "--out", str(work)]
        options = ["--videos", str(videos), "--steps", str(steps), "--device", "cpu"]
        environment = {**os.environ, "KINODEX_VISUAL_MODEL": "mini", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*command, *options], check=True, env=environment)
    return work / CANDIDATE


def held_out(pictures: Path, work: Path, encoder: VisualEncoder) -> list[ComposedVideo]:
    """Compose the videos to ask for, in the order of KINDS."""
    views = view_pictures(find_pictures(pictures), encoder, work / "pictures.npz")
    unseen = part_of(views, is_held_out=True)
    composer = Composer(unseen, topics_of(unseen), np.random.default_rng(2), sentences=TEST_SENTENCES)
    return [video for kind in KINDS for video in composer.compose(TEST_COUNT // len(KINDS), (kind,))]


def ranks_by_segments(
    videos: Sequence[TrainingVideo], pooling: Pooling, asked: Sequence[tuple[str, int]], encoder: VisualEncoder
) -> list[NDArray[np.float32]]:
    """Return, for each question, the scores of all videos by their nearest segments; -1 without pictures."""
    cut = [segments_of(video, pooling, WindowConfig(), shows_words=True) for video in videos]
    vectors = [np.stack([each.vector for each in one if each.vector is not None]) if one else None for one in cut]
    found = []
    for text, _ in asked:
        query = encode_text(encoder.encode_texts, encoder.calibration.templates, text)
        found.append(np.array([-1.0 if each is None else (each @ query).max() for each in vectors], np.float32))
    return found


def ranks_by_search(library: Library, names: Sequence[str], asked: Sequence[tuple[str, int]]) -> list[Any]:
    """Return, for each question, the scores of all videos in a whole search; -1 for videos that it does not find."""
    found = []
    for text, _ in asked:
        answers = library.search(Query(text=text, limit=len(names) + 1)).videos
        # By rank: the search breaks ties.
        places = {answer.video_id: -place for place, answer in enumerate(answers)}
        found.append(np.array([places.get(name, -len(names) - 1) for name in names], np.float32))
    return found


def recalls(scores: Sequence[NDArray[np.float32]], right: Sequence[int]) -> str:
    """Return recall@1 and @5; a tie counts against the right video."""
    ranks = np.array([(each >= each[row]).sum() for each, row in zip(scores, right, strict=True)])
    return f"{np.mean(ranks <= 1):.2f} / {np.mean(ranks <= 5):.2f}"


def reciprocal_ranks(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    ranks = (-scores).argsort(kind="stable").argsort(kind="stable")
    return (1 / (RANK_CONSTANT + ranks)).astype(np.float32)


def with_fused(
    searched: Sequence[NDArray[np.float32]], fused: Sequence[NDArray[np.float32]]
) -> dict[str, list[NDArray[np.float32]]]:
    """Return the scores of the search, alone and with the segments as one more channel."""
    rows = {"search, by frames and words": list(searched)}
    for weight in FUSED_WEIGHTS:
        rows[f"search + {weight} fusion"] = [
            reciprocal_ranks(one) + weight * reciprocal_ranks(other) for one, other in zip(searched, fused, strict=True)
        ]
    return rows


def composed_row(scores: Sequence[NDArray[np.float32]], videos: Sequence[ComposedVideo]) -> str:
    """Return the cells of each kind; of "order" also the share of videos before their twin."""
    cells = []
    for kind in KINDS:
        rows = [row for row, video in enumerate(videos) if video.kind == kind]
        cell = recalls([scores[row] for row in rows], rows)
        if kind == "order":
            cell += f" / {np.mean([scores[row][row] > scores[row][row ^ 1] for row in rows]):.2f}"
        cells.append(cell)
    return " | ".join(cells)


def composed_lines(
    videos: Sequence[ComposedVideo], ways: dict[str, Pooling], encoders: Encoders, settings: Settings
) -> list[str]:
    assert encoders.visual is not None
    sentences = encode_sentences(videos, encoders.sentence)
    asked = [(FORMS[video.kind].format(*video.things), row) for row, video in enumerate(videos)]
    names = [f"v{row}" for row in range(len(videos))]
    known = []
    for name, video in zip(names, videos, strict=True):
        embeddings, utterances, vectors = encoded(video, sentences)
        known.append(
            TrainingVideo(
                name=name, duration_seconds=float(len(video.frames)), embeddings=embeddings, utterances=utterances,
                sentences=vectors,
            )
        )  # fmt: skip
    lines = [
        f"{len(videos)} composed videos of labels that training did not see, a question for each: recall@1 / @5; of"
        " order also the share of videos ranked before their twin (chance 0.5).", "",
        f"| segments | {' | '.join(KINDS)} |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    found = {name: ranks_by_segments(known, pooling, asked, encoders.visual) for name, pooling in ways.items()}
    with tempfile.TemporaryDirectory() as folder:
        with Catalog.open_writer(Path(folder)) as catalog:
            catalog.set_space(encoders.space)
            for name, video in zip(names, videos, strict=True):
                store_video(catalog, name, video, sentences, encoders.space.fingerprint)
        with Library.open(folder, settings) as library:
            searched = ranks_by_search(library, names, asked)
    found |= with_fused(searched, found[FUSED])
    return [*lines, *(f"| {name} | {composed_row(scores, videos)} |" for name, scores in found.items()), ""]


def library_lines(data: Path, queries: Path, half: Any, ways: dict[str, Pooling], settings: Settings) -> list[str]:
    with Library.open(data, settings) as library:
        stored = [video for video in library.catalog.videos() if video.frame_count]
        known = [training_video(library.catalog, video) for video in stored]
        rows = {name: row for row, video in enumerate(stored) for name in names_of(video)}
        asked = [(one.text, rows[one.file]) for one in read_questions(queries).of(half).videos if one.file in rows]
        right = [row for _, row in asked]
        visual = library.encoders.visual
        assert visual is not None
        lines = [
            f"Development questions, {half} half: {len(asked)} captions of whole videos among {len(stored)}.", "",
            "| segments | recall@1 / @5 |", "| --- | --- |",
        ]  # fmt: skip
        found = {name: ranks_by_segments(known, pooling, asked, visual) for name, pooling in ways.items()}
        searched = ranks_by_search(library, [video.video_id for video in stored], asked)
        found |= with_fused(searched, found[FUSED])
    return [*lines, *(f"| {name} | {recalls(scores, right)} |" for name, scores in found.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--half", choices=["train", "report"], default="train")
    parser.add_argument("--videos", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    checkpoint = train(args.pictures, args.work, args.videos, args.steps)
    minutes = (time.monotonic() - began) / 60
    settings = replace(Settings(), visual=replace(Settings().visual, model="mini"))
    encoders = load_encoders(settings, None, speech=("none", "none"))
    assert encoders.visual is not None
    fusion = Fusion(checkpoint, "cpu")
    fusion.load(encoders.visual.width, encoders.sentence.width)
    ways: dict[str, Pooling] = {
        "mean of the frames": MeanPooling(), "sum of both means": SumPooling(), FUSED: fusion,
    }  # fmt: skip
    lines = [
        "# What a trained fusion is worth", "",
        f"`python -m benchmarks.fusion PICTURES WORK --library DATA --queries QUERIES.json`, {date.today()},"
        f" {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}; {encoders.visual.name}"
        f" {encoders.visual.fingerprint}, {args.videos} videos to learn from, {args.steps} steps, {minutes:.0f} minutes"
        " of training in this run.", "",
        *composed_lines(held_out(args.pictures, args.work, encoders.visual), ways, encoders, settings),
    ]  # fmt: skip
    if args.library is not None:
        lines += library_lines(args.library, args.queries, args.half, ways, settings)
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
