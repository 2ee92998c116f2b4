"""Libraries and captions -> what `kinodex train` learns from."""

import contextlib
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.clip import VisualEncoder
from serve.catalog.catalog import Catalog
from serve.encoder_set import Encoders, load_encoders
from serve.errors import DataDirectoryMissing, EncoderSpaceMismatch
from serve.evaluate.questions import names_of
from serve.search.visual import encode_text
from serve.settings import Settings
from serve.values import Video
from temporal.errors import TrainingSetInvalid
from temporal.fusion.training_set import TrainingCaption, TrainingSet, TrainingVideo
from temporal.values import TimeSpan

CACHE = "captions.npz"  # in the output folder: the vectors of the captions, which take longest to make
CAPTION_KEY = "caption"  # of a video's metadata
MIN_SPOKEN_WORDS = 4  # an utterance of fewer ("Okay.") describes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """One caption as it was given."""

    video: str  # "video_id", or the last part of its URI
    text: str
    start_seconds: float | None = None  # None: of the whole video
    end_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What was found to train on."""

    data: TrainingSet
    source: str  # for people: where the captions are from
    missing_count: int  # captions of videos that are not there, or have no pictures


def gather(
    directories: Sequence[Path],
    captions: Path | None,
    out: Path,
    settings: Settings,
    on_stage: Callable[[str, int, int | None], None],
) -> Gathered:
    """Read videos and captions: of a file; without one, of the videos' metadata; without those, what is said in them.

    Args:
        directories: Data directories, indexed with the same encoders.
        captions: JSON lines; see read_captions.
        out: Keeps the captions' vectors for the next run.
        on_stage: Told what is being done, how much of it is done, and of how much.

    Raises:
        TrainingSetInvalid: If the file is not of this format, or there is nothing to train on.
        DataDirectoryMissing: If nothing was indexed in a directory.
        EncoderSpaceMismatch: If two were indexed with different encoders.
    """
    given = read_captions(captions) if captions is not None else None
    read: list[tuple[Video, TrainingVideo]] = []
    encoders: Encoders | None = None
    for directory in directories:
        with contextlib.closing(Catalog.open_reader(directory)) as catalog:
            encoders = encoders_of(catalog, directory, settings, encoders)
            videos = catalog.videos()
            for done, video in enumerate(videos):
                on_stage(f"Reading {directory.name or directory}", done, len(videos))
                if video.frame_count:
                    read.append((video, training_video(catalog, video)))
    if encoders is None or encoders.visual is None:
        raise TrainingSetInvalid("these libraries have no pictures: they were indexed without a visual encoder")
    if not read:
        raise TrainingSetInvalid("no video of these libraries has a picture")
    found, texts, source, missing_count = chosen(read, given, captions)
    if not found:
        raise TrainingSetInvalid(f"nothing to learn from: {source} has no caption of a video with pictures")
    on_stage("Encoding captions", 0, None)
    data = TrainingSet(
        videos=[one for _, one in read], captions=found, caption_vectors=vectors_of(texts, encoders.visual, out)
    )
    return Gathered(data=data, source=source, missing_count=missing_count)


def encoders_of(catalog: Catalog, directory: Path, settings: Settings, known: Encoders | None) -> Encoders:
    """Return the encoders that a library was indexed with, which all must share."""
    stored = catalog.space()
    if stored is None:
        raise DataDirectoryMissing(str(directory))
    if known is None:
        return load_encoders(settings, stored, speech=(stored.speech, stored.speech_fingerprint))
    if (stored.visual_fingerprint, stored.sentence_fingerprint) != (
        known.space.visual_fingerprint,
        known.space.sentence_fingerprint,
    ):
        raise EncoderSpaceMismatch(str(directory), str(stored), str(known.space))
    return known


def training_video(catalog: Catalog, video: Video) -> TrainingVideo:
    """Read a video's vectors and times."""
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


# ---- captions


