"""Makes the data of benchmarks/serving.py: a library of any size, and questions about it, without decoding media.

Pictures are random walks on the unit sphere, shot by shot, around the real text vectors of captions. So frames of a
video have cosines of 0.75 to 0.98 with each other, and of -0.1 to 0.45 with captions. Sentences are made of words with
real frequencies (Zipf), and have the vectors of the real encoder. All data follows from the seed.
"""

import io
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.config import VisualConfig
from encoders.values import FrameEmbeddings, Utterance, Word
from ingest.values import MediaInfo
from serve import encoder_set
from serve.catalog.catalog import Catalog, NewVideo
from serve.indexing import pipeline
from serve.search.traits import CaptionBank, caption_bank_of, compute_file_traits
from serve.settings import Settings
from temporal.fusion.fusion import MeanPooling
from temporal.window import cut_video

# ruff: noqa: SIM905 - tables of words read as words
RECIPE = 4  # version of the data; a change makes the library again
SEED = 20_261_123
SEGMENTS_OF_VIDEO = 100
STRIDE_SECONDS = 8
VIDEO_SECONDS = STRIDE_SECONDS * (SEGMENTS_OF_VIDEO + 1)  # the last window of 16 s ends with the video
FRAME_BLOCK_COUNT = 202  # frames in a transaction
CAPTION_COUNT = 400
SENTENCE_COUNT = 8_000
UTTERANCE_SECONDS = 10.0  # an utterance in so many seconds: about 80 in a video
THUMBNAIL_COUNT = 32
# The vector of a frame is a sum of vectors with these lengths, scaled to unit length.
SHOT_SHARES = {"caption": 0.33, "pictures": 0.50, "video": 0.65, "shot": 0.25, "walk": 0.35}
WALK_KEEPS = 0.8  # share of the random walk that remains from second to second
SHOT_SECONDS = 20.0  # mean length of a shot
MEDIA = MediaInfo(
    container="mov,mp4,m4a,3gp,3g2,mj2", duration_seconds=float(VIDEO_SECONDS), video_codec="h264", audio_codec="aac",
    width=1280, height=720, rotation_degrees=0, frame_rate_fps=25.0,
)  # fmt: skip

COLOURS = (
    "red blue white black green yellow old small large wooden bright empty tiny broken shiny wet dark heavy".split()
)
THINGS = (
    "car dog person train boat house bicycle child horse ball bird table phone camera bridge tree computer flower "
    "truck cat guitar ship book plane window cup chair lamp kite drum piano clock ladder tent basket robot statue "
    "umbrella candle violin tractor sailboat balloon telescope lantern windmill compass accordion hammock typewriter "
    "anvil"
).split()
DOINGS = (
    "standing moving waiting turning falling stopping shining resting rolling appearing swinging burning drifting "
    "leaning spinning sliding floating melting"
).split()
PLACES = (
    "on a street|in a field|near a bridge|at the beach|in a kitchen|by a river|under a tree|in front of a house|"
    "on a stage|in the snow|at night|in a garden|on a hill|in an office|at a station|in a workshop|on the water|"
    "behind a fence|in a market|at a harbour|in a stadium|on a roof|beside a lake|in the desert|in a tunnel"
).split("|")
SPEAKERS = (
    "I|we|they|you|she|he|somebody|everyone|people|the engineers|our neighbours|the students|my grandmother|the mayor"
).split("|")
SAYINGS = (
    "saw|wanted|found|talked about|bought|needed|sold|built|lost|remembered|painted|repaired|measured|designed|"
    "photographed|described|compared|borrowed|restored|invented"
).split("|")
TOPICS = (
    "the weather|a new project|the price of oil|the city of Paris|climate change|the football match|a long journey|"
    "the history of Rome|machine learning|a good breakfast|the election|the river Danube|solar energy|a broken engine|"
    "the moon landing|an old recipe|the stock market|quantum computers|ancient pottery|deep sea fish|the jazz festival|"
    "volcanic islands|chess openings|railway timetables|the Alhambra|sourdough bread|glacier melting|penguin colonies"
).split("|")
WHENS = (
    "last week|this morning|in the spring|a year ago|before the war|on Monday|two days later|at the end of the century|"
    "after dinner|in nineteen eighty four|every single day|during the holidays"
).split("|")
WHYS = (
    "and that was only the beginning|because nobody else would do it|so we had to start again|"
    "which is why it matters today|and it cost twenty dollars|but it did not work at first|"
    "and I will show you how|as you can see here|and the results were surprising|although it was raining"
).split("|")


