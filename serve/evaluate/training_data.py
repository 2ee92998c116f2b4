"""Gathers the training set of `kinodex train` from libraries and captions."""

import contextlib
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.clip import VisualEncoder
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders, load_encoders
from serve.errors import DataDirectoryMissing, EncoderSpaceMismatch
from serve.evaluate.questions import names_of
from serve.search.visual import fill_templates
from serve.settings import Settings
from serve.values import Video
from temporal.errors import TrainingSetInvalid
from temporal.fusion.training_set import TrainingCaption, TrainingSet, TrainingVideo
from temporal.values import TimeSpan

CACHE = "captions.npz"  # file of the output folder with the vectors of the captions, the slowest part of gathering
CAPTION_KEY = "caption"  # key of a video's metadata that holds its caption
MIN_UTTERANCE_WORDS = 4  # a shorter utterance ("Okay.") describes nothing, and is no caption


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A caption from a file or from a video's metadata."""

    video: str  # id of the video, or the last part of its URI
    text: str
    start_seconds: float | None = None  # None: the caption describes the whole video
    end_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredTrainingSet:
    """The training set, and where it comes from."""

    data: TrainingSet
    source: str  # of the captions, for messages
    # Captions left out: the libraries lack the video, or it has no frames or ends before the caption.
    missing_count: int


@dataclass(slots=True, kw_only=True)
class ChosenCaptions:
    """The captions to train on, in order."""

    source: str
    captions: list[TrainingCaption] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # of the captions
    missing_count: int = 0  # captions left out


def gather(
    directories: Sequence[Path],
    captions: Path | None,
    out: Path,
    settings: Settings,
    on_stage: Callable[[str, int, int | None], None],
) -> GatheredTrainingSet:
    """Read the videos of libraries, and their captions.

    Captions come from the file; without a file, from the metadata of the videos; without those, the utterances serve
    as captions.

    Args:
        directories: Data directories, indexed with the same encoders.
        captions: JSON lines; see read_captions.
        out: Folder that caches the vectors of the captions for the next run.
        on_stage: Called with the name of the stage, the count done of it, and the count of all (None: unknown).
    Raises:
        TrainingSetInvalid: If the file has another format, or there is nothing to train on.
        DataDirectoryMissing: If nothing was indexed in a directory.
        EncoderSpaceMismatch: If two directories were indexed with different encoders.
    """
    file_captions = read_captions(captions) if captions is not None else None
    read: list[tuple[Video, TrainingVideo]] = []
    encoders: Encoders | None = None
    for directory in directories:
        with contextlib.closing(Catalog.open_reader(directory)) as catalog:
            encoders = load_shared_encoders(catalog, directory, settings, encoders)
            videos = catalog.videos()
            for done, video in enumerate(videos):
                on_stage(f"Reading {directory.name or directory}", done, len(videos))
                if video.frame_count:
                    read.append((video, training_video(catalog, video)))
    if encoders is None or encoders.visual is None:
        raise TrainingSetInvalid("these libraries have no pictures: they were indexed without a visual encoder")
    if not read:
        raise TrainingSetInvalid("no video of these libraries has a picture")
    chosen = choose_captions(read, file_captions, captions)
    if not chosen.captions:
        raise TrainingSetInvalid(f"nothing to learn from: {chosen.source} has no caption of a video with pictures")
    on_stage("Encoding captions", 0, None)
    data = TrainingSet(
        videos=[video for _, video in read],
        captions=chosen.captions,
        caption_vectors=encode_training_captions(chosen.texts, encoders.visual, out),
    )
    return GatheredTrainingSet(data=data, source=chosen.source, missing_count=chosen.missing_count)


def load_shared_encoders(catalog: Catalog, directory: Path, settings: Settings, shared: Encoders | None) -> Encoders:
    """Return the encoders that all libraries share: those of the libraries before (`shared`), or else of this one."""
    space = catalog.space()
    if space is None:
        raise DataDirectoryMissing(str(directory))
    if shared is None:
        return load_encoders(settings, space, speech=(space.speech, space.speech_fingerprint))
    if (space.visual_fingerprint, space.sentence_fingerprint) != (
        shared.space.visual_fingerprint,
        shared.space.sentence_fingerprint,
    ):
        raise EncoderSpaceMismatch(str(directory), str(space), str(shared.space))
    return shared


def training_video(catalog: Catalog, video: Video) -> TrainingVideo:
    """Read the vectors and times of a video that has frames."""
    with catalog.snapshot():
        embeddings = catalog.frames(video.row)
        utterances = catalog.utterances(video.row, with_words=False)
        sentences = catalog.utterance_vectors(video.row)
    last = float(embeddings.pts_seconds[-1])
    return TrainingVideo(
        name=f"{video.collection}/{video.video_id}",
        duration_seconds=max(video.duration_seconds, last),
        embeddings=embeddings,
        utterances=utterances,
        sentences=sentences,
    )