def read_captions(path: Path) -> list[Captioned]:
    """Read JSON lines of `video`, `caption`, and, for a part of it, `start_seconds` and `end_seconds`.

    Raises:
        TrainingSetInvalid: If it cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrainingSetInvalid(f"cannot read captions {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TrainingSetInvalid(f"cannot read captions {path}: not UTF-8 text") from error
    found = [_caption(line, f"{path} line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise TrainingSetInvalid(f"captions {path}: it is empty")
    return found


def _caption(line: str, where: str) -> Captioned:
    try:
        row: Any = json.loads(line)
        video, text = row["video"], row["caption"]
        start, end = row.get("start_seconds"), row.get("end_seconds")
        is_span = (start is None and end is None) or 0 <= float(start) < float(end) < math.inf
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wanted = '{"video": …, "caption": …} with or without "start_seconds" and "end_seconds"'
        raise TrainingSetInvalid(f"captions {where} is not {wanted}") from error
    if not isinstance(video, str) or not isinstance(text, str) or not text.strip():
        raise TrainingSetInvalid(f"captions {where}: video and caption must be texts, and not empty")
    if not is_span:
        raise TrainingSetInvalid(f"captions {where}: it must be 0 <= start_seconds < end_seconds")
    return Captioned(video=video, text=text, start_seconds=start, end_seconds=end)


def chosen(
    read: Sequence[tuple[Video, TrainingVideo]], given: Sequence[Captioned] | None, path: Path | None
) -> tuple[list[TrainingCaption], list[str], str, int]:
    """Return captions, their texts, where they are from, and how many are of no video here."""
    source = str(path)
    if given is None:
        given = [
            Captioned(video=video.video_id, text=video.metadata[CAPTION_KEY])
            for video, _ in read
            if video.metadata.get(CAPTION_KEY, "").strip()
        ]
        source = f'metadata "{CAPTION_KEY}"'
    if not given and path is None:
        captions, texts = spoken([one for _, one in read])
        return captions, texts, "speech", 0
    places: Mapping[str, list[int]] = defaultdict(list)
    for place, (video, _) in enumerate(read):
        for name in names_of(video):
            places[name].append(place)
    captions, texts, missing_count = [], [], 0
    for one in given:
        spans = [(place, _span(one, read[place][1])) for place in places.get(one.video, ())]
        missing_count += not spans
        for place, span in spans:
            if span is None:
                missing_count += 1
                continue
            captions.append(TrainingCaption(video=place, span=span))
            texts.append(one.text)
    return captions, texts, source, missing_count


def _span(caption: Captioned, video: TrainingVideo) -> TimeSpan | None:
    """Return what a caption is of; None: the video ends before."""
    if caption.start_seconds is None or caption.end_seconds is None:
        return TimeSpan(start_seconds=0.0, end_seconds=video.duration_seconds)
    if caption.start_seconds >= video.duration_seconds:
        return None
    return TimeSpan(start_seconds=caption.start_seconds, end_seconds=min(caption.end_seconds, video.duration_seconds))


def spoken(videos: Sequence[TrainingVideo]) -> tuple[list[TrainingCaption], list[str]]:
    """Take what is said as captions of when it is said."""
    captions, texts = [], []
    for place, video in enumerate(videos):
        for at, one in enumerate(video.utterances):
            if len(one.text.split()) >= MIN_SPOKEN_WORDS:
                span = TimeSpan(start_seconds=one.start_seconds, end_seconds=max(one.start_seconds, one.end_seconds))
                captions.append(TrainingCaption(video=place, span=span, utterance=at))
                texts.append(one.text)
    return captions, texts


def vectors_of(texts: Sequence[str], encoder: VisualEncoder, out: Path) -> NDArray[np.float32]:
    """Return captions where questions like them would be, float32 (C, D); of the last run, if it had the same."""
    templates = encoder.calibration.templates
    said = json.dumps([encoder.fingerprint, list(templates), list(texts)])
    key, cache = hashlib.sha256(said.encode()).hexdigest(), out / CACHE
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(cache, allow_pickle=False) as saved:
        if str(saved["key"]) == key:
            known: NDArray[np.float32] = saved["vectors"]
            return known
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    encoded = np.stack([encode_text(encoder.encode_texts, templates, text) for text in distinct])
    vectors = encoded[[distinct[text] for text in texts]]
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f"{os.getpid()}.{CACHE}"
    np.savez(unfinished, key=np.array(key), vectors=vectors)
    unfinished.replace(cache)
    return vectors
