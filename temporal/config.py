"""Settings of the stage: windows, the fusion transformer and its training, and moments."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """The grid of windows, and their fusion. Part of the encoder fingerprint."""

    length_seconds: float = 16.0  # length of a segment; its 16 frames are well under the 32 that fusion takes
    stride_seconds: float = 8.0  # between the starts of two segments; a second at the edge of one is inside the other
    # checkpoint of `kinodex train`, which makes segments of frames and words; none: the mean of a window's frames
    fusion: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.stride_seconds <= self.length_seconds:
            raise ValueError(
                f"stride_seconds must be in (0, length_seconds = {self.length_seconds}], got {self.stride_seconds}"
            )

    @property
    def name(self) -> str:
        """The grid as a short text, e.g. "16s/8s"."""
        return f"{self.length_seconds:g}s/{self.stride_seconds:g}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """The shape of a fusion transformer; each checkpoint holds its own."""

    frame_size: int  # D of the visual encoder
    utterance_size: int  # E of the sentence encoder
    width: int = 128
    layer_count: int = 1
    head_count: int = 4
    dropout: float = 0.1  # in training
    max_frames: int = 32  # attention to more frames is worse than mean pooling on long video (field practice)
    max_utterances: int = 16  # in a window; 16 s of talk seldom have more than eight

    @property
    def has_one_space(self) -> bool:
        """Whether vectors of frames and of sentences can be added, as those of mini and its sentence encoder."""
        return self.frame_size == self.utterance_size

    def __post_init__(self) -> None:
        for name in ("frame_size", "utterance_size", "width", "layer_count", "head_count", "max_utterances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.width % self.head_count:
            raise ValueError(f"width must be a multiple of head_count = {self.head_count}, got {self.width}")
        if not 1 <= self.max_frames <= 32:
            raise ValueError(f"max_frames must be in [1, 32], got {self.max_frames}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of the training of fusion. The defaults are usual for a head over frozen vectors."""

    steps: int = 2000
    batch_count: int = 128  # captions in a step, over all processes
    seed: int = 1  # of every random choice, and of the split of the videos
    learning_rate: float = 1e-3  # peak
    weighing_factor: float = 10.0  # learning rate of the layer that weighs the tokens, over that of the rest
    weight_decay: float = 0.2
    gradient_norm: float = 1.0
    anchor_weight: float = 0.1  # weight of the squared distance from the mean of the frames
    first_scale: float = 20.0  # initial scale of the similarities in the loss; it is learned
    shortest_seconds: float = 4.0  # of a window
    longest_seconds: float = 32.0  # of a window
    frame_dropout: float = 0.3  # largest share of frames that a window loses
    transcript_dropout: float = 0.3  # share of windows that lose all words
    average_decay: float = 0.99  # of the moving average of the weights, which is the result
    held_out_share: float = 0.1  # share of the captions for validation, and the same for the test
    report_steps: int = 50  # steps between two reports, each with a checkpoint
    patience: int = 10  # reports without improvement after which the run ends

    def __post_init__(self) -> None:
        for name in ("steps", "report_steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.batch_count < 2:
            raise ValueError(f"batch_count must be >= 2, got {self.batch_count}: a choice needs a wrong answer")
        if not 0 < self.shortest_seconds <= self.longest_seconds:
            raise ValueError(f"shortest_seconds must be in (0, longest_seconds], got {self.shortest_seconds}")
        for name in ("frame_dropout", "transcript_dropout", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.held_out_share < 0.5:
            raise ValueError(f"held_out_share must be in (0, 0.5), got {self.held_out_share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentConfig:
    """Settings of moments. All lengths are in seconds, whatever the duration of the video."""

    # Gaussian sigmas at which a similarity curve is read, for moments under 10 s and for longer ones
    smoothing_seconds: tuple[float, ...] = (1.0, 3.0)
    bridge_seconds: float = 3.0  # longest dip that does not end a moment
    snap_seconds: float = 1.5  # distance within which an edge moves to a shot cut; always under half the moment
    locality_seconds: float = 300.0  # how far around a peak medians and thresholds are taken
    tiou_threshold: float = 0.5  # overlap (intersection over union) above which two spans are one moment
    containment_share: float = 0.9  # of two nested spans the inner stays with at least this share of the outer's score
    # weight of the contrast to the seconds around in a moment's score; the rest is its height over the median
    ring_share: float = 0.25
    max_moments: int = 10  # most moments of one video

    def __post_init__(self) -> None:
        if not self.smoothing_seconds or min(self.smoothing_seconds) <= 0:
            raise ValueError(f"smoothing_seconds must be some positive sigmas, got {self.smoothing_seconds}")
        for name in ("bridge_seconds", "snap_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.ring_share <= 1:
            raise ValueError(f"ring_share must be in [0, 1], got {self.ring_share}")
        for name in ("tiou_threshold", "containment_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if not self.locality_seconds > 0:
            raise ValueError(f"locality_seconds must be > 0, got {self.locality_seconds}")
        if self.max_moments < 1:
            raise ValueError(f"max_moments must be >= 1, got {self.max_moments}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChapterConfig:
    """How a video is divided into chapters. benchmarks/chapters.py chose the numbers, with the built-in encoders."""

    price_factor: float = 0.25  # of the price of a chapter: lower, and there are more chapters
    speech_weight: float = 0.75  # of the scatter of the sentences beside that of the pictures
    interruption_factor: float = 2.0  # on the price of a chapter that begins inside an utterance
    min_seconds: float = 10.0  # shortest chapter: players show no shorter ones (YouTube)
    max_seconds: float = math.inf  # longest chapter, where pictures or pauses allow it
    max_count: int = 120  # chapters of a video: in two hours each has a minute or more

    def least_seconds(self, duration_seconds: float) -> float:
        """Return the shortest length of a chapter."""
        return max(self.min_seconds, duration_seconds / self.max_count)

    def price(self, duration_seconds: float) -> float:
        """Return the scatter that a chapter must save, in squared distance times seconds.

        It grows with the root of the length, so that a video four times as long has chapters twice as long.
        """
        return self.price_factor * math.sqrt(duration_seconds)
