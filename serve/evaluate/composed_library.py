"""Makes a library of composed videos (temporal.fusion.composition) from labelled pictures, for `kinodex train`.

The pictures are tars as `python -m encoders.mini train` reads them. The library is a data directory like any other, of
the encoders that the settings name, with its captions beside it; but there is no media behind its videos.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.clip import VisualEncoder
from encoders.errors import NoVisualEncoder, PicturesInvalid
from encoders.mini.pictures import EXCLUDED_SOURCES, Label, is_held_out, read_pictures
from encoders.sentence import SentenceEncoder
from encoders.values import FrameEmbeddings, Utterance
from ingest.values import MediaInfo
from serve.catalog.catalog import Catalog, NewVideo
from serve.encoder_set import Encoders
from temporal.fusion.composition import ComposedVideo, Composer, LabelledViews

CAPTIONS = "captions.jsonl"  # file beside the library
FREE_CAPTION = "caption"  # label of pictures with captions of their own, instead of a thing that they show
READ_PX = 192  # side of a picture as it is read; the views are cut from it
PICTURES_PER_LABEL = 3  # more labels teach more than more pictures of one
VIEWS = 2  # of each picture: the whole of it, and a part
LEAST_PART = 0.6  # smallest part of the width or height that a view shows
BRIGHTNESS = (0.7, 1.3)
HELD_OUT_SHARE = 0.1  # share of the labels whose pictures are only for tests
BATCH_COUNT = 64
COLLECTION = "composed"
MEDIA = MediaInfo(
    container="composed", duration_seconds=None, video_codec=None, audio_codec=None, width=None, height=None,
    rotation_degrees=0, frame_rate_fps=1.0,
)  # fmt: skip


def find_pictures(folder: Path) -> list[Path]:
    """Return the tars of a folder to learn from: those for validation, named *val.tar, are left out.

    Raises:
        PicturesInvalid: If there are none.
    """
    paths = sorted(path for path in folder.glob("*.tar") if not is_held_out(path))
    if not paths:
        raise PicturesInvalid(str(folder), "there is no .tar to learn from")
    return paths


def view_pictures(
    paths: Sequence[Path], encoder: VisualEncoder, cache: Path, on_done: Callable[[int], None] = lambda count: None
) -> LabelledViews:
    """Encode views of the first pictures of each label, or read them from the cache of an earlier call.

    Args:
        cache: File of the vectors. One of other pictures or of another encoder is replaced.
        on_done: Called with the count of pictures so far.
    Raises:
        PicturesInvalid: If a tar cannot be read.
    """
    settings = [encoder.fingerprint, [[path.name, path.stat().st_size] for path in paths], PICTURES_PER_LABEL, VIEWS]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    if cache.exists():
        with np.load(cache, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                labels, captions = json.loads(str(stored["texts"]))
                return LabelledViews(vectors=stored["vectors"], labels=labels, captions=captions)
    counts: Counter[str] = Counter()

    def is_wanted(label: Label) -> bool:
        counts[thing_of(label)] += 1
        return counts[thing_of(label)] <= PICTURES_PER_LABEL

    rng = np.random.default_rng(1)
    found: list[Label] = []
    waiting: list[NDArray[np.uint8]] = []
    vectors: list[NDArray[np.float32]] = []
    for label, pixels in read_pictures(list(paths), READ_PX, EXCLUDED_SOURCES, is_wanted):
        found.append(label)
        waiting += [make_view(pixels, encoder, rng if view else None) for view in range(VIEWS)]
        if len(waiting) >= BATCH_COUNT:
            vectors.append(encoder.encode_frames(np.stack(waiting)))
            waiting = []
            on_done(len(found))
    if waiting:
        vectors.append(encoder.encode_frames(np.stack(waiting)))
    views = LabelledViews(
        vectors=np.concatenate(vectors).reshape(len(found), VIEWS, -1),
        labels=[thing_of(label) for label in found],
        captions=[list(label.captions) for label in found],
    )
    cache.parent.mkdir(parents=True, exist_ok=True)
    texts = json.dumps([views.labels, views.captions])
    np.savez(cache, key=np.array(key), texts=np.array(texts), vectors=views.vectors)
    return views


def thing_of(label: Label) -> str:
    """Return what a picture shows; a picture with captions of its own shows what no other does."""
    return label.captions[0] if label.label == FREE_CAPTION else label.label


def make_view(pixels: NDArray[np.uint8], encoder: VisualEncoder, rng: np.random.Generator | None) -> NDArray[np.uint8]:
    """Return a picture at the encoder's input size: the whole, or, with a generator, a random part in random light."""
    brightness = 1.0
    if rng is not None:
        side = len(pixels)
        height, width = (int(side * part) for part in rng.uniform(LEAST_PART, 1.0, 2))
        top, left = int(rng.integers(0, side - height + 1)), int(rng.integers(0, side - width + 1))
        pixels = pixels[top : top + height, left : left + width]
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        brightness = rng.uniform(*BRIGHTNESS)
    size = (encoder.input_width, encoder.input_height)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized) * brightness, 0, 255).astype(np.uint8)


