"""Transcriber: turns windows of speech into utterances with openai-whisper, in batches over all streams."""

import threading
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from whisper.audio import N_SAMPLES, log_mel_spectrogram
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import get_tokenizer

from encoders.config import SpeechConfig
from encoders.errors import WeightsInvalid
from encoders.speech.alignment import align
from encoders.speech.audio_encoder import CpuAudioEncoder
from encoders.speech.shrinking_batch import ShrinkingTask
from encoders.speech.speech_stream import SpeechStream, SpeechWindow
from encoders.speech.text_decoder import Sound, Vocabulary, pack_layers, pick, prepare
from encoders.speech.utterances import cut_utterances, join_pieces, place_words
from encoders.speech.whisper_weights import LoadedWhisper, load_whisper
from encoders.threads import Lanes
from encoders.values import Utterance
from encoders.weights import choose_dtype

__all__ = ["SpeechStream", "SpeechWindow", "Transcriber"]


DECODING_VERSION = 3  # part of the fingerprint; raise it when a change here changes words
RETRY_TEMPERATURES = (0.4, 0.8)  # openai-whisper rises by 0.2, but every step costs a decode and few windows need it
MAX_COMPRESSION_RATIO = 2.4  # by zlib; a higher ratio means repeating text (openai-whisper's default)
# Share of the probability of the expected languages above which a window is heard in its own language, and not in that
# of the windows before it: more than all others together.
SURE_LANGUAGE_SHARE = 0.5
TRANSLATED = "en"  # Whisper translates into no other language
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # openai-whisper's tokenizer has the same list
SEED = 0  # of the retries: the same sound always gives the same words


