"""Frames and utterances -> windows -> segments."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.values import FrameEmbeddings, Utterance
from temporal.config import WindowConfig
from temporal.values import Pooling, Segment, TimeSpan, Window, WindowTokens

SLACK_SECONDS = 1e-6  # sums of float strides; far under the microsecond that container timestamps resolve


def windows(
    embeddings: FrameEmbeddings,
    utterances: Sequence[Utterance],
    *,
    duration_seconds: float,
    config: WindowConfig,
) -> list[Window]:
    """Cut one video into windows on a fixed grid that begins anew with each epoch.

    The last window of an epoch is cut short at its end; none lies wholly inside the one before it. A window in
    which no frame begins holds the frame still shown from before, so static scenes are covered.

    Args:
        embeddings: All frames, in order; D may be 0.
        utterances: In order of start; a window holds those that overlap it.
        duration_seconds: Media time at which the last picture or sound ends.
    Raises:
        ValueError: If the duration is not a number >= 0, or ends before the last frame begins.
    """
    if not (math.isfinite(duration_seconds) and duration_seconds >= 0):
        raise ValueError(f"duration_seconds must be a finite number >= 0, got {duration_seconds}")
    pts = embeddings.pts_seconds
    if len(pts) and pts[-1] > duration_seconds:
        raise ValueError(f"the last frame begins at {pts[-1]}, after the end at {duration_seconds}")
    starts = _epoch_starts(embeddings, utterances)
    if not starts:
        return []
    ends = [start for _, start in starts[1:]] + [duration_seconds]
    spoken = np.array([u.epoch for u in utterances], dtype=np.int32)
    cut: list[Window] = []
    for (epoch, epoch_start), epoch_end in zip(starts, ends, strict=True):
        frames = _range(embeddings.epochs, epoch)
        words = _range(spoken, epoch)
        word_starts = np.array([u.start_seconds for u in utterances[words]], dtype=np.float64)
        word_ends = np.array([u.end_seconds for u in utterances[words]], dtype=np.float64)
        ends_so_far = np.maximum.accumulate(word_ends)
        for index, span in enumerate(_grid(epoch_start, max(epoch_start, epoch_end), config)):
            said = _utterances_in(word_starts, ends_so_far, span)
            cut.append(
                Window(
                    epoch=epoch,
                    index=index,
                    span=span,
                    frames=_frames_in(embeddings, frames, span),
                    utterances=slice(words.start + said.start, words.start + said.stop),
                )
            )
    return cut


def segments(
    video_id: str,
    windows: Sequence[Window],
    embeddings: FrameEmbeddings,
    utterances: Sequence[Utterance],
    sentences: NDArray[np.float32],
    pooling: Pooling,
) -> list[Segment]:
    """Make one vector of each window.

    Args:
        windows: Of this video, as `windows` cuts them.
        embeddings: The frames their slices point into.
        utterances: The utterances their slices point into.
        sentences: float32 (U, E), unit: the vectors of those.
    """
    read = []
    for window in windows:
        said = [at for at in range(len(utterances))[window.utterances] if overlaps(utterances[at], window.span)]
        seen = window.frames
        heard = [utterances[at] for at in said]
        read.append(
            window_tokens(window.span, embeddings.pts_seconds[seen], embeddings.vectors[seen], heard, sentences[said])
        )
    return [
        Segment(
            segment_id=f"{video_id}/{window.epoch}/{window.index}",
            epoch=window.epoch,
            index=window.index,
            span=window.span,
            vector=vector,
        )
        for window, vector in zip(windows, pooling.vectors(read), strict=True)
    ]


def window_tokens(
    span: TimeSpan,
    pts_seconds: NDArray[np.float64],
    frames: NDArray[np.float32],
    utterances: Sequence[Utterance],
    sentences: NDArray[np.float32],
) -> WindowTokens:
    """Return what fusion reads of a window: media times become seconds from its start.

    Args:
        pts_seconds: float64 (F,) of the frames.
        frames: float32 (F, D).
        utterances: U of them, those that overlap it.
        sentences: float32 (U, E), their vectors.
    """
    middles = np.array([(one.start_seconds + one.end_seconds) / 2 for one in utterances], np.float64)
    return WindowTokens(
        frames=frames,
        frame_seconds=(pts_seconds - span.start_seconds).astype(np.float32),
        utterances=sentences,
        utterance_seconds=(middles - span.start_seconds).astype(np.float32),
    )


def overlaps(utterance: Utterance, span: TimeSpan) -> bool:
    """Whether some of an utterance is said in a span."""
    return utterance.start_seconds < span.end_seconds and utterance.end_seconds > span.start_seconds


def _epoch_starts(embeddings: FrameEmbeddings, utterances: Sequence[Utterance]) -> list[tuple[int, float]]:
    """Epochs that hold a frame or an utterance, in order, with the media time at which each begins."""
    starts: dict[int, float] = {}
    first_frames = np.unique(embeddings.epochs, return_index=True)
    for epoch, first in zip(*first_frames, strict=True):
        starts[int(epoch)] = float(embeddings.pts_seconds[first])
    for utterance in utterances:
        known = starts.get(utterance.epoch, math.inf)
        starts[utterance.epoch] = min(known, utterance.start_seconds)
    if 0 in starts:
        starts[0] = 0.0  # media time begins with epoch 0, whatever is first seen or said in it
    return sorted(starts.items())


def _range(epochs: NDArray[np.int32], epoch: int) -> slice:
    """Where one epoch's rows lie in a video's rows, which are in order of epoch."""
    return slice(int(np.searchsorted(epochs, epoch, "left")), int(np.searchsorted(epochs, epoch, "right")))


def _grid(start_seconds: float, end_seconds: float, config: WindowConfig) -> list[TimeSpan]:
    spans: list[TimeSpan] = []
    while True:
        start = start_seconds + len(spans) * config.stride_seconds
        end = start + config.length_seconds
        if end >= end_seconds - SLACK_SECONDS:
            return [*spans, TimeSpan(start_seconds=start, end_seconds=end_seconds)]
        spans.append(TimeSpan(start_seconds=start, end_seconds=end))


def _frames_in(embeddings: FrameEmbeddings, epoch: slice, span: TimeSpan) -> slice:
    """Frames that begin in the span; where none does, the one that is shown through it."""
    pts = embeddings.pts_seconds[epoch]
    first = epoch.start + int(np.searchsorted(pts, span.start_seconds, "left"))
    end = epoch.start + int(np.searchsorted(pts, span.end_seconds, "left"))
    if first < end:
        return slice(first, end)
    shown = epoch.start + int(np.searchsorted(pts, span.start_seconds, "right")) - 1
    return slice(shown, shown + 1) if shown >= epoch.start else slice(first, first)


def _utterances_in(starts: NDArray[np.float64], ends_so_far: NDArray[np.float64], span: TimeSpan) -> slice:
    """The shortest run that holds every utterance that overlaps the span.

    Args:
        starts: (U,) of one epoch, ascending.
        ends_so_far: (U,) the latest end among each utterance and those before it, so ascending too.
    """
    stop = int(np.searchsorted(starts, span.end_seconds, "left"))
    first = int(np.searchsorted(ends_so_far, span.start_seconds, "right"))
    return slice(min(first, stop), stop)