def part_of(views: LabelledViews, *, is_held_out: bool) -> LabelledViews:
    """Return the pictures to learn from, or those whose labels are held out for tests."""
    rows = [row for row, label in enumerate(views.labels) if holds_out(label) == is_held_out]
    return LabelledViews(
        vectors=views.vectors[rows],
        labels=[views.labels[row] for row in rows],
        captions=[views.captions[row] for row in rows],
    )


def holds_out(label: str) -> bool:
    """Whether the pictures of a label are only for tests; its hash decides."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") < HELD_OUT_SHARE * 2**32


def topics_of(views: LabelledViews) -> list[str]:
    """Return the labels that are plain words: what people talk about in composed videos."""
    return sorted(label for label in views.pictures if label.replace(" ", "").isalpha() and len(label.split()) <= 4)


def compose_library(
    folder: Path,
    directory: Path,
    encoders: Encoders,
    *,
    count: int,
    seed: int,
    on_stage: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> Path:
    """Make a library of composed videos and a file of their captions; return the file.

    Args:
        folder: Holds the tars of pictures.
        directory: The data directory to make; an earlier one of the same name must not exist.
        count: Number of videos.
        on_stage: As in serve.evaluate.training_data.gather().
    Raises:
        NoVisualEncoder: If the encoders see nothing.
        PicturesInvalid: If there are no pictures, or a tar cannot be read.
    """
    if encoders.visual is None:
        raise NoVisualEncoder("videos cannot be composed of pictures without a visual encoder")
    cache = directory.with_name("pictures.npz")
    views = part_of(
        view_pictures(
            find_pictures(folder), encoders.visual, cache, lambda done: on_stage("Encoding pictures", done, None)
        ),
        is_held_out=False,
    )
    on_stage("Composing videos", 0, None)
    topics = topics_of(views)
    if len(views.pictures) < 2 or not topics:
        raise PicturesInvalid(str(folder), "videos are composed of at least two labels, one of them a plain word")
    videos = Composer(views, topics, np.random.default_rng(seed)).compose(count)
    vectors = encode_sentences(videos, encoders.sentence)
    with Catalog.open_writer(directory) as catalog:
        catalog.set_space(encoders.space)
        for number, video in enumerate(videos):
            on_stage("Writing videos", number, len(videos))
            store_video(catalog, f"composed-{number}", video, vectors, encoders.space.fingerprint)
    captions = directory / CAPTIONS
    rows = [
        {"video": f"composed-{number}", "caption": told.text,
         "start_seconds": told.start_seconds, "end_seconds": told.end_seconds}
        for number, video in enumerate(videos)
        for told in video.captions
    ]  # fmt: skip
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return captions


def encode_sentences(videos: Sequence[ComposedVideo], encoder: SentenceEncoder) -> dict[str, NDArray[np.float32]]:
    """Return the vector of each sentence that is said in the videos."""
    texts = list(dict.fromkeys(said.text for video in videos for said in video.said))
    return dict(zip(texts, encoder.encode(texts), strict=True))


def store_video(
    catalog: Catalog, name: str, video: ComposedVideo, vectors: dict[str, NDArray[np.float32]], fingerprint: str
) -> None:
    """Write a composed video as an indexed one, without segments: training cuts its own windows."""
    new = NewVideo(
        video_id=name, collection=COLLECTION, uri=f"composed:{name}", content_sha256=name, fingerprint=fingerprint
    )
    row = catalog.begin(new)
    embeddings, utterances, sentences = encoded(video, vectors)
    catalog.add_frames(row, embeddings, [b""] * len(video.frames))
    if utterances:
        catalog.add_utterances(row, utterances, sentences)
    catalog.finish(row, media=MEDIA, duration_seconds=float(len(video.frames)), warnings=())


def encoded(
    video: ComposedVideo, vectors: dict[str, NDArray[np.float32]]
) -> tuple[FrameEmbeddings, list[Utterance], NDArray[np.float32]]:
    """Return a composed video's frames and utterances as an indexed video has them, and the utterances' vectors."""
    count = len(video.frames)
    embeddings = FrameEmbeddings(
        epochs=np.zeros(count, np.int32), pts_seconds=np.arange(count, dtype=np.float64), vectors=video.frames
    )
    utterances = [
        Utterance(
            epoch=0, start_seconds=said.start_seconds, end_seconds=said.end_seconds, text=said.text, words=(),
            language="en", avg_logprob=0.0, no_speech_prob=0.0,
        )
        for said in video.said
    ]  # fmt: skip
    sentences = [vectors[said.text] for said in video.said]
    return embeddings, utterances, np.stack(sentences) if sentences else np.zeros((0, 0), np.float32)
