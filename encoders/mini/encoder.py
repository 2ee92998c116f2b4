"""The built-in visual encoder: `mini`'s tower for pictures, the MiniLM sentence encoder for words.

It loads without any network, in under a second, and is weak: weights/MODEL_CARD.md says how weak.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from encoders.calibration import FILE as CALIBRATION_FILE
from encoders.calibration import GENERIC, Calibration, read_calibrations
from encoders.config import VisualConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.sentence import SentenceEncoder
from encoders.weights import choose_device, choose_dtype, fingerprint_of

if TYPE_CHECKING:
    from encoders.mini.tower import Tower

FOLDER = Path(__file__).parent / "weights"
NAME = "mini"


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniConfig:
    """What mini.json says: all that the tower needs besides its weights, preprocessing included."""

    architecture: str
    trained: str  # which training run: told to a person
    text: str  # the sentence encoder whose space it shares
    width: int
    input_px: int  # both sides
    resize: Literal["crop", "squash", "pad"]  # benchmarks/preprocessing.py chose it
    mean: float  # of a channel, 0..255
    std: float


class MiniEncoder:
    """The built-in visual encoder. Implements encoders.clip.VisualEncoder.

    Text goes through the sentence encoder alone, so a question in words never builds the tower nor imports torch.
    """

    def __init__(
        self,
        config: MiniConfig,
        data: bytes,
        calibrations: dict[str, Calibration],
        sentence: SentenceEncoder,
        run: VisualConfig,
    ) -> None:
        self.name, self.config = NAME, config
        self.width, self.resize = config.width, config.resize
        self.input_width = self.input_height = config.input_px
        # What is told to a person does not change a vector.
        settings = json.dumps(asdict(replace(config, trained="")), sort_keys=True)
        self.fingerprint = fingerprint_of(NAME, settings, hashlib.sha256(data).digest(), sentence.fingerprint)
        self.calibration = calibrations.get(self.fingerprint, GENERIC)  # a tower just trained has none yet
        self._data, self.sentence, self._run = data, sentence, run
        self._device = ""  # chosen with the first picture
        self._tower: Tower | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, config: VisualConfig, sentence: SentenceEncoder, folder: Path = FOLDER) -> "MiniEncoder":
        """Read `mini.json`, `mini.safetensors` and, if there, `calibration.json`.

        Raises:
            WeightsNotFound: If one of them is missing.
            WeightsInvalid: If one of them is damaged, or `sentence` is not the encoder it was trained with.
        """
        try:
            settings = (folder / "mini.json").read_text(encoding="utf-8")
            data = (folder / "mini.safetensors").read_bytes()
        except OSError as error:
            raise WeightsNotFound(NAME, f"cannot read {error.filename}: {error.strerror}") from error
        try:
            mini = MiniConfig(**json.loads(settings))
        except (ValueError, TypeError) as error:
            raise WeightsInvalid(str(folder / "mini.json"), str(error)) from error
        try:
            calibrations = read_calibrations(folder / CALIBRATION_FILE)
        except (ValueError, OSError) as error:
            raise WeightsInvalid(str(folder), str(error)) from error
        if sentence.name != mini.text:
            raise WeightsInvalid(str(folder), f"its texts are those of {mini.text}, not of {sentence.name}")
        check_header(folder / "mini.safetensors", data)
        return cls(mini, data, calibrations, sentence, config)

    def encode_frames(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed pictures.

        Args:
            pixels: uint8 (B, H, W, 3) RGB at the input size.

        Returns:
            float32 (B, D), unit length. In float32 a picture's vector does not depend on its batch (to 1e-4); in
            bfloat16 it moves by a cosine of up to 1e-3.

        Raises:
            ValueError: If the size is another.
        """
        expected = (self.input_height, self.input_width, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8 (B, *{expected}), got {pixels.dtype} {pixels.shape}")
        with self._lock:
            if self._tower is None:
                from encoders.threads import Lanes

                self._device = choose_device(self._run.device)
                self._lanes = Lanes(self._device)
                self._tower = build(self.config, self._data, self._device)
        vectors = self._lanes.map_batches(self._encode_some, pixels, self._run.batch_count)
        return np.concatenate([np.zeros((0, self.width), np.float32), *vectors])

    def _encode_some(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        assert self._tower is not None
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
            # (B, H, W, 3) seen as (B, 3, H, W) is channels_last already, the layout these convolutions like best.
            x = (batch.permute(0, 3, 1, 2).float() - self.config.mean) / self.config.std
            return np.asarray(self._tower(x.to(self._tower.stem.weight.dtype)).cpu().numpy(), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (Q, D), unit length."""
        return self.sentence.encode(texts)


def check_header(path: Path, data: bytes) -> None:
    """Refuse a damaged file when it is loaded, not at the first picture."""
    from safetensors import deserialize

    try:
        names = {name for name, _ in deserialize(data)}  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise WeightsInvalid(str(path), str(error)) from error
    if missing := {"stem.weight", "out.weight"} - names:
        raise WeightsInvalid(str(path), f"it has no {min(missing)}")


def build(config: MiniConfig, data: bytes, device: str) -> "Tower":
    """Build the tower of a weights file, to be asked and not trained.

    Raises:
        WeightsInvalid: If the file is of another network.
    """
    import torch

    from encoders.mini.tower import ARCHITECTURE, Tower, unpack

    if config.architecture != ARCHITECTURE:
        raise WeightsInvalid(NAME, f"they are of another network: {config.architecture}")
    tower = Tower()
    try:
        tower.load_state_dict(unpack(data))
    except RuntimeError as error:
        raise WeightsInvalid(NAME, str(error).partition("\n")[0]) from error
    # Unlike a transformer (choose_dtype), these convolutions gain from Intel's AVX-512 BF16 too: 163 against 137 frames
    # a second on two cores, at a cosine above 0.999.
    is_fast = device == "cpu" and torch.cpu._is_avx512_bf16_supported()
    tower.to(device, torch.bfloat16 if is_fast else choose_dtype(device)).to(memory_format=torch.channels_last)
    return tower.requires_grad_(False).eval()
