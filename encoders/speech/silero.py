"""Voice activity detection: silero-vad's network and its weights. SpeechStream runs it."""

import importlib.util
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from encoders.errors import WeightsInvalid, WeightsNotFound

FRAME_SAMPLES = 512  # samples at 16 kHz that silero judges at a time: 32 ms
CONTEXT_SAMPLES = 64  # last samples of the frame before, which silero also sees
SILERO_NAMES = {  # our name of each tensor: silero's name
    "stft.weight": "stft.forward_basis_buffer",
    **{f"conv{i + 1}.{part}": f"encoder.{i}.reparam_conv.{part}" for i in range(4) for part in ("weight", "bias")},
    **{f"rnn.{part}_l0": f"decoder.rnn.{part}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"out.{part}": f"decoder.decoder.2.{part}" for part in ("weight", "bias")},
}


class SileroNet(nn.Module):
    """silero-vad's 16 kHz network, many frames a call.

    The package ships the network as TorchScript that takes one frame a call and holds the state of one stream. Frame by
    frame costs ten times as much as a block, and importing the package sets torch's thread count to 1. So this class
    reads its weights into a plain module. (The safetensors file in the package is of an older version.)
    Source: https://github.com/snakers4/silero-vad; a test compares both frame by frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.rnn = nn.LSTM(128, 128)
        self.out = nn.Conv1d(128, 1, kernel_size=1)

    def forward(self, frames: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Judge consecutive frames: float32 (F, CONTEXT + FRAME) -> probabilities (F,) and the state after them."""
        x = nn.functional.pad(frames[:, None], (0, 64), mode="reflect")
        x = self.stft(x)  # (F, 258, 4): real and imaginary parts
        x = torch.hypot(x[:, :129], x[:, 129:])  # sqrt() would go through MKL, which starts its own threads
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(conv(x))
        hidden, state = self.rnn(x.squeeze(-1), state)  # (F, 128)
        return torch.sigmoid(self.out(torch.relu(hidden)[..., None])).reshape(-1), state


def detector_path() -> Path:
    """Find the file of silero's weights without importing its package (see SileroNet)."""
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise WeightsNotFound("silero-vad", "install silero-vad 6 or later")
    return Path(spec.origin).parent / "data" / "silero_vad.jit"


@cache  # all streams share the 1.2 MB of read-only weights
def load_detector() -> SileroNet:
    """Load silero's weights from its package.

    Raises:
        WeightsNotFound: If the package is not installed.
        WeightsInvalid: If the file is not silero's 16 kHz network.
    """
    path = detector_path()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but only it reads this file
            shipped = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        net = SileroNet()
        net.load_state_dict({ours: shipped[f"_model.{theirs}"] for ours, theirs in SILERO_NAMES.items()})
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsInvalid(str(path), f"not silero-vad's network ({str(error).splitlines()[0]})") from error
    return net.eval().requires_grad_(False)
