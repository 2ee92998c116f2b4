"""The encoders of a data directory. They load together, as their names and hashes are its encoder space."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.clip import VisualEncoder, load_visual
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device
from encoders.writing.reader import READING_PX, describe_reader, find_models
from ingest.config import DecodeConfig
from ingest.values import Frame
from serve.settings import Settings
from serve.values import EncoderSpace
from temporal.fusion.fusion import Fusion, MeanPooling
from temporal.values import Pooling

if TYPE_CHECKING:
    from encoders.speech.whisper import Transcriber


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """All encoders of media and questions, apart from Whisper, which only media need."""

    visual: VisualEncoder | None  # None: pictures are not encoded
    note: str  # one line: which visual encoder was chosen and why, and whether text in pictures is read
    sentence: SentenceEncoder
    pooling: Pooling  # makes vectors of windows; its weights are loaded only to index media
    space: EncoderSpace

    def encode_frames(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """Return the vectors of F pictures, F > 0: float32 (F, D), unit length; D is 0 without a visual encoder."""
        if self.visual is None:
            return np.zeros((len(frames), 0), np.float32)
        return self.visual.encode_frames(np.stack([frame.pixels for frame in frames]))


def load_encoders(settings: Settings, stored: EncoderSpace | None, *, speech: tuple[str, str]) -> Encoders:
    """Load the encoders that the settings name; "auto" means those of the stored space.

    Args:
        stored: The data directory's space; None: it is new, or is to be reindexed.
        speech: Name and fingerprint of the transcriber; ("none", "none") without one.
    Raises:
        WeightsNotFound: If a named model is not available.
        WeightsInvalid: If a weights file is damaged or of another kind.
    """
    sentence = SentenceEncoder.load(settings.sentence)
    visual, note = load_visual(settings.visual, sentence, remembered=stored.visual if stored is not None else None)
    pooling = load_pooling(settings)
    space = EncoderSpace(
        visual=visual.name if visual is not None else "none",
        visual_fingerprint=visual.fingerprint if visual is not None else "none",
        speech=speech[0],
        speech_fingerprint=speech[1],
        sentence=sentence.name,
        sentence_fingerprint=sentence.fingerprint,
        window=f"{settings.window.name} {pooling.name}",
    )
    note = f"{note}; {describe_reader(settings.text)}"
    return Encoders(visual=visual, note=note, sentence=sentence, pooling=pooling, space=space)


def load_pooling(settings: Settings) -> Pooling:
    """Return the pooling of windows: the checkpoint that the settings name, else the mean."""
    if not settings.window.fusion:
        return MeanPooling()
    return Fusion(Path(settings.window.fusion), choose_device(settings.visual.device))


def decode_config(settings: Settings, encoders: Encoders) -> DecodeConfig:
    """Return decoding settings with the visual encoder's input size."""
    if encoders.visual is None:
        return settings.decode
    return replace(
        settings.decode,
        input_width=encoders.visual.input_width,
        input_height=encoders.visual.input_height,
        resize=encoders.visual.resize,
    )


def reading_config(settings: Settings, encoders: Encoders) -> DecodeConfig:
    """Return decode_config() with pictures to read text from and subtitles, where they are wanted."""
    config = replace(decode_config(settings, encoders), read_subtitles=settings.subtitles.use != "ignore")
    return config if find_models(settings.text) is None else replace(config, reading_px=READING_PX)


def load_for_indexing(settings: Settings, stored: EncoderSpace | None) -> "tuple[Transcriber | None, Encoders]":
    """Load Whisper and all encoders; see load_encoders()."""
    from encoders.speech.whisper import Transcriber  # half a GB of imports, which questions do not need

    transcriber = None if settings.speech.model == "none" else Transcriber.load(settings.speech)
    speech = (transcriber.name, transcriber.fingerprint) if transcriber is not None else ("none", "none")
    encoders = load_encoders(settings, stored, speech=speech)
    encoders.pooling.load(encoders.visual.width if encoders.visual is not None else 0, encoders.sentence.width)
    return transcriber, encoders
