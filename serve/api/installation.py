"""Checks the installation that a process runs on, for `kinodex doctor` and GetServerInfo. It uses no network."""

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable
from dataclasses import replace

from encoders.errors import EncoderError
from ingest.config import DecodeConfig
from ingest.errors import IngestError
from serve.errors import ServeError
from serve.overview import CheckResult
from serve.settings import Settings

# The codecs of nearly all videos of the last twenty years. A build of FFmpeg without one of them gets a note.
COMMON_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "aac", "mp3", "opus", "vorbis", "ac3")


def check_installation(settings: Settings) -> list[CheckResult]:
    """Check what a running server stands on: packages, decoding, its sandbox, the device and the vector index."""
    checks: list[tuple[str, Callable[[], CheckResult]]] = [
        ("packages", check_packages),
        ("decoding", check_decoding),
        ("sandbox", check_sandbox),
        ("device", lambda: check_device(settings)),
        ("vector index", lambda: check_index(settings)),
    ]
    return [run_check(name, check) for name, check in checks]


def run_check(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """Return the result of a check under its name; a check that fails is missing."""
    try:
        return replace(check(), name=name)
    except (ImportError, OSError, ValueError, IngestError, EncoderError, ServeError) as error:
        remedy = "pip install kinodex" if isinstance(error, ImportError) else ""
        return CheckResult(name=name, state="missing", detail=str(error), remedy=remedy)


def check_packages() -> CheckResult:
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


def check_decoding() -> CheckResult:
    import av

    versions = {name: ".".join(map(str, parts)) for name, parts in av.library_versions.items()}
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("libavformat", "libavcodec") if name in versions)
    detail = f"PyAV {av.__version__} with {libraries}: {len(av.codecs_available)} codecs"
    missing = [name for name in COMMON_CODECS if name not in av.codecs_available]
    if missing:
        remedy = "install PyAV's own wheel: pip install --force-reinstall --only-binary :all: av"
        return CheckResult(state="note", detail=f"{detail}, without {', '.join(missing)}", remedy=remedy)
    return CheckResult(state="ok", detail=detail)


def check_sandbox() -> CheckResult:
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


def check_device(settings: Settings) -> CheckResult:
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


def check_index(settings: Settings) -> CheckResult:
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
