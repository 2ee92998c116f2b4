"""Settings of the stage: which models, on which device."""

from dataclasses import dataclass
from typing import Literal

from encoders.languages import CODES

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualConfig:
    """The visual encoder."""

    # visual encoder: `auto`, `none`, `mini`, `MODEL/PRETRAINED`, `hf-hub:ORG/NAME`, `local-dir:PATH` or `MODEL:/FILE`
    model: str = "auto"
    device: Device = "auto"  # where it runs: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`
    batch_count: int = 32  # pictures encoded together

    def __post_init__(self) -> None:
        if self.batch_count < 1:
            raise ValueError(f"batch_count must be >= 1, got {self.batch_count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechConfig:
    """Voice activity detection and Whisper."""

    # speech model: `auto`, `none`, a Whisper name such as `small`, a `.pt` file or a CTranslate2 folder
    model: str = "auto"
    device: Device = "auto"  # where it runs, as `visual.device`
    # languages that are spoken, in two letters (ISO 639-1): `de`, or `de,fr`; each 30 s of speech are heard as the
    # most probable of them; none: any
    languages: tuple[str, ...] = ()
    translate: bool = False  # whether words of other languages are stored in English; not by Whisper's `turbo` models
    # whether the speakers of a file are told apart: its utterances get numbers of anonymous speakers; needs
    # `pip install 'kinodex[speakers]'`. Not for live streams, nor for files over Kafka
    speakers: bool = False
    batch_count: int = 16  # windows of speech transcribed together, shared out among the cores
    max_window_seconds: float = 30.0  # longest window of speech, from 2 to 30, Whisper's receptive field
    vad_threshold: float = 0.5  # probability of voice above which a sound is speech
    # Whisper's probability of silence above which words must reach `min_avg_logprob` / 4; Whisper's default
    max_no_speech_prob: float = 0.6
    min_avg_logprob: float = -1.0  # mean log-probability below which words are guesses and dropped; Whisper's default

    def __post_init__(self) -> None:
        if not 2 <= self.max_window_seconds <= 30:
            raise ValueError(f"max_window_seconds must be in [2, 30], got {self.max_window_seconds}")
        for language in self.languages:
            if language not in CODES:
                raise ValueError(f"languages must be codes that Whisper knows, such as de or ja, got {language!r}")
        if len(set(self.languages)) < len(self.languages):
            raise ValueError(f"languages must differ, got {', '.join(self.languages)}")

    @property
    def language(self) -> str | None:
        """The only language that is spoken; None: there may be several."""
        return self.languages[0] if len(self.languages) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceConfig:
    """The sentence encoder of the dense transcript channel."""

    # sentence encoder for transcripts: `auto`, or a sentence-transformers name or folder
    model: Literal["auto"] | str = "auto"
    device: Device = "auto"  # where it runs, as `visual.device`
    batch_count: int = 64  # sentences encoded together

    @property
    def knows_only_english(self) -> bool:
        """Whether it is the default model. What other models know is theirs to say."""
        return self.model in ("auto", "all-MiniLM-L6-v2")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """The reader of text in pictures."""

    # reader of text in pictures: `auto` (RapidOCR's, if `pip install 'kinodex[text]'` was done), or `none`: no text is
    # read, and none is searched for
    model: Literal["auto", "none"] = "auto"

    def __post_init__(self) -> None:
        if self.model not in ("auto", "none"):
            raise ValueError(f"model must be auto or none, got {self.model!r}")
