"""The visual channel: frames near a question, de-biased, read as moments on each video's full curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.clip import VisualEncoder
from encoders.probes import BANK
from encoders.values import FrameEmbeddings
from serve.catalog import Catalog
from serve.index import VectorIndex
from serve.values import Video
from temporal.config import MomentConfig
from temporal.moments import find_moments, shot_cuts
from temporal.values import ScoredSpan, TimeSpan

SEGMENT_COUNT = 512  # nearest segments whose videos are read in full
VIDEO_COUNT = 200  # videos whose curves are read for one question (field practice: exact re-score of the top 200)
CALIBRATED_COUNT = 20  # best videos for which the no-match test is worth its cost
TEMPERATURE = 0.05  # of the softmax that pools a video's frames: the best few count, not one lucky frame
TEMPLATES = ("{}", "a photo of {}", "a video frame of {}")  # averaged: CLIP was trained on captions, not on words
Z_MIDDLE = 2.0  # standard deviations above generic captions on the same video at which a match is as likely as not
Z_WIDTH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One video in the eyes of a question."""

    video: Video
    score: float  # pooled de-biased similarity of its frames, about -0.2..0.5
    confidence: float  # 0..1, by the no-match test against generic captions on the same video
    moments: tuple[ScoredSpan, ...]  # best first


class VisualChannel:
    """Finds what was shown."""

    def __init__(self, catalog: Catalog, encoder: VisualEncoder, index: VectorIndex, config: MomentConfig) -> None:
        self.catalog, self.encoder, self.index, self.config = catalog, encoder, index, config
        self.bank = encoder.encode_texts(BANK)  # (K, D)
        self.bank_mean = self.bank.mean(axis=0)

    def text_vector(self, text: str) -> NDArray[np.float32]:
        """Return float32 (D,), unit: the mean over the prompt templates."""
        summed = self.encoder.encode_texts([template.format(text) for template in TEMPLATES]).sum(axis=0)
        return np.asarray(summed / np.linalg.norm(summed), np.float32)

    def image_vector(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (D,), unit, of a picture at the encoder's input size."""
        return np.asarray(self.encoder.encode_frames(pixels[None])[0])

    def ask(self, query: NDArray[np.float32], videos: Sequence[Video]) -> list[Seen]:
        """Return the videos of these that may show it, best first, with their moments."""
        curves = []
        for video in self.candidates(query, videos):
            embeddings = self.catalog.frames(video.row)
            if len(embeddings.pts_seconds):
                curve = embeddings.vectors @ (query - self.bank_mean)
                curves.append((float(pooled(curve)), video, embeddings, curve))
        curves.sort(key=lambda entry: -entry[0])
        found = []
        for rank, (score, video, embeddings, curve) in enumerate(curves):
            trusted = rank < CALIBRATED_COUNT
            found.append(
                Seen(
                    video=video,
                    score=score,
                    confidence=self.confidence(score, embeddings) if trusted else 0.0,
                    moments=self.moments(video, embeddings, curve) if trusted else (),
                )
            )
        return found

    def candidates(self, query: NDArray[np.float32], videos: Sequence[Video]) -> list[Video]:
        """Return the videos whose curves to read: all of a small library, else those of the nearest segments."""
        if len(videos) <= VIDEO_COUNT:
            return list(videos)
        by_row = {video.row: video for video in videos}
        ids, _ = self.index.search(query[None], SEGMENT_COUNT, rows=list(by_row))
        rows = dict.fromkeys(row for row, _ in self.catalog.locate("segments", [int(n) for n in ids[0] if n >= 0]))
        return [by_row[row] for row in list(rows)[:VIDEO_COUNT]]

    def confidence(self, score: float, embeddings: FrameEmbeddings) -> float:
        """Compare the question's score on one video with those of captions that describe anything at all."""
        generic = embeddings.vectors @ (self.bank - self.bank_mean).T  # (F, K)
        scores = pooled(generic)
        z = (score - scores.mean()) / max(float(scores.std()), 1e-6)
        return logistic((z - Z_MIDDLE) / Z_WIDTH)

    def moments(self, video: Video, embeddings: FrameEmbeddings, curve: NDArray[np.float32]) -> tuple[ScoredSpan, ...]:
        """Read the curve; a video that shows one thing from end to end is one moment."""
        found = find_moments(
            embeddings.pts_seconds,
            curve,
            epochs=embeddings.epochs,
            duration_seconds=video.duration_seconds,
            cut_seconds=shot_cuts(embeddings),
            config=self.config,
        )
        if found or embeddings.epochs[0] != embeddings.epochs[-1]:
            return tuple(found)
        best = int(np.argmax(curve))
        whole = TimeSpan(start_seconds=0.0, end_seconds=video.duration_seconds)
        return (
            ScoredSpan(
                span=whole, score=0.0, peak_seconds=float(embeddings.pts_seconds[best]), peak=float(curve[best])
            ),
        )


def logistic(x: float) -> float:
    """Return 0..1; far from the middle it is flat, and never overflows."""
    return float(1.0 / (1.0 + np.exp(-np.clip(x, -60, 60))))


def pooled(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pool frames (F,) or (F, K) into one score (or K): their mean, weighted by softmax.

    Source: query-scoring, https://github.com/m-bain/clip-hitchhiker.
    """
    weights = np.exp((similarities - similarities.max(axis=0)) / TEMPERATURE)
    return np.asarray((weights * similarities).sum(axis=0) / weights.sum(axis=0))
