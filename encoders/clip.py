"""Visual encoders: the protocol, any open_clip model, and the choice between them and the built-in mini."""

import difflib
import logging
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.calibration import GENERIC, Calibration
from encoders.config import SentenceConfig, VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.mini import NAME as MINI
from encoders.mini import MiniEncoder
from encoders.minilm import NAME as MINILM
from encoders.sentence import SentenceEncoder
from encoders.weights import (
    LISTED,
    WEIGHT_FILES,
    cached_weights,
    choose_device,
    choose_dtype,
    fingerprint_of,
    hub_answers,
    hub_offline,
    state_fingerprint,
)

logger = logging.getLogger(__name__)

ResizePolicy = Literal["crop", "squash", "pad"]
RESIZE: dict[str, ResizePolicy] = {"shortest": "crop", "squash": "squash", "longest": "pad"}  # open_clip's words


class VisualEncoder(Protocol):
    """Embeds pictures and texts as unit vectors of one space."""

    name: str  # in VisualConfig.model; loading that name again gives the same encoder
    fingerprint: str  # hex, of architecture, weights and preprocessing; equal where vectors may be compared
    width: int  # D, the length of its vectors
    input_width: int  # of a frame, in pixels
    input_height: int
    resize: ResizePolicy  # how a picture of another shape is brought to the input size
    calibration: Calibration  # used where the data directory has no calibration for this encoder

    @property
    def sentence(self) -> SentenceEncoder | None:
        """The sentence encoder of its texts, so that a caller with both encodes a text once; None: its own tower."""

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed uint8 (B, H, W, 3) RGB pictures at the input size: float32 (B, D), unit length."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (Q, D), unit length."""


class OpenClipEncoder:
    """A model of open_clip. Implements VisualEncoder. Safe to call from several threads."""

    calibration = GENERIC
    sentence = None

    def __init__(self, name: str, model: Any, tokenizer: Any, config: VisualConfig) -> None:
        import open_clip
        import torch

        from encoders.threads import Lanes

        preprocess = open_clip.get_model_preprocess_cfg(model)
        size = preprocess["size"]
        height, width = (size, size) if isinstance(size, int) else size
        self.input_height, self.input_width = int(height), int(width)
        self.resize = RESIZE[preprocess["resize_mode"]]
        mean, std = preprocess["mean"], preprocess["std"]
        self.name = name
        self.fingerprint = fingerprint_of(
            "open_clip",
            state_fingerprint(model.state_dict()),
            f"{self.input_width}x{self.input_height} {self.resize} {tuple(mean)} {tuple(std)}",
        )
        self._device = choose_device(config.device)
        self._dtype = choose_dtype(self._device)
        self._lanes = Lanes(self._device)
        self._batch_count = config.batch_count
        self._tokenizer = tokenizer
        self._model = model.to(self._device).eval()
        # Texts stay in float32: a question is one short sequence, so the exactness costs nothing.
        self._model.visual.to(self._dtype)
        # 0..255 to the model's own scale in one step.
        self._mean = torch.tensor(mean, device=self._device).view(3, 1, 1) * 255
        self._std = torch.tensor(std, device=self._device).view(3, 1, 1) * 255
        self.width = self.encode_texts(["a"]).shape[1]

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            pixels: uint8 (B, H, W, 3) RGB at the input size, already scaled (bicubic).
        Returns:
            float32 (B, D), unit length. In float32 a vector does not depend on its batch (to 1e-4). In bfloat16 the
            kernel may change with the batch size, which moves a vector by a cosine of up to 1e-3.
        Raises:
            ValueError: If the pixels have another shape or type.
        """
        expected = (self.input_height, self.input_width, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (B, *{expected}), got {pixels.dtype} {pixels.shape}")
        vectors = self._lanes.map_batches(self._encode_some, pixels, self._batch_count)
        return np.concatenate([np.zeros((0, self.width), np.float32), *vectors])

    def _encode_some(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels))
            x = batch.to(self._device).permute(0, 3, 1, 2).float()  # bytes travel to the device, which converts them
            features = self._model.encode_image(x.sub_(self._mean).div_(self._std).to(self._dtype))
            return np.asarray(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy())

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (Q, D), unit length. Texts over the model's context (often 77 tokens) are truncated."""
        import torch

        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        with torch.inference_mode():
            features = self._model.encode_text(self._tokenizer(list(texts)).to(self._device), normalize=True)
        return np.asarray(features.float().cpu().numpy())


