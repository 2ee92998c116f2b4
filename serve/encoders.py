"""The encoders of one data directory, loaded together because their names and hashes are its encoder space."""

from dataclasses import dataclass

from encoders.clip import VisualEncoder, load_visual
from encoders.sentence import SentenceEncoder
from encoders.whisper import Transcriber
from serve.settings import Settings
from serve.values import EncoderSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Everything that turns media into rows."""

    visual: VisualEncoder | None  # None: nothing here can see
    visual_note: str  # one line: which visual encoder was taken, and why
    speech: Transcriber | None  # None: the setting says "none"
    sentence: SentenceEncoder
    space: EncoderSpace


def load_encoders(settings: Settings, remembered: EncoderSpace | None) -> Encoders:
    """Load what the settings name; "auto" means what the data directory remembers.

    Raises:
        WeightsNotFound: If a named model is not to be had.
        WeightsInvalid: If its file is not what it should be.
    """
    sentence = SentenceEncoder.load(settings.sentence)
    visual, note = load_visual(
        settings.visual, sentence, remembered=remembered.visual if remembered is not None else None
    )
    speech = None if settings.speech.model == "none" else Transcriber.load(settings.speech)
    space = EncoderSpace(
        visual=visual.name if visual is not None else "none",
        visual_fingerprint=visual.fingerprint if visual is not None else "none",
        speech=speech.name if speech is not None else "none",
        speech_fingerprint=speech.fingerprint if speech is not None else "none",
        sentence=sentence.name,
        sentence_fingerprint=sentence.fingerprint,
        window=settings.window.name,
    )
    return Encoders(visual=visual, visual_note=note, speech=speech, sentence=sentence, space=space)
