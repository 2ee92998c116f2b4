"""Weights of models: hashing, the local cache, the hub, and the choice of device and number type.

Nothing here imports torch at module level, so a question to an indexed library starts without it.
"""

import hashlib
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 2.0  # for the whole probe of the hub; a person waits for it, once per new data directory
CPU_INFO = Path("/proc/cpuinfo")
FINGERPRINT_DIGITS = 16  # hex digits, 64 bits: no two encoders share them by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A strong open_clip model that "auto" may take."""

    name: str  # MODEL/PRETRAINED
    repository: str  # on the hub, where open_clip's loader finds it
    kinds: tuple[str, ...]  # device kinds on which it is fast enough


# Best first. Chosen for text-to-video retrieval, zero-shot, mean of frames, MSR-VTT recall@1, as published: PE-Core
# L 50.3, B 47.6 (github.com/facebookresearch/perception_models); OpenAI's ViT-B/32 about 31 (CLIP4Clip). The last entry
# is a stronger training of about that size, for machines where only it is cached. We measured none of these figures.
# We measured speed, with random weights on two CPU cores in float32: B 6 frames a second, ViT-B-32-256 15.
LISTED = (
    ListedModel(name="PE-Core-L-14-336/meta", repository="timm/PE-Core-L-14-336", kinds=("cuda",)),
    ListedModel(name="PE-Core-B-16/meta", repository="timm/PE-Core-B-16", kinds=("cuda", "mps", "cpu")),
    ListedModel(
        name="ViT-B-32-256/datacomp_s34b_b86k",
        repository="laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        kinds=("cuda", "mps", "cpu"),
    ),
)
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # open_clip's own names, its order


def fingerprint_of(*parts: str | bytes) -> str:
    """Hash everything that decides a vector (architecture, weights, preprocessing) into one short hex name."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        digest.update(data)
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def state_fingerprint(state: "Mapping[str, torch.Tensor]") -> str:
    """Hash every tensor of a state dict. The same weights give the same name, whatever file they came from.

    Tensors are hashed in parallel, because hashlib releases the GIL: about 1.5 GB/s a core.
    """
    import torch

    def hash_tensor(name: str) -> str:
        tensor = state[name].detach().cpu().contiguous()
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        return fingerprint_of(header, tensor.reshape(-1).view(torch.uint8).numpy().tobytes())

    with ThreadPoolExecutor() as pool:
        return fingerprint_of(*pool.map(hash_tensor, sorted(state)))


def choose_device(wanted: str) -> str:
    """Resolve "auto" to cuda, mps or cpu; return any other name unchanged.

    Raises:
        ValueError: If the named device is not on this machine.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if has_cuda else "mps" if has_mps else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps") or (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        raise ValueError(f"device must be auto, cpu, or a cuda or mps device of this machine, got {wanted!r}")
    return wanted


def choose_dtype(device: str) -> "torch.dtype":
    """Return bfloat16 where the hardware multiplies it natively and faster, float32 elsewhere.

    CUDA: from Ampere (compute capability 8.0) on. CPU: with AMX tiles, or AMD's AVX-512 BF16.
    Measured on two cores (torch 2.15), frames a second of ViT-B-32-256 and PE-Core-B-16:
    AMD EPYC (Zen 4) 32 and 8.7 in bfloat16, 15 and 4.8 in float32;
    Intel Xeon without AMX 12.5 and 3.4 in bfloat16, 15.5 and 6.4 in float32.
    Embeddings of the two types have a cosine above 0.9999, so the type is not in the fingerprint.
    """
    import torch

    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if kind == "cpu" and (torch.cpu._is_amx_tile_supported() or has_fast_avx512_bf16()):
        return torch.bfloat16
    return torch.float32


def has_fast_avx512_bf16() -> bool:
    """Whether AVX-512 BF16 alone doubles a transformer's speed on this CPU: AMD's CPUs from Zen 4 on.

    The vendor decides, not a timing: a machine under load must not change its vectors between two starts.
    """
    import torch

    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        return "AuthenticAMD" in CPU_INFO.read_text(errors="replace")
    except OSError:  # not Linux
        return False


def cached_weights(repository: str, filenames: tuple[str, ...] = WEIGHT_FILES) -> Path | None:
    """Find the weights of a repository in the hub's local cache, without the network."""
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        path = try_to_load_from_cache(repository, filename)
        if isinstance(path, str):  # None: not cached; an object: the hub said that it does not exist
            return Path(path)
    return None


def hub_answers(repository: str, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> bool:
    """Ask the hub once whether it serves a repository. No answer in time means no. HF_HUB_OFFLINE is honoured."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    url = f"{constants.ENDPOINT}/api/models/{repository}"
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
                if response.status == 200:
                    answered.set()
        except (OSError, ValueError) as error:  # refused, unresolvable, too slow, or an endpoint that is no URL
            logger.debug("hub probe failed url=%s error=%s", url, error)
        finally:
            finished.set()

    finished = threading.Event()
    # A thread of its own: the timeout of urlopen does not cover the name lookup, which may hang for longer.
    threading.Thread(target=ask, daemon=True, name="hub-probe").start()
    finished.wait(timeout_seconds)
    return answered.is_set()


@contextmanager
def hub_offline() -> Iterator[None]:
    """Switch the hub off inside the block: cached files load at once, other files fail at once.

    The hub client reads this constant at each request. open_clip passes no argument for it through. Other threads see
    the switch too, for the time of one load.
    """
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