def load_visual(
    config: VisualConfig, sentence: SentenceEncoder | None = None, *, remembered: str | None = None
) -> tuple[VisualEncoder | None, str]:
    """Load the visual encoder that the settings name.

    Args:
        config: The model; "auto" means the one that the data directory remembers, else the best one available here.
        sentence: A sentence encoder that is already loaded; mini shares it.
        remembered: The name stored in the data directory; None for a new directory.
    Returns:
        The encoder (None for "none"), and one line that says which encoder it is and why.
    Raises:
        WeightsNotFound: If a named model is not available here.
        WeightsInvalid: If its file is damaged or holds another model.
    """
    if config.model != "auto":
        return load_named(config.model, config, sentence), f"visual encoder {config.model}: the settings name it"
    if remembered is not None:
        line = f"visual encoder {remembered}: the data directory was made with it"
        return load_named(remembered, config, sentence), line
    return load_best(config, sentence)


def load_named(name: str, config: VisualConfig, sentence: SentenceEncoder | None) -> VisualEncoder | None:
    """Load one model by name; None for "none"."""
    if name == "none":
        return None
    return load_mini(config, sentence) if name == MINI else load_open_clip(name, config)


def load_best(config: VisualConfig, sentence: SentenceEncoder | None) -> tuple[VisualEncoder | None, str]:
    """Load the first listed model that is cached or that the hub serves, else mini, else nothing."""
    cached = {listed.name for listed in LISTED if cached_weights(listed.repository) is not None}
    is_answering = len(cached) < len(LISTED) and hub_answers(LISTED[0].repository)
    in_reach = [listed for listed in LISTED if listed.name in cached or is_answering]
    if in_reach:  # otherwise the device does not matter, and choosing it would import torch
        kind = choose_device(config.device).partition(":")[0]
        for listed in (listed for listed in in_reach if kind in listed.kinds):
            origin = "from the cache" if listed.name in cached else "from the hub"
            try:
                encoder = load_open_clip(listed.name, config)
            except WeightsNotFound as error:
                logger.warning("listed model skipped name=%s reason=%s", listed.name, error)
                continue
            return encoder, f"visual encoder {listed.name}: the best listed model in reach for {kind}, {origin}"
    try:
        return load_mini(config, sentence), "visual encoder mini, built in: no stronger model is cached or in reach"
    except WeightsNotFound as error:
        return None, f"no visual encoder: no listed model is cached or in reach, and {error}"


def load_mini(config: VisualConfig, sentence: SentenceEncoder | None) -> MiniEncoder:
    """Load mini on the given sentence encoder, or on an own MiniLM where the given encoder is another model."""
    if sentence is None or sentence.name != MINILM:
        sentence = SentenceEncoder.load(SentenceConfig())
    return MiniEncoder.load(config, sentence)


