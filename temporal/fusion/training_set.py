"""What training reads: videos with the vectors they were indexed with, and captions of them or of parts of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.errors import TrainingSetInvalid
from temporal.values import TimeSpan

MIN_VIDEOS = 4  # two to learn from, one that chooses, one that judges


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingVideo:
    """One video that has pictures."""

    name: str  # the same whenever the video is read: "collection/video_id"
    duration_seconds: float
    embeddings: FrameEmbeddings
    utterances: Sequence[Utterance]  # in order of start
    sentences: NDArray[np.float32]  # (U, E), unit vectors of those


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCaption:
    """What is said of a video, or of a part of it."""

    video: int  # place in TrainingSet.videos
    span: TimeSpan
    utterance: int | None = None  # place in the video's utterances, if it is one


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
        """D, of the vectors of frames and captions."""
        return int(self.caption_vectors.shape[1])

    @property
    def utterance_size(self) -> int:
        """E, of the vectors of sentences."""
        return max((video.sentences.shape[1] for video in self.videos), default=1) or 1

    @cached_property
    def caption_videos(self) -> NDArray[np.int64]:
        """The video of each caption (C,)."""
        return np.array([caption.video for caption in self.captions], np.int64)

    @cached_property
    def has_spoken_captions(self) -> bool:
        """Whether a caption is an utterance, which a model must not find among the words."""
        return any(caption.utterance is not None for caption in self.captions)

    @cached_property
    def fingerprint(self) -> str:
        """Hex: changes with what is in it."""
        digest = hashlib.sha256(np.ascontiguousarray(self.caption_vectors).tobytes())
        for caption in self.captions:
            digest.update(repr(caption).encode())
        for video in self.videos:
            digest.update(video.name.encode())
            digest.update(np.ascontiguousarray(video.embeddings.vectors).tobytes())
            digest.update(np.ascontiguousarray(video.sentences).tobytes())
        return digest.hexdigest()[:16]

    def of_videos(self, chosen: Sequence[int]) -> "TrainingSet":
        """Return some of the videos, and their captions."""
        places = {video: place for place, video in enumerate(chosen)}
        rows = [row for row, caption in enumerate(self.captions) if caption.video in places]
        return TrainingSet(
            videos=[self.videos[at] for at in chosen],
            captions=[
                TrainingCaption(
                    video=places[self.captions[row].video],
                    span=self.captions[row].span,
                    utterance=self.captions[row].utterance,
                )
                for row in rows
            ],
            caption_vectors=self.caption_vectors[rows],
        )


def held_apart(data: TrainingSet, share: float, seed: int) -> tuple[TrainingSet, TrainingSet, TrainingSet]:
    """Split by video, in the order of the hashes of their names: what is learnt from, what chooses, and what judges.

    Args:
        share: Of the captions, for each of the last two, as far as whole videos and the first group's two allow.

    Raises:
        TrainingSetInvalid: If there are too few videos with captions.
    """
    captioned = sorted({caption.video for caption in data.captions})
    if len(captioned) < MIN_VIDEOS:
        raise TrainingSetInvalid(
            f"{len(captioned)} videos with pictures have captions, training needs at least {MIN_VIDEOS}: some are held"
            " back to judge it"
        )
    shuffled = sorted(captioned, key=lambda at: hashlib.sha256(f"{seed} {data.videos[at].name}".encode()).digest())
    counts = np.bincount(data.caption_videos, minlength=len(data.videos))[shuffled]
    held = np.cumsum(counts) - counts  # captions of the videos before each
    first = int(np.searchsorted(held, share * len(data.captions)))
    first = min(max(1, first), len(shuffled) - 3)
    second = int(np.searchsorted(held - held[first], share * len(data.captions)))
    second = min(max(first + 1, second), len(shuffled) - 2)
    judging, choosing, learning = shuffled[:first], shuffled[first:second], shuffled[second:]
    return data.of_videos(sorted(learning)), data.of_videos(sorted(choosing)), data.of_videos(sorted(judging))
