"""Measures what training the fusion gains: order, speech with pictures, and no loss where there is little to learn.

    python benchmarks/fusion.py IMAGES [--library DATA --queries QUERIES.json] [--out FILE.md] [--steps N]

IMAGES is a folder of labelled pictures in tar files (shard-000.tar for training, val.tar for testing). Each trained
model has the shape that `kinodex train` ships, and is trained by its code. Vectors come from `mini` and its sentence
encoder.

order    clips of 16 s: a picture for 8 s, then another; captions "first the X, then the Y". Each clip has a twin with
         the same frames in the other order: which of the two captions is nearer to a clip?
both     clips of 16 s: a picture of one thing, and a sentence about another; captions name both. Which clip is nearest
         to a caption? A picture or a sentence alone is not enough, since each thing is in several clips.
library  with --library (a data directory with the videos of QUERIES.json): trained on the speech in the videos of the
         train half, tested on captions and visual moments of the report half.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.config import SentenceConfig, VisualConfig
from encoders.mini.encoder import MiniEncoder
from encoders.mini.pictures import Pictures, load_pictures
from encoders.sentence import SentenceEncoder
from encoders.values import FrameEmbeddings, Utterance
from encoders.weights import choose_device
from serve.evaluate.training_data import gather
from serve.settings import Settings
from temporal.config import TrainConfig, WindowConfig
from temporal.fusion.fusion import Fusion, MeanPooling
from temporal.fusion.retrieval_eval import judge, segments_of
from temporal.fusion.train import CANDIDATE, Outcome, train_fusion
from temporal.fusion.training_log import PLOT
from temporal.fusion.training_set import TrainingCaption, TrainingSet, TrainingVideo
from temporal.values import Pooling, TimeSpan

CLIP_SECONDS = 16
ORDER_STEPS = 1500  # order takes longest to learn: captions that differ only in order have almost equal vectors
CROPS = 4  # crops of each picture, since the frames of a shot are not identical
TOPICS = (
    "the budget", "football", "the weather", "elections", "a wedding", "climate change", "tax returns", "ballet",
    "the housing market", "a murder trial", "quantum physics", "school holidays", "the stock exchange", "jazz music",
    "a train strike", "vaccines", "ancient Rome", "computer viruses", "gardening", "the Olympic games", "insurance",
    "a bank robbery", "space travel", "pensions", "cheese", "earthquakes", "fashion", "the army", "chess", "diabetes",
)  # fmt: skip
LEARNT_SENTENCES = (
    "Let me tell you about {}.", "What everybody talks about today is {}.", "I have never understood {}.",
    "My sister wrote a book on {}.", "There is some news about {}.", "We should discuss {} again.",
)  # fmt: skip
UNSEEN_SENTENCES = ("Here is what I think of {}.", "Nobody asked me, but {} matters.", "So how did {} go?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The vectors of pictures, as frames of a video."""

    vectors: NDArray[np.float32]  # (P, CROPS, D)
    labels: tuple[str, ...]


def encoded(pictures: Pictures, rows: Sequence[int], mini: MiniEncoder, drawn: np.random.Generator) -> Shown:
    """Encode crops of some pictures, each nine tenths of its picture."""
    side = pictures.pixels.shape[1]
    part = side * 9 // 10
    crops = np.empty((len(rows) * CROPS, mini.input_height, mini.input_width, 3), np.uint8)
    for n, row in enumerate(np.repeat(rows, CROPS)):
        top, left = drawn.integers(0, side - part, 2)
        at = np.linspace(0, part - 1, mini.input_height).astype(int)
        crops[n] = pictures.pixels[row][np.ix_(at + top, at + left)]
    vectors = np.concatenate([mini.encode_frames(crops[n : n + 64]) for n in range(0, len(crops), 64)])
    labels = tuple(pictures.labels[row].label for row in rows)
    return Shown(vectors=vectors.reshape(len(rows), CROPS, -1), labels=labels)