class Transcriber:
    """A loaded Whisper model. Calls run one at a time."""

    def __init__(self, loaded: LoadedWhisper, config: SpeechConfig) -> None:
        if not loaded.model.is_multilingual and (config.translate or set(config.languages) - {"en"}):
            setting = f"speech.languages = {','.join(config.languages)}" if config.languages else "speech.translate"
            raise WeightsInvalid(loaded.name, f"it knows only English, and {setting} needs a multilingual model")
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = loaded.model
        # The model's sparse buffer of alignment heads does not move to every device, and `align` takes a list.
        model.register_buffer("alignment_heads", None, persistent=False)
        self._model = model.to(device)
        self._heads = loaded.alignment_heads
        self._config = config
        self._device = torch.device(device)
        self._half = self._device.type == "cuda"
        is_cpu = self._device.type == "cpu"
        self._encoder = CpuAudioEncoder(self._model.encoder, choose_dtype("cpu")) if is_cpu else self._model.encoder
        pack_layers(self._model.decoder)
        self._vocabulary = Vocabulary(self._model.decoder.token_embedding.weight)
        self._lanes = Lanes(self._device.type)
        self._lock = threading.Lock()  # one call at a time, to bound memory
        self._sampling = threading.Lock()  # guards PyTorch's random numbers, which all threads share
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # whisper does not close its vocabulary file
            get_tokenizer(model.is_multilingual, num_languages=model.num_languages)  # fills the cache
        self.name, self.is_multilingual = loaded.name, bool(model.is_multilingual)
        self.language = config.language  # None: detected
        self.languages = config.languages  # that are expected; none: any
        self.translates = config.translate
        # As in earlier versions where nothing is set, so that libraries stay valid.
        languages = (config.languages, config.translate) if model.is_multilingual else config.language
        settings = (languages, config.max_window_seconds, config.vad_threshold)
        guards = (config.max_no_speech_prob, config.min_avg_logprob)
        self.fingerprint = f"whisper:{loaded.name}:{loaded.sha256[:16]}:{DECODING_VERSION}:{settings + guards}"

    @classmethod
    def load(cls, config: SpeechConfig) -> "Transcriber":
        """Load config.model onto config.device.

        Raises:
            WeightsNotFound: If there is no such model, or its weights are not available here.
            WeightsInvalid: If the weights are damaged or of another kind.
        """
        return cls(load_whisper(config.model), config)

    def open_stream(self, language: str | None = None) -> SpeechStream:
        """Make the stream of one video: voice activity, and the language if it is known."""
        return SpeechStream(self._config, language)

    def transcribe(self, windows: Sequence[SpeechWindow]) -> list[list[Utterance]]:
        """Transcribe windows of any videos: return the utterances of each window, in order of time.

        Words do not depend on which windows share a batch. A window without likely speech gives no utterance.
        """
        with self._lock:
            shares = self._lanes.map_batches(self._transcribe_share, windows, self._config.batch_count)
        return [utterances for share in shares for utterances in share]

    @torch.inference_mode()
    def _transcribe_share(self, windows: Sequence[SpeechWindow]) -> list[list[Utterance]]:
        features = self._encode(windows)
        languages = self._choose_languages(windows, features)
        utterances: list[list[Utterance]] = [[] for _ in windows]
        for language in sorted(set(languages)):
            chosen = [i for i, other in enumerate(languages) if other == language]
            sound = prepare(self._model, features[chosen])
            results = self._decode(features[chosen], sound, language)
            real = [n for n, result in enumerate(results) if not self._is_hallucination(result)]
            rows = self._build(
                [windows[chosen[n]] for n in real], [results[n] for n in real], pick(sound, real), language
            )
            for n, row in zip(real, rows, strict=True):
                utterances[chosen[n]] = row
        return utterances

    def _encode(self, windows: Sequence[SpeechWindow]) -> Tensor:
        """Encode windows, each padded with silence to Whisper's 30 s: (B, T, D)."""
        padded = np.zeros((len(windows), N_SAMPLES), dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window.samples)] = window.samples
        # One at a time: log_mel_spectrogram clamps relative to the loudest sample of its whole input.
        mels = torch.stack(
            [log_mel_spectrogram(row, n_mels=self._model.dims.n_mels, device=self._device) for row in padded]
        )
        features: Tensor = self._encoder(mels.half() if self._half else mels)
        return features

    def _choose_languages(self, windows: Sequence[SpeechWindow], features: Tensor) -> list[str]:
        """Return the language of each window: the most probable of those that the settings name.

        A window that is not sure of its language has that of the last window of its stream that was.
        """
        if not self._model.is_multilingual:
            return ["en"] * len(windows)
        if self.language is not None:
            return [self.language] * len(windows)
        languages = []
        for window, feature in zip(windows, features, strict=True):  # each alone, so that it depends on no other
            _, [found] = self._model.detect_language(feature[None])
            expected = {language: found[language] for language in self._config.languages or found}
            language = max(expected, key=expected.__getitem__)
            if expected[language] > SURE_LANGUAGE_SHARE * sum(expected.values()):
                window.stream.language = language
            languages.append(window.stream.language or language)
        return languages

    def _task_of(self, language: str) -> str:
        return "translate" if self._config.translate and language != TRANSLATED else "transcribe"

    def _decode(self, features: Tensor, sound: Sound, language: str) -> list[DecodingResult]:
        """Decode greedily, then sample again where the text repeats itself.

        openai-whisper also samples again for a low avg_logprob. That saved no development window: text that is
        improbable at its most probable is a ghost, and each ghost would cost two more decodes.
        """
        results = self._run(features, sound, language, 0.0)
        for i in range(len(results)):
            for temperature in RETRY_TEMPERATURES:
                if results[i].compression_ratio <= MAX_COMPRESSION_RATIO:
                    break
                # One window with a fixed seed, so that its words depend on nothing else.
                cuda = [self._device] if self._device.type == "cuda" else []
                with self._sampling, torch.random.fork_rng(cuda):
                    torch.manual_seed(SEED)
                    [results[i]] = self._run(features[i : i + 1], pick(sound, [i]), language, temperature)
        return results

    def _run(self, features: Tensor, sound: Sound, language: str, temperature: float) -> list[DecodingResult]:
        options = DecodingOptions(
            task=self._task_of(language),
            language=language,
            temperature=temperature,
            without_timestamps=True,
            fp16=self._half,
        )
        results: list[DecodingResult] = ShrinkingTask(self._model, options, self._vocabulary, sound).run(features)
        return results

    def _is_hallucination(self, result: DecodingResult) -> bool:
        """Whether Whisper made the words up, over music, laughter or noise that the detector took for speech."""
        if not result.text.strip():
            return True
        floor = self._config.min_avg_logprob
        if result.no_speech_prob > self._config.max_no_speech_prob:
            floor /= 4  # Whisper doubts that there was speech: "you" over silence has -0.38 to -0.9
        return bool(result.avg_logprob < floor or result.compression_ratio > MAX_COMPRESSION_RATIO)

    def _build(
        self, windows: Sequence[SpeechWindow], results: Sequence[DecodingResult], sound: Sound, language: str
    ) -> list[list[Utterance]]:
        if not windows:
            return []
        model = self._model
        tokenizer = get_tokenizer(
            model.is_multilingual, num_languages=model.num_languages, language=language, task=self._task_of(language)
        )
        is_translated = self._task_of(language) == "translate"
        written = TRANSLATED if is_translated else language
        texts = [[token for token in result.tokens if token < tokenizer.eot] for result in results]
        durations = [window.end_seconds - window.start_seconds for window in windows]
        timed = align(model, tokenizer, self._heads, self._vocabulary, sound, texts, durations)
        spaced = written not in UNSPACED_LANGUAGES
        rows = []
        for window, result, pieces in zip(windows, results, timed, strict=True):
            joined = join_pieces(pieces, spaced)
            words = place_words(joined, window.start_seconds, window.end_seconds, window.speech)
            rows.append(
                [
                    Utterance(
                        epoch=window.epoch,
                        start_seconds=spoken[0].start_seconds,
                        end_seconds=spoken[-1].end_seconds,
                        text=(" " if spaced else "").join(word.text for word in spoken),
                        words=spoken,
                        language=written,
                        spoken_language=language if is_translated else "",
                        avg_logprob=float(result.avg_logprob),
                        no_speech_prob=float(result.no_speech_prob),
                    )
                    for spoken in cut_utterances(words)
                ]
            )
        return rows