# ------------------------------------------------------------------ words
def zipf(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Draw a word, the first words far more often than the last."""
    return words[int((len(words) + 1) ** rng.random()) - 1]


def caption(rng: np.random.Generator) -> str:
    return f"a {zipf(rng, COLOURS)} {zipf(rng, THINGS)} {zipf(rng, DOINGS)} {zipf(rng, PLACES)}"


def sentence(rng: np.random.Generator) -> str:
    """Make one of about 40 million sentences."""
    what = (
        zipf(rng, TOPICS) if rng.random() < 0.5 else f"the {zipf(rng, COLOURS)} {zipf(rng, THINGS)} {zipf(rng, PLACES)}"
    )
    said = f"{zipf(rng, SPEAKERS)} {zipf(rng, SAYINGS)} {what}"
    if rng.random() < 0.6:
        said += f" {zipf(rng, WHENS)}"
    if rng.random() < 0.4:
        said += f" {zipf(rng, WHYS)}"
    return f"{said[0].upper()}{said[1:]}."


def question(rng: np.random.Generator) -> str:
    """Make a question as people ask: half are captions, the others ask for speech or pictures."""
    kind = rng.random()
    if kind < 0.5:
        return caption(rng)
    if kind < 0.7:
        return f"when does the speaker mention {zipf(rng, TOPICS)} {zipf(rng, WHENS)}?"
    if kind < 0.9:
        return f"{zipf(rng, SAYINGS)} the {zipf(rng, COLOURS)} {zipf(rng, THINGS)} {zipf(rng, PLACES)}"
    return f"show me the {zipf(rng, COLOURS)} {zipf(rng, THINGS)} {zipf(rng, PLACES)}"


def distinct(make: Callable[[np.random.Generator], str], count: int, seed: Sequence[int]) -> list[str]:
    """Return `count` different texts."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[make(rng)] = None
    return list(found)


def new_questions(count: int, run: int) -> list[str]:
    """Return different questions of words of the library; the questions differ from run to run (of some thousand)."""
    rng = np.random.default_rng((SEED, 7, run))
    places = math.prod(map(len, (COLOURS, THINGS, DOINGS, PLACES, WHENS)))
    found = []
    for at in rng.choice(places, count, replace=False).tolist():
        chosen = []
        for words in (COLOURS, THINGS, DOINGS, PLACES, WHENS):
            at, n = divmod(at, len(words))
            chosen.append(words[n])
        found.append("a {} {} {} {} {}".format(*chosen))
    return found


# ------------------------------------------------------------------ vectors
def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


class Pictures:
    """Draws the frames of videos."""

    def __init__(self, captions: NDArray[np.float32]) -> None:
        self.captions, self.width = captions, captions.shape[1]
        self.common = unit(np.random.default_rng((SEED, 1)).standard_normal(self.width).astype(np.float32))

    def video(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the frames of a video, one a second: float32 (VIDEO_SECONDS, D), unit length."""
        own = unit(rng.standard_normal(self.width).astype(np.float32))
        shows = rng.choice(len(self.captions), rng.integers(3, 8), replace=False)
        is_cut = rng.random(VIDEO_SECONDS) < 1 / SHOT_SECONDS
        shot_of = np.cumsum(is_cut)  # (T,)
        count = int(shot_of[-1]) + 1
        shots = unit(rng.standard_normal((count, self.width), np.float32))
        seen = self.captions[rng.choice(shows, count)]
        noise = rng.standard_normal((VIDEO_SECONDS, self.width), np.float32) / np.float32(math.sqrt(self.width))
        fresh = np.float32(math.sqrt(1 - WALK_KEEPS**2))
        for at in range(1, VIDEO_SECONDS):
            if not is_cut[at]:
                noise[at] = WALK_KEEPS * noise[at - 1] + fresh * noise[at]
        share = {name: np.float32(value) for name, value in SHOT_SHARES.items()}
        return unit(
            (share["caption"] * seen + share["shot"] * shots)[shot_of]
            + share["pictures"] * self.common
            + share["video"] * own
            + share["walk"] * noise
        )


class Speech:
    """Draws the speech of videos."""

    def __init__(self, sentences: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self.sentences, self.vectors = sentences, vectors

    def video(self, rng: np.random.Generator) -> tuple[list[Utterance], NDArray[np.float32]]:
        """Return utterances with the vectors of their sentences. Some follow each other at once, as in speech."""
        said, chosen, at = [], [], float(rng.uniform(0, 5))
        for n in rng.integers(0, len(self.sentences), round(VIDEO_SECONDS / UTTERANCE_SECONDS)).tolist():
            text = self.sentences[n]
            words = text.split()
            step = float(rng.uniform(0.25, 0.45))
            end = at + step * len(words)
            if end >= VIDEO_SECONDS:
                break
            said.append(spoken(text, words, at, step))
            chosen.append(n)
            at = end + float(rng.exponential(1.0 if rng.random() < 0.6 else 12.0))
        return said, self.vectors[chosen]


def spoken(text: str, words: Sequence[str], at: float, step: float) -> Utterance:
    return Utterance(
        epoch=0, start_seconds=at, end_seconds=at + step * len(words), text=text, language="en", avg_logprob=-0.25,
        no_speech_prob=0.03,
        words=tuple(
            Word(text=word, start_seconds=round(at + step * n, 2), end_seconds=round(at + step * (n + 1), 2),
                 probability=0.9)
            for n, word in enumerate(words)
        ),
    )  # fmt: skip


def thumbnails(rng: np.random.Generator) -> list[bytes]:
    """Return tiny JPEGs. Real thumbnails have some 8 kB, but questions read none."""
    made = []
    for colour in rng.integers(0, 256, (THUMBNAIL_COUNT, 3)):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), tuple(map(int, colour))).save(file, "JPEG", quality=30, optimize=True)
        made.append(file.getvalue())
    return made


# ------------------------------------------------------------------ the library
def library(cache: Path, segment_count: int) -> Path:
    """Return a data directory of about `segment_count` segments; it is made if it does not exist."""
    directory = cache / f"library-{segment_count}-{RECIPE}"
    if not directory.exists():
        part = cache / f"library-{segment_count}-{RECIPE}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part, max(1, round(segment_count / SEGMENTS_OF_VIDEO)))
        part.rename(directory)
    return directory


def fill(directory: Path, video_count: int) -> None:
    settings = replace(Settings(), visual=VisualConfig(model="mini"))
    started = time.monotonic()
    with Catalog.open_writer(directory) as catalog:
        _, encoders = encoder_set.load_for_indexing(settings, catalog.space())
        pipeline.claim_space(catalog, directory, encoders)
        assert encoders.visual is not None
        pictures = Pictures(encoders.visual.encode_texts(distinct(caption, CAPTION_COUNT, (SEED, 2))))
        sentences = distinct(sentence, SENTENCE_COUNT, (SEED, 3))
        speech = Speech(sentences, encoders.sentence.encode(sentences))
        captions = caption_bank_of(directory, encoders.visual)
        small = thumbnails(np.random.default_rng((SEED, 4)))
        for n in range(video_count):
            rng = np.random.default_rng((SEED, 5, n))
            put(catalog, encoders.space.fingerprint, settings, captions, f"video-{n:05d}", pictures.video(rng),
                *speech.video(rng), [small[k] for k in rng.integers(0, len(small), VIDEO_SECONDS)])  # fmt: skip
            if n % 100 == 99:
                print(f"{n + 1} of {video_count} videos, {time.monotonic() - started:.0f} s", flush=True)
        pipeline.save_indexes(catalog, directory, encoders.space.fingerprint, settings)
    print(f"library made in {time.monotonic() - started:.0f} s, {size_bytes(directory) / 1e9:.2f} GB", flush=True)


def put(
    catalog: Catalog,
    fingerprint: str,
    settings: Settings,
    captions: CaptionBank | None,
    video_id: str,
    frames: NDArray[np.float32],
    said: list[Utterance],
    vectors: NDArray[np.float32],
    small: list[bytes],
) -> None:
    """Index a video as serve.indexing.run does, without decoding and encoding."""
    row = catalog.begin(
        NewVideo(
            video_id=video_id, collection="default", uri=f"file:///videos/{video_id}.mp4", content_sha256="00" * 32,
            fingerprint=fingerprint,
        )
    )  # fmt: skip
    embeddings = FrameEmbeddings(
        epochs=np.zeros(len(frames), np.int32), pts_seconds=np.arange(len(frames), dtype=np.float64), vectors=frames
    )
    for block in blocks(len(frames)):
        some = FrameEmbeddings(
            epochs=embeddings.epochs[block], pts_seconds=embeddings.pts_seconds[block], vectors=frames[block]
        )
        catalog.add_frames(row, some, small[block])
    catalog.add_utterances(row, said, vectors)
    cut = cut_video(
        video_id, embeddings, said, vectors,
        duration_seconds=float(VIDEO_SECONDS), config=settings.window, pooling=MeanPooling(),
    )  # fmt: skip
    catalog.add_segments(row, [one.segment for one in cut])
    catalog.add_traits(row, compute_file_traits(embeddings, captions))
    catalog.finish(row, media=MEDIA, duration_seconds=float(VIDEO_SECONDS), warnings=())


def blocks(count: int) -> Iterator[slice]:
    edges = [*range(0, count, FRAME_BLOCK_COUNT), count]
    return (slice(first, last) for first, last in itertools.pairwise(edges))


def size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