def pick(pictures: Pictures, count: int, drawn: np.random.Generator) -> list[int]:
    """Return pictures whose label is a plain word, up to a count."""
    named = [n for n, one in enumerate(pictures.labels) if one.label.replace(" ", "").isalpha()]
    return drawn.permutation(named)[:count].tolist()


def frames_of(shown: Shown, picture: int, count: int) -> NDArray[np.float32]:
    return shown.vectors[picture][np.arange(count) % CROPS]


def clip(name: str, frames: NDArray[np.float32], sentence: str, sentences: SentenceEncoder | None) -> TrainingVideo:
    said = [] if sentences is None else [
        Utterance(epoch=0, start_seconds=3.0, end_seconds=7.0, text=sentence, words=(), language="en",
                  avg_logprob=-0.2, no_speech_prob=0.0)
    ]  # fmt: skip
    vectors = np.zeros((0, frames.shape[1]), np.float32) if sentences is None else sentences.encode([sentence])
    return TrainingVideo(
        name=name,
        duration_seconds=float(len(frames)),
        embeddings=FrameEmbeddings(
            epochs=np.zeros(len(frames), np.int32), pts_seconds=np.arange(len(frames), dtype=np.float64), vectors=frames
        ),
        utterances=said,
        sentences=vectors,
    )


def captioned(videos: Sequence[TrainingVideo], texts: Sequence[str], mini: MiniEncoder) -> TrainingSet:
    return TrainingSet(
        videos=videos,
        captions=[
            TrainingCaption(video=n, span=TimeSpan(start_seconds=0.0, end_seconds=one.duration_seconds))
            for n, one in enumerate(videos)
        ],
        caption_vectors=mini.encode_texts(list(texts)),
    )


def in_order(shown: Shown, pairs: int, mini: MiniEncoder, drawn: np.random.Generator) -> TrainingSet:
    """Make pairs of clips: the same two pictures in either order."""
    videos, texts = [], []
    while len(videos) < 2 * pairs:
        one, other = drawn.choice(len(shown.labels), 2, replace=False)
        if shown.labels[one] == shown.labels[other]:
            continue
        for first, second in ((one, other), (other, one)):
            half = CLIP_SECONDS // 2
            frames = np.concatenate([frames_of(shown, first, half), frames_of(shown, second, half)])
            videos.append(clip(f"{len(videos)}", frames, "", None))
            texts.append(f"first the {shown.labels[first]}, then the {shown.labels[second]}")
    return captioned(videos, texts, mini)