def read_captions(path: Path) -> list[Caption]:
    """Read JSON lines of `video`, `caption`, and for a part of the video `start_seconds` and `end_seconds`.

    Raises:
        TrainingSetInvalid: If the file cannot be read, is empty, or has an invalid line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrainingSetInvalid(f"cannot read captions {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TrainingSetInvalid(f"cannot read captions {path}: not UTF-8 text") from error
    captions = [_parse_caption(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not captions:
        raise TrainingSetInvalid(f"captions {path}: the file is empty")
    return captions


def _parse_caption(line: str, where: str) -> Caption:
    try:
        row: Any = json.loads(line)
        video, text = row["video"], row["caption"]
        start, end = row.get("start_seconds"), row.get("end_seconds")
        is_span = (start is None and end is None) or 0 <= float(start) < float(end) < math.inf
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        row_format = '{"video": …, "caption": …} with or without "start_seconds" and "end_seconds"'
        raise TrainingSetInvalid(f"captions {where} is not {row_format}") from error
    if not isinstance(video, str) or not isinstance(text, str) or not text.strip():
        raise TrainingSetInvalid(f"captions {where}: video and caption must be texts, and not empty")
    if not is_span:
        raise TrainingSetInvalid(f"captions {where}: must be 0 <= start_seconds < end_seconds")
    return Caption(video=video, text=text, start_seconds=start, end_seconds=end)


def choose_captions(
    read: Sequence[tuple[Video, TrainingVideo]], file_captions: Sequence[Caption] | None, file: Path | None
) -> ChosenCaptions:
    """Choose the captions of a file for the videos read; without one, those of the metadata, or the utterances."""
    given, source = file_captions or [], str(file)
    if file_captions is None:
        source = f'metadata "{CAPTION_KEY}"'
        given = [
            Caption(video=video.video_id, text=video.metadata[CAPTION_KEY])
            for video, _ in read
            if video.metadata.get(CAPTION_KEY, "").strip()
        ]
        if not given:
            return _utterance_captions([video for _, video in read])
    videos_by_name: Mapping[str, list[int]] = defaultdict(list)
    for n, (video, _) in enumerate(read):
        for name in names_of(video):
            videos_by_name[name].append(n)
    chosen = ChosenCaptions(source=source)
    for caption in given:
        videos = videos_by_name.get(caption.video, [])
        chosen.missing_count += not videos
        for n in videos:
            span = _span_of(caption, read[n][1])
            if span is None:
                chosen.missing_count += 1
                continue
            chosen.captions.append(TrainingCaption(video=n, span=span))
            chosen.texts.append(caption.text)
    return chosen


def _span_of(caption: Caption, video: TrainingVideo) -> TimeSpan | None:
    """Return the part of a video that a caption describes; None if the video ends before it."""
    if caption.start_seconds is None or caption.end_seconds is None:
        return TimeSpan(start_seconds=0.0, end_seconds=video.duration_seconds)
    if caption.start_seconds >= video.duration_seconds:
        return None
    return TimeSpan(start_seconds=caption.start_seconds, end_seconds=min(caption.end_seconds, video.duration_seconds))


def _utterance_captions(videos: Sequence[TrainingVideo]) -> ChosenCaptions:
    """Make each utterance the caption of the time in which it is spoken."""
    chosen = ChosenCaptions(source="speech")
    for n, video in enumerate(videos):
        for number, utterance in enumerate(video.utterances):
            if len(utterance.text.split()) >= MIN_UTTERANCE_WORDS:
                start, end = utterance.start_seconds, max(utterance.start_seconds, utterance.end_seconds)
                span = TimeSpan(start_seconds=start, end_seconds=end)
                chosen.captions.append(TrainingCaption(video=n, span=span, utterance=number))
                chosen.texts.append(utterance.text)
    return chosen


def encode_training_captions(texts: Sequence[str], encoder: VisualEncoder, out: Path) -> NDArray[np.float32]:
    """Encode C captions as a search encodes its query: float32 (C, D). Uses the cache of the last run if it fits."""
    templates = encoder.calibration.templates
    content = json.dumps([encoder.fingerprint, list(templates), list(texts)])
    key, cache = hashlib.sha256(content.encode()).hexdigest(), out / CACHE
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(cache, allow_pickle=False) as file:
        if str(file["key"]) == key:
            cached: NDArray[np.float32] = file["vectors"]
            return cached
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    prompts = [prompt for text in distinct for prompt in fill_templates(text, templates)]
    encoded = encoder.encode_texts(prompts).reshape(len(distinct), len(templates), -1).sum(axis=1)
    encoded /= np.linalg.norm(encoded, axis=1, keepdims=True)
    vectors: NDArray[np.float32] = encoded[[distinct[text] for text in texts]]
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f"{os.getpid()}.{CACHE}"
    np.savez(unfinished, key=np.array(key), vectors=vectors)
    unfinished.replace(cache)
    return vectors
