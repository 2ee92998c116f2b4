"""Small training sets whose answers are known."""

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.fusion.training_set import TrainingCaption, TrainingSet, TrainingVideo
from temporal.values import TimeSpan

SIZE = 16


def directions(count: int, size: int = SIZE, seed: int = 5) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def video(name: str, frames: NDArray[np.float32], said: NDArray[np.float32] | None = None) -> TrainingVideo:
    """Return a video of one frame a second, with sentences of four seconds each."""
    sentences = np.zeros((0, SIZE), np.float32) if said is None else said
    return TrainingVideo(
        name=name,
        duration_seconds=float(len(frames)),
        embeddings=FrameEmbeddings(
            epochs=np.zeros(len(frames), np.int32),
            pts_seconds=np.arange(len(frames), dtype=np.float64),
            vectors=frames,
        ),
        utterances=[utterance(4.0 * n, 4.0 * n + 3.0) for n in range(len(sentences))],
        sentences=sentences,
    )


def utterance(start: float, end: float) -> Utterance:
    return Utterance(
        epoch=0, start_seconds=start, end_seconds=end, text="words", words=(), language="en", avg_logprob=-0.1,
        no_speech_prob=0.0,
    )  # fmt: skip


def with_whole_captions(videos: list[TrainingVideo], captions: NDArray[np.float32]) -> TrainingSet:
    """Give each video a caption that spans all of it."""
    return TrainingSet(
        videos=videos,
        captions=[
            TrainingCaption(video=n, span=TimeSpan(start_seconds=0.0, end_seconds=one.duration_seconds))
            for n, one in enumerate(videos)
        ],
        caption_vectors=captions,
    )


def noisy(
    vector: NDArray[np.float32], count: int, drawn: np.random.Generator, spread: float = 0.1
) -> NDArray[np.float32]:
    """Return frames that show nearly the same thing."""
    frames = vector + spread * drawn.normal(size=(count, len(vector))).astype(np.float32)
    return (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)


def ordered_pairs(count: int, *, seed: int = 3) -> TrainingSet:
    """Return pairs of clips that show two things in either order; a caption is nearer to the thing it names first.

    The frames of both clips of a pair are the same, so their mean cannot tell which caption is whose.
    """
    drawn = np.random.default_rng(seed)
    things = directions(2 * count, seed=seed)
    videos, captions = [], []
    for n in range(count):
        shown = [noisy(things[2 * n], 8, drawn), noisy(things[2 * n + 1], 8, drawn)]
        for first, second in ((0, 1), (1, 0)):
            videos.append(video(f"{n}/{first}", np.concatenate([shown[first], shown[second]])))
            captions.append(1.5 * things[2 * n + first] + 0.5 * things[2 * n + second])
    vectors = np.stack(captions).astype(np.float32)
    return with_whole_captions(videos, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def share_nearest_to_own(found: NDArray[np.float32], captions: NDArray[np.float32]) -> float:
    """Return the share of clips that are nearer to their own caption than to that of their pair's other clip."""
    own = (found * captions).sum(axis=1)
    other = (found * captions.reshape(-1, 2, captions.shape[1])[:, ::-1].reshape(captions.shape)).sum(axis=1)
    return float((own > other).mean())
