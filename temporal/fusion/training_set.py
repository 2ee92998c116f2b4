"""Training data: videos with the vectors of their library, and captions of whole videos or of parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.errors import TrainingSetInvalid
from temporal.values import TimeSpan

MIN_VIDEOS = 4  # two for training, one for validation, one for the test


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingVideo:
    """One video with pictures."""

    name: str  # "collection/video_id", the same at every reading
    duration_seconds: float
    embeddings: FrameEmbeddings
    utterances: Sequence[Utterance]  # in order of start
    sentences: NDArray[np.float32]  # (U, E), unit vectors of the utterances


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCaption:
    """A caption of a video, or of a part of it."""

    video: int  # index in TrainingSet.videos
    span: TimeSpan
    utterance: int | None = None  # index in the utterances of the video, if the caption is an utterance


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSet:
    """Videos and their captions."""

    videos: Sequence[TrainingVideo]
    captions: Sequence[TrainingCaption]
    caption_vectors: NDArray[np.float32]  # (C, D), unit, in the space of the frames

    def __post_init__(self) -> None:
        if self.caption_vectors.ndim != 2 or len(self.caption_vectors) != len(self.captions):
            raise ValueError(f"{len(self.captions)} captions do not fit vectors {self.caption_vectors.shape}")

    @property
    def frame_size(self) -> int:
        """D, the size of the vectors of frames and captions."""
        return int(self.caption_vectors.shape[1])

    @property
    def utterance_size(self) -> int:
        """E, the size of the vectors of sentences."""
        return max((video.sentences.shape[1] for video in self.videos), default=1) or 1

    @cached_property
    def caption_videos(self) -> NDArray[np.int64]:
        """The video of each caption (C,)."""
        return np.array([caption.video for caption in self.captions], np.int64)

    @cached_property
    def has_spoken_captions(self) -> bool:
        """Whether a caption is an utterance. The words that a model gets must not contain it."""
        return any(caption.utterance is not None for caption in self.captions)

    @cached_property
    def fingerprint(self) -> str:
        """Hex hash of all contents."""
        digest = hashlib.sha256(np.ascontiguousarray(self.caption_vectors).tobytes())
        for caption in self.captions:
            digest.update(repr(caption).encode())
        for video in self.videos:
            digest.update(video.name.encode())
            digest.update(np.ascontiguousarray(video.embeddings.vectors).tobytes())
            digest.update(np.ascontiguousarray(video.sentences).tobytes())
        return digest.hexdigest()[:16]

    def of_videos(self, chosen: Sequence[int]) -> "TrainingSet":
        positions = {video: position for position, video in enumerate(chosen)}
        rows = [row for row, caption in enumerate(self.captions) if caption.video in positions]
        return TrainingSet(
            videos=[self.videos[at] for at in chosen],
            captions=[
                replace(caption, video=positions[caption.video])
                for caption in self.captions
                if caption.video in positions
            ],
            caption_vectors=self.caption_vectors[rows],
        )


def split(data: TrainingSet, share: float, seed: int) -> tuple[TrainingSet, TrainingSet, TrainingSet]:
    """Split by video, ordered by the hash of the name, into training, validation and test sets.

    Args:
        share: Share of the captions in each of the last two sets, as far as whole videos allow.
        seed: Changes the order.
    Raises:
        TrainingSetInvalid: If there are too few videos with captions.
    """
    captioned = sorted({caption.video for caption in data.captions})
    if len(captioned) < MIN_VIDEOS:
        raise TrainingSetInvalid(
            f"{len(captioned)} videos with pictures have captions, but training needs at least {MIN_VIDEOS}:"
            " some are set aside to test the result"
        )
    shuffled = sorted(captioned, key=lambda at: hashlib.sha256(f"{seed} {data.videos[at].name}".encode()).digest())
    counts = np.bincount(data.caption_videos, minlength=len(data.videos))[shuffled]
    held = np.cumsum(counts) - counts  # captions of the videos before each
    first = int(np.searchsorted(held, share * len(data.captions)))
    first = min(max(1, first), len(shuffled) - 3)
    second = int(np.searchsorted(held - held[first], share * len(data.captions)))
    second = min(max(first + 1, second), len(shuffled) - 2)
    test, validation, training = shuffled[:first], shuffled[first:second], shuffled[second:]
    return data.of_videos(sorted(training)), data.of_videos(sorted(validation)), data.of_videos(sorted(test))