def with_speech(
    shown: Shown,
    count: int,
    forms: Sequence[str],
    tools: tuple[MiniEncoder, SentenceEncoder],
    drawn: np.random.Generator,
) -> TrainingSet:
    """Make clips that show a thing while somebody talks about another. Every pair of things occurs once."""
    mini, sentences = tools
    names = sorted(set(shown.labels))
    names = [names[n] for n in drawn.permutation(len(names))[: max(8, count // 5)]]
    pairs = [(name, topic) for name in names for topic in TOPICS]
    videos, texts = [], []
    for n in drawn.permutation(len(pairs))[:count]:
        name, topic = pairs[n]
        picture = int(drawn.choice([at for at, label in enumerate(shown.labels) if label == name]))
        said = forms[int(drawn.integers(len(forms)))].format(topic)
        videos.append(clip(f"{n}", frames_of(shown, picture, CLIP_SECONDS), said, sentences))
        texts.append(f"a {name}, while somebody talks about {topic}")
    return captioned(videos, texts, mini)


def vectors_of(data: TrainingSet, pooling: Pooling) -> NDArray[np.float32]:
    """Return the segment of each clip; every clip has exactly one."""
    cut = [segments_of(one, pooling, WindowConfig(), shows_words=True) for one in data.videos]
    return np.stack([found[0].vector for found in cut])


def twin_share(found: NDArray[np.float32], captions: NDArray[np.float32]) -> float:
    """Return the share of clips nearer to their own caption than to their twin's."""
    twins = captions.reshape(-1, 2, captions.shape[1])[:, ::-1].reshape(captions.shape)
    return float(((found * captions).sum(axis=1) > (found * twins).sum(axis=1)).mean())


def recall(found: NDArray[np.float32], captions: NDArray[np.float32], k: int) -> float:
    """Return the share of captions whose clip is among the k nearest of all clips."""
    near = captions @ found.T
    ranks = (near > np.diag(near)[:, None]).sum(axis=1) + (near == np.diag(near)[:, None]).sum(axis=1)
    return float((ranks <= k).mean())


def trained(data: TrainingSet, out: Path, config: TrainConfig) -> tuple[Fusion, Outcome, float]:
    """Train as `kinodex train` does. Return the model, the outcome, and the minutes."""
    began = time.monotonic()
    show = lambda report: print(report, flush=True)  # noqa: E731
    outcome = train_fusion(data, out, config, device=choose_device("auto"), on_report=show)
    fusion = Fusion(out / CANDIDATE, choose_device("auto"))
    fusion.load(data.frame_size, data.utterance_size)
    return fusion, outcome, (time.monotonic() - began) / 60


def order_rows(train_pictures: Shown, test_pictures: Shown, mini: MiniEncoder, out: Path) -> list[str]:
    drawn = np.random.default_rng(1)
    learnt, unseen = in_order(train_pictures, 1000, mini, drawn), in_order(test_pictures, 300, mini, drawn)
    # A caption describes the whole clip, so no window may hold the first picture alone.
    config = TrainConfig(steps=ORDER_STEPS, shortest_seconds=0.75 * CLIP_SECONDS)
    fusion, outcome, minutes = trained(learnt, out, config)
    rows = []
    for name, pooling in (("mean of the frames", MeanPooling()), ("fusion", fusion)):
        found = vectors_of(unseen, pooling)
        share, first = twin_share(found, unseen.caption_vectors), recall(found, unseen.caption_vectors, 1)
        rows.append(f"| {name} | {share:.3f} | {first:.3f} |")
    return [
        "## Order", "",
        f"{len(learnt.videos)} clips to learn from, {len(unseen.videos)} of pictures never seen;"
        f" best of {ORDER_STEPS} steps: {outcome.best_step}, {minutes:.0f} minutes.", "",
        "| segment | own caption before its twin's (chance 0.5) | recall@1 of all clips |",
        "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def both_rows(
    train_pictures: Shown, test_pictures: Shown, tools: tuple[MiniEncoder, SentenceEncoder], out: Path, steps: int
) -> list[str]:
    drawn = np.random.default_rng(2)
    learnt = with_speech(train_pictures, 2000, LEARNT_SENTENCES, tools, drawn)
    unseen = with_speech(test_pictures, 300, UNSEEN_SENTENCES, tools, drawn)
    fusion, outcome, minutes = trained(learnt, out, TrainConfig(steps=steps))
    seen = vectors_of(unseen, MeanPooling())
    said = np.concatenate([one.sentences for one in unseen.videos])
    ways = (
        ("picture alone (mean of the frames)", seen), ("speech alone", said),
        ("the sum of both", (seen + said) / np.linalg.norm(seen + said, axis=1, keepdims=True)),
        ("fusion", vectors_of(unseen, fusion)),
    )  # fmt: skip
    rows = [
        f"| {name} | {recall(found, unseen.caption_vectors, 1):.3f} | {recall(found, unseen.caption_vectors, 5):.3f} |"
        for name, found in ways
    ]
    return [
        "## Speech and picture", "",
        f"{len(learnt.videos)} clips to learn from, {len(unseen.videos)} of pictures and sentences never seen;"
        f" best of {steps} steps: {outcome.best_step}, {minutes:.0f} minutes.", "",
        "| segment | recall@1 | recall@5 |", "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def library_rows(data: Path, queries: Path, out: Path, steps: int) -> list[str]:
    truth = json.loads(queries.read_text())
    half = {video["file"]: video["half"] for video in truth["videos"]}
    gathered = gather([data], None, out, Settings(), lambda *_: None).data
    files = [Path(name_of(data, one.name)).name for one in gathered.videos]
    learnt = gathered.of_videos([n for n, file in enumerate(files) if half.get(file) == "train"])
    fusion, outcome, minutes = trained(learnt, out, TrainConfig(steps=steps, held_out_share=0.2))
    sentence = SentenceEncoder.load(SentenceConfig())
    mini = MiniEncoder.load(VisualConfig(), sentence)
    report = [n for n, file in enumerate(files) if half.get(file) == "report"]
    places = {files[n]: place for place, n in enumerate(report)}
    captions, texts = [], []
    for video in truth["videos"]:
        if video["file"] in places:
            place = places[video["file"]]
            whole = TimeSpan(start_seconds=0.0, end_seconds=gathered.videos[report[place]].duration_seconds)
            for field in ("caption", "alt"):
                captions.append(TrainingCaption(video=place, span=whole))
                texts.append(video[field])
    for moment in truth["moments"]:
        if moment["file"] in places and moment["channel"] == "visual":
            span = TimeSpan(start_seconds=moment["start_seconds"], end_seconds=moment["end_seconds"])
            captions.append(TrainingCaption(video=places[moment["file"]], span=span))
            texts.append(moment["query"])
    unseen = TrainingSet(
        videos=[gathered.videos[n] for n in report], captions=captions, caption_vectors=mini.encode_texts(texts)
    )
    rows = []
    for name, pooling in (("mean of the frames", MeanPooling()), ("fusion", fusion)):
        found = judge(pooling, unseen)
        rows.append(f"| {name} | {found.recall_at_1:.3f} | {found.moment_map:.3f} |")
    verdict = "promoted" if outcome.is_promoted else "not promoted"
    return [
        "## A library without captions", "",
        f"Learnt from {len(learnt.captions)} utterances of {len(learnt.videos)} videos; judged by"
        f" {len(texts)} captions and moments of {len(report)} others, by segments alone;"
        f" best of {steps} steps: {outcome.best_step} ({verdict}), {minutes:.0f} minutes.", "",
        "| segment | recall@1 of captions | mAP of seen moments |", "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def name_of(data: Path, name: str) -> str:
    """Return the URI of a video by its name in a training set."""
    from serve.catalog.catalog import Catalog

    with Catalog.open_reader(data) as catalog:
        collection, _, video_id = name.partition("/")
        return catalog.video(video_id, collection).uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="training steps of `both` and `library`")
    args = parser.parse_args()
    sentence = SentenceEncoder.load(SentenceConfig())
    mini = MiniEncoder.load(VisualConfig(), sentence)
    drawn = np.random.default_rng(0)
    pictures = {name: load_pictures([args.images / name], 96) for name in ("shard-000.tar", "val.tar")}
    learnt = encoded(pictures["shard-000.tar"], pick(pictures["shard-000.tar"], 1500, drawn), mini, drawn)
    unseen = encoded(pictures["val.tar"], pick(pictures["val.tar"], 600, drawn), mini, drawn)
    lines = [
        "# What training fusion is worth", "",
        f"`python benchmarks/fusion.py IMAGES …`, {date.today()}, {os.cpu_count()} cores of"
        f" {platform.processor() or platform.machine()}, device {choose_device('auto')},"
        f" Python {platform.python_version()}.", "",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lines += order_rows(learnt, unseen, mini, root / "order")
        if args.out is not None:
            plot = args.out.with_suffix(".png")
            plot.write_bytes((root / "order" / PLOT).read_bytes())
            lines += [f"![loss and recall over the steps]({plot.name})", ""]
        lines += both_rows(learnt, unseen, (mini, sentence), root / "both", args.steps)
        if args.library is not None:
            lines += library_rows(args.library, args.queries, root / "library", args.steps)
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