def load_open_clip(name: str, config: VisualConfig) -> OpenClipEncoder:
    """Load MODEL/PRETRAINED, hf-hub:ORG/NAME, local-dir:PATH or MODEL:/FILE with open_clip's loader.

    Raises:
        WeightsNotFound: If there is no such model, or its weights are neither cached nor on an answering hub.
        WeightsInvalid: If the file is damaged or holds another model.
    """
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).resolve()
        if not (folder / "open_clip_config.json").is_file():
            raise WeightsNotFound(name, f"no open_clip_config.json in {folder}")
        return build_open_clip(f"local-dir:{folder}", None, folder, config)
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        path = fetch(name, repository, "")
        fetch(name, repository, "open_clip_config.json")
        return build_open_clip(name, None, path, config)
    model, separator, tail = name.partition(":")
    if separator:
        path = Path(tail).resolve()
        require_known(name, model)
        if not path.is_file():
            raise WeightsNotFound(name, f"no such file: {path}")
        return build_open_clip(model, str(path), path, config)
    model, _, tag = name.partition("/")
    require_known(name, model)
    import open_clip

    source = open_clip.get_pretrained_cfg(model, tag)
    if not source:
        tags = open_clip.list_pretrained_tags_by_model(model)
        some = ", ".join(difflib.get_close_matches(tag, tags, n=3, cutoff=0.0)) or "none"
        raise WeightsNotFound(name, f"open_clip lists {len(tags)} weights for {model}, the closest: {some}")
    repository, _, filename = source.get("hf_hub", "").rpartition("/")
    if not repository:
        raise WeightsNotFound(name, f"they are on no hub; download {source.get('url')} and name {model}:/FILE")
    return build_open_clip(model, tag, fetch(name, repository, filename), config)


def require_known(name: str, model: str) -> None:
    """Refuse an architecture that open_clip does not have."""
    import open_clip

    if model not in open_clip.list_models():
        close = difflib.get_close_matches(model, open_clip.list_models(), n=1)
        raise WeightsNotFound(name, "open_clip has no such model" + (f"; did you mean {close[0]}?" if close else ""))


def fetch(name: str, repository: str, filename: str) -> Path:
    """Find a file of a repository in the cache, else let open_clip download it; "" means the weights.

    Raises:
        WeightsNotFound: If the file is in neither place. Without a network this takes as long as the probe, not the
            half minute of the hub client's retries.
    """
    stem = filename.rpartition(".")[0]
    filenames = (f"{stem}.safetensors", filename) if filename.endswith((".bin", ".pth", ".pt")) else (filename,)
    if (cached := cached_weights(repository, filenames if filename else WEIGHT_FILES)) is not None:
        return cached
    if not hub_answers(repository):
        raise WeightsNotFound(name, "they are not in the cache, and the hub does not answer")
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        return Path(download_pretrained_from_hf(repository, filename=filename or None))
    except OSError as error:
        raise WeightsNotFound(name, str(error).partition("\n")[0]) from error


def build_open_clip(model: str, pretrained: str | None, path: Path, config: VisualConfig) -> OpenClipEncoder:
    """Build a model from weights on this machine; `path` names them in errors.

    `model` and `pretrained` are the arguments of open_clip.create_model; None where `model` names the weights too.
    """
    import open_clip
    from safetensors import SafetensorError

    source = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    try:
        with hub_offline():  # everything is on this machine: no request, and no wait for one
            built = open_clip.create_model(
                model,
                pretrained=pretrained,
                precision="fp32",
                force_quick_gelu=bool(source.get("quick_gelu")),
                pretrained_text=False,
                require_pretrained=True,
                weights_only=True,  # a pickled checkpoint may hold tensors but no code
            )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, StopIteration, OSError, EOFError,
            SafetensorError, pickle.UnpicklingError) as error:  # fmt: skip
        raise WeightsInvalid(str(path), first_line(error)) from error
    name = model if pretrained is None else f"{model}:{path}" if Path(pretrained) == path else f"{model}/{pretrained}"
    return OpenClipEncoder(name, built, load_tokenizer(model, name), config)


def load_tokenizer(model: str, name: str) -> Any:
    """Load the tokenizer of a model from the cache, else from the hub. Most ship with open_clip."""
    import open_clip

    for context in (hub_offline(), nullcontext()):
        try:
            with context:
                return open_clip.get_tokenizer(model)
        except (OSError, ValueError) as error:
            failure = error
            if not hub_answers(model.removeprefix("hf-hub:")):
                break
    raise WeightsNotFound(name, f"its tokenizer is missing: {first_line(failure)}") from failure


def first_line(error: Exception) -> str:
    """Shorten the error of a library to one line."""
    text = str(error).strip() or type(error).__name__
    return text.partition("\n")[0][:200]
