"""Settings: the only reader of the environment and of settings files.

Defaults stand in the configs' fields. A TOML file overrides them, and variables `KINODEX_SECTION_FIELD` override both.
A key that no config has is an error, so that no typing mistake passes for a setting.
"""

import difflib
import os
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from encoders.config import SentenceConfig, SpeechConfig, TextConfig, VisualConfig
from ingest.config import DecodeConfig, KafkaConfig, PublishConfig, SourceConfig
from serve.config import ClientConfig, ClipConfig, IndexConfig, ServerConfig, SubtitleConfig, WorkerConfig
from serve.errors import SettingsError
from temporal.config import MomentConfig, WindowConfig

PREFIX = "KINODEX_"
# Variables that are no settings: the data directory, the settings file, and what tests must not skip.
OTHER_VARIABLES = ("KINODEX_DATA", "KINODEX_CONFIG", "KINODEX_REQUIRE")
# Fields that the visual encoder or the command decides; as settings they would have no effect.
DERIVED_KEYS = frozenset(
    {
        "decode.input_width",
        "decode.input_height",
        "decode.resize",
        "decode.reading_px",
        "decode.read_subtitles",
        "decode.clock",
        "publish.realtime",
    }
)


def _default_workers() -> int:
    # From two on, decoding one input overlaps encoding another. Above eight the encoders are the limit.
    return max(2, min(8, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that an operator can set, one config for each section of the settings file."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    visual: VisualConfig = field(default_factory=VisualConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    sentence: SentenceConfig = field(default_factory=SentenceConfig)
    text: TextConfig = field(default_factory=TextConfig)
    subtitles: SubtitleConfig = field(default_factory=SubtitleConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    moments: MomentConfig = field(default_factory=MomentConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    # inputs, or chunks of streams, decoded at the same time; by default half the processors, from 2 to 8
    workers: int = field(default_factory=_default_workers)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be >= 1, got {self.workers}")

    @property
    def worker_group(self) -> str:
        """The consumer group of all workers."""
        return self.worker.group or f"{self.kafka.topic_prefix}-workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Override:
    """A value that the file or the environment sets."""

    value: Any
    origin: str  # where, for people: "decode.sampling in kinodex.toml", "$KINODEX_DECODE_SAMPLING"


def data_directory(given: Path | None) -> Path:
    """Return the data directory: the given one, else $KINODEX_DATA, else ./kinodex-data."""
    return given or Path(os.environ.get("KINODEX_DATA") or "kinodex-data")


def known_settings() -> dict[str, Any]:
    """Return the type of every setting by its key: "section.field", or the name of a field of Settings."""
    known: dict[str, Any] = {}
    for name, kind in get_type_hints(Settings).items():
        if name in _sections():
            for key, annotation in get_type_hints(kind).items():
                if f"{name}.{key}" not in DERIVED_KEYS:
                    known[f"{name}.{key}"] = annotation
        else:
            known[name] = kind
    return known


def load_settings(directory: Path | None = None, file: Path | None = None) -> Settings:
    """Read the file and the environment, and return the settings.

    Args:
        directory: The data directory, whose kinodex.toml is read if no other file is named.
        file: The settings file; None: $KINODEX_CONFIG, else the data directory's.
    Raises:
        SettingsError: For an unreadable file, an unknown key or variable, a value of the wrong type or range.
    """
    overrides = _read_file(_settings_file(directory, file))
    overrides.update(_read_environment(os.environ))
    return _build(overrides)


def with_kafka_servers(settings: Settings, servers: str | None) -> Settings:
    """Return settings with other brokers, "host:port,host:port"; None: the same settings.

    Raises:
        SettingsError: If they are no addresses.
    """
    if servers is None:
        return settings
    try:
        named = tuple(part.strip() for part in servers.split(",") if part.strip())
        return replace(settings, kafka=replace(settings.kafka, servers=named))
    except ValueError as error:
        raise SettingsError(f"{error}: set by --kafka") from error


def _settings_file(directory: Path | None, file: Path | None) -> Path | None:
    if file is None and os.environ.get("KINODEX_CONFIG"):
        file = Path(os.environ["KINODEX_CONFIG"])
    if file is None and directory is not None and (directory / "kinodex.toml").is_file():
        return directory / "kinodex.toml"
    return file


def _sections() -> list[str]:
    return [each.name for each in fields(Settings) if each.name != "workers"]


def _read_file(file: Path | None) -> dict[str, _Override]:
    if file is None:
        return {}
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"cannot read settings file {file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not TOML: {error}") from error
    known, overrides = known_settings(), {}
    for section, content in document.items():
        if section in _sections() and not isinstance(content, dict):
            raise SettingsError(f"[{section}] in {file} must be a table, got {content!r}")
        values = content if isinstance(content, dict) else {"": content}
        for name, value in values.items():
            key = f"{section}.{name}".rstrip(".")
            _check_known(key, known, f"{key} in {file}")
            overrides[key] = _Override(
                value=_check_type(value, known[key], f"{key} in {file}"), origin=f"{key} in {file}"
            )
        if not values:
            _check_known(section, dict.fromkeys(_sections()), f"[{section}] in {file}")
    return overrides


def _read_environment(environ: Mapping[str, str]) -> dict[str, _Override]:
    known = {variable_name(key): (key, kind) for key, kind in known_settings().items()}
    overrides = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        _check_known(variable, [*known, *OTHER_VARIABLES], f"${variable}")
        key, kind = known[variable]
        value = _check_type(_parse_text(environ[variable], kind), kind, f"${variable}")
        overrides[key] = _Override(value=value, origin=f"${variable}")
    return overrides


def variable_name(key: str) -> str:
    """Return the environment variable of a key: "visual.model" -> "KINODEX_VISUAL_MODEL"."""
    return PREFIX + key.replace(".", "_").upper()


def _check_known(name: str, known: Mapping[str, Any] | list[str], origin: str) -> None:
    if name in known:
        return
    if name in DERIVED_KEYS:
        raise SettingsError(f"{origin} cannot be set: the encoders decide it")
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    raise SettingsError(f"unknown setting {origin}: the nearest known one is {nearest[0]}")


def _parse_text(text: str, kind: Any) -> Any:
    """Read a variable's text as `kind`. Text that does not fit is returned unchanged, for _check_type to refuse."""
    members = _union_members(kind)
    if type(None) in members and text == "":
        return None
    for member in members:
        if get_origin(member) is tuple:
            return [_parse_text(part.strip(), get_args(member)[0]) for part in text.split(",") if part.strip()]
    if bool in members:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    for number in (int, float):
        if number in members:
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _check_type(value: Any, kind: Any, origin: str) -> Any:
    """Check `value` against `kind`, and return it with the config's type (tuples, floats)."""
    members = _union_members(kind)
    for member in members:
        if get_origin(member) is Literal and value in get_args(member):
            return value
        if get_origin(member) is tuple and isinstance(value, list):
            item = get_args(member)[0]
            return tuple(_check_type(each, item, f"each of {origin}") for each in value)
        if member is float and isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return float(value)
        if member is not float and isinstance(member, type) and type(value) is member:
            return value
    expected = " or ".join(_type_name(member) for member in members if member is not type(None))
    raise SettingsError(f"{origin} must be {expected}, got {value!r}")


def _union_members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {_type_name(get_args(kind)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(kind, str(kind))


def _build(overrides: Mapping[str, _Override]) -> Settings:
    configs: dict[str, Any] = {}
    for name, kind in get_type_hints(Settings).items():
        if name in _sections():
            chosen = {
                key.partition(".")[2]: override for key, override in overrides.items() if key.startswith(f"{name}.")
            }
            configs[name] = _construct(kind, chosen)
        elif name in overrides:
            configs[name] = overrides[name].value
    own = {key: override for key, override in overrides.items() if "." not in key}
    settings: Settings = _construct(Settings, own, configs)
    return settings


def _construct(kind: type, overrides: Mapping[str, _Override], configs: Mapping[str, Any] | None = None) -> Any:
    """Make one config. Errors of its checks become SettingsErrors that name where the values were set."""
    values = configs if configs is not None else {key: override.value for key, override in overrides.items()}
    try:
        return kind(**values)
    except ValueError as error:
        # The configs' messages begin with the field's name. Where they name no field, any set value may be the cause.
        matching = [override.origin for key, override in overrides.items() if str(error).startswith(key)]
        origins = ", ".join(matching or [override.origin for override in overrides.values()])
        raise SettingsError(f"{error}: set by {origins}") from error
