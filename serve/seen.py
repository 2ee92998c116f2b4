"""The visual channel: frames near a question, de-biased, read as moments on each video's full curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from encoders.calibration import Calibration
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One video in the eyes of a question."""

    video: Video
    score: float  # de-biased similarity of the whole video, about -0.2..0.5
    confidence: float  # 0..1 that this is the video, by the no-match test against generic captions on it
    best: float  # as score, of its best frames
    best_confidence: float  # as confidence, that its best frames show it
    moments: tuple[ScoredSpan, ...]  # best first


class VisualChannel:
    """Finds what was shown."""

    def __init__(
        self,
        catalog: Catalog,
        encoder: VisualEncoder,
        index: VectorIndex,
        config: MomentConfig,
        calibration: Calibration,
    ) -> None:
        self.catalog, self.encoder, self.index = catalog, encoder, index
        self.config, self.calibration = config, calibration
        self.bank = encoder.encode_texts(BANK)  # (K, D)
        self.bias = calibration.bank_share * self.bank.mean(axis=0)
        self.blas = ThreadpoolController()

    def text_vector(self, text: str) -> NDArray[np.float32]:
        """Return float32 (D,), unit: the mean over the encoder's prompt templates."""
        return text_vector(self.encoder, self.calibration.templates, text)

    def image_vector(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (D,), unit, of a picture at the encoder's input size."""
        return np.asarray(self.encoder.encode_frames(pixels[None])[0])

    def ask(self, query: NDArray[np.float32], videos: Sequence[Video]) -> list[Seen]:
        """Return the videos of these that may show it, best first, with their moments."""
        # One thread: a video's product is small, and a second thread's waiting costs more when the machine is busy.
        with self.blas.limit(limits=1, user_api="blas"):
            return self.read_curves(query, self.candidates(query, videos))

    def read_curves(self, query: NDArray[np.float32], videos: Sequence[Video]) -> list[Seen]:
        """Score each video on its full curve; the best ones get moments and confidence."""
        calibration = self.calibration
        curves = []
        for video in videos:
            embeddings = self.catalog.frames(video.row)
            if len(embeddings.pts_seconds):
                curve = embeddings.vectors @ (query - self.bias)
                curves.append((float(pooled(curve, calibration.video_temperature)), video, embeddings, curve))
        curves.sort(key=lambda entry: -entry[0])
        found = []
        for rank, (score, video, embeddings, curve) in enumerate(curves):
            if rank >= CALIBRATED_COUNT:
                found.append(Seen(video=video, score=score, confidence=0.0, best=0.0, best_confidence=0.0, moments=()))
                continue
            best = float(pooled(curve, calibration.moment_temperature))
            generic = embeddings.vectors @ (self.bank - self.bias).T  # (F, K)
            found.append(
                Seen(
                    video=video,
                    score=score,
                    confidence=calibration.video.confidence(
                        z_score(score, pooled(generic, calibration.video_temperature))
                    ),
                    best=best,
                    best_confidence=calibration.moment.confidence(
                        z_score(best, pooled(generic, calibration.moment_temperature))
                    ),
                    moments=self.moments(video, embeddings, curve),
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


def text_vector(encoder: VisualEncoder, templates: Sequence[str], text: str) -> NDArray[np.float32]:
    """Return float32 (D,), unit: the mean of a question's vectors in the sentences of `templates`."""
    summed = encoder.encode_texts([template.format(text) for template in templates]).sum(axis=0)
    return np.asarray(summed / np.linalg.norm(summed), np.float32)


def z_score(score: float, generic: NDArray[np.float32]) -> float:
    """Compare a question's score on one video with those of captions that describe anything at all."""
    return (score - float(generic.mean())) / max(float(generic.std()), 1e-6)


def pooled(similarities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Pool frames (F,) or (F, K) into one score (or K): their mean, weighted by softmax.

    Source: query-scoring, https://github.com/m-bain/clip-hitchhiker.
    """
    weights = np.exp((similarities - similarities.max(axis=0)) / temperature)
    return np.asarray((weights * similarities).sum(axis=0) / weights.sum(axis=0))
