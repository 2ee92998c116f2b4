"""Settings of the stage: which models, on which device."""

from dataclasses import dataclass
from typing import Literal

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualConfig:
    """The visual encoder."""

    model: str = "auto"  # auto | none | mini | MODEL/PRETRAINED | hf-hub:ORG/NAME | local-dir:PATH | MODEL:/FILE
    device: Device = "auto"
    batch_count: int = 32  # frames in one forward pass

    def __post_init__(self) -> None:
        if self.batch_count < 1:
            raise ValueError(f"batch_count must be >= 1, got {self.batch_count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechConfig:
    """Voice activity detection and Whisper."""

    model: str = "auto"  # auto | none | a Whisper name ("small") | FILE.pt | a CTranslate2 directory
    device: Device = "auto"
    language: str | None = None  # ISO 639-1; None: detected
    batch_count: int = 16  # windows transcribed together, shared out among the cores
    max_window_seconds: float = 30.0  # from 2, for a few words, to Whisper's receptive field
    vad_threshold: float = 0.5  # silero's speech probability
    max_no_speech_prob: float = 0.6  # with a low avg_logprob: nobody spoke (openai-whisper's default)
    min_avg_logprob: float = -1.0  # under it the words are guesses (openai-whisper's default)

    def __post_init__(self) -> None:
        if not 2 <= self.max_window_seconds <= 30:
            raise ValueError(f"max_window_seconds must be in [2, 30], got {self.max_window_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """The sentence encoder of the dense transcript channel."""

    model: Literal["auto"] | str = "auto"  # auto | a sentence-transformers name or folder
    device: Device = "auto"
    batch_count: int = 64
