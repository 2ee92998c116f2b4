"""The one reader of the environment and of settings files.

Later wins: the defaults in the configs' fields, a TOML file, variables `KINODEX_SECTION_FIELD`. A key that no
config has is an error, so a typing mistake never passes for a setting.
"""

import difflib
import os
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from encoders.config import SentenceConfig, SpeechConfig, VisualConfig
from ingest.config import DecodeConfig, KafkaConfig, PublishConfig, SourceConfig
from serve.config import ClientConfig, IndexConfig, ServerConfig, WorkerConfig
from serve.errors import SettingsError
from temporal.config import MomentConfig, WindowConfig

PREFIX = "KINODEX_"
# Variables that are no setting: where the library is, where the file is, and what the tests must not skip.
OTHER_VARIABLES = ("KINODEX_DATA", "KINODEX_CONFIG", "KINODEX_REQUIRE")
# Decided by the visual encoder, or by the command; a setting that changes nothing would mislead.
DERIVED_KEYS = frozenset(
    {"decode.input_width", "decode.input_height", "decode.resize", "decode.clock", "publish.realtime"}
)


def _default_workers() -> int:
    # From two on, decoding one input overlaps encoding another; above eight the encoders are the limit.
    return max(2, min(8, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything an operator can set, one config a stage."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    visual: VisualConfig = field(default_factory=VisualConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    sentence: SentenceConfig = field(default_factory=SentenceConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    moments: MomentConfig = field(default_factory=MomentConfig)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One value somebody set, and where."""

    value: Any
    origin: str  # for people: "decode.sampling in kinodex.toml", "$KINODEX_DECODE_SAMPLING"


def data_directory(given: Path | None) -> Path:
    """Say where the library is: what was asked for, else $KINODEX_DATA, else ./kinodex-data."""
    return given or Path(os.environ.get("KINODEX_DATA") or "kinodex-data")


def known_settings() -> dict[str, Any]:
    """List every setting: "section.field" (or the field of Settings itself) -> its annotated type."""
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
    """Read the settings that hold now.

    Args:
        directory: The data directory, whose kinodex.toml counts when no other file is named.
        file: The settings file; None: $KINODEX_CONFIG, else the data directory's.
    Raises:
        SettingsError: For an unreadable file, an unknown key or variable, a value of the wrong type or range.
    """
    given = _read_file(_settings_file(directory, file))
    given.update(_read_environment(os.environ))
    return _build(given)


def with_kafka_servers(settings: Settings, servers: str | None) -> Settings:
    """Return settings with other brokers, if a command names some: "host:port,host:port".

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


def _read_file(file: Path | None) -> dict[str, _Given]:
    if file is None:
        return {}
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"cannot read settings file {file}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {file} is not TOML: {error}") from error
    known, given = known_settings(), {}
    for section, content in document.items():
        if section in _sections() and not isinstance(content, dict):
            raise SettingsError(f"[{section}] in {file} must be a table, got {content!r}")
        values = content if isinstance(content, dict) else {"": content}
        for name, value in values.items():
            key = f"{section}.{name}".rstrip(".")
            _check_known(key, known, f"{key} in {file}")
            given[key] = _Given(value=_typed(value, known[key], f"{key} in {file}"), origin=f"{key} in {file}")
        if not values:
            _check_known(section, dict.fromkeys(_sections()), f"[{section}] in {file}")
    return given


def _read_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    known = {variable_name(key): (key, kind) for key, kind in known_settings().items()}
    given = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        _check_known(variable, [*known, *OTHER_VARIABLES], f"${variable}")
        key, kind = known[variable]
        value = _typed(_parse(environ[variable], kind), kind, f"${variable}")
        given[key] = _Given(value=value, origin=f"${variable}")
    return given


def variable_name(key: str) -> str:
    """Name the variable that sets `key`: "visual.model" -> "KINODEX_VISUAL_MODEL"."""
    return PREFIX + key.replace(".", "_").upper()


def _check_known(name: str, known: Mapping[str, Any] | list[str], origin: str) -> None:
    if name in known:
        return
    if name in DERIVED_KEYS:
        raise SettingsError(f"{origin} cannot be set: the visual encoder decides it")
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    raise SettingsError(f"unknown setting {origin}: the nearest known one is {nearest[0]}")


def _parse(text: str, kind: Any) -> Any:
    """Read a variable's text as `kind`; text that does not fit comes back as it is, for _typed to refuse."""
    members = _members(kind)
    if type(None) in members and text == "":
        return None
    for member in members:
        if get_origin(member) is tuple:
            return [_parse(part.strip(), get_args(member)[0]) for part in text.split(",") if part.strip()]
    if bool in members:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    for number in (int, float):
        if number in members:
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _typed(value: Any, kind: Any, origin: str) -> Any:
    """Check `value` against `kind`, and give it as the config wants it (tuples, floats)."""
    members = _members(kind)
    for member in members:
        if get_origin(member) is Literal and value in get_args(member):
            return value
        if get_origin(member) is tuple and isinstance(value, list):
            item = get_args(member)[0]
            return tuple(_typed(each, item, f"each of {origin}") for each in value)
        if member is float and isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return float(value)
        if member is not float and isinstance(member, type) and type(value) is member:
            return value
    expected = " or ".join(_name(member) for member in members if member is not type(None))
    raise SettingsError(f"{origin} must be {expected}, got {value!r}")


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {_name(get_args(kind)[0])}"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(kind, str(kind))


def _build(given: Mapping[str, _Given]) -> Settings:
    configs: dict[str, Any] = {}
    for name, kind in get_type_hints(Settings).items():
        if name in _sections():
            chosen = {key.partition(".")[2]: it for key, it in given.items() if key.startswith(f"{name}.")}
            configs[name] = _construct(kind, chosen)
        elif name in given:
            configs[name] = given[name].value
    own = {key: it for key, it in given.items() if "." not in key}
    settings: Settings = _construct(Settings, own, configs)
    return settings


def _construct(kind: type, given: Mapping[str, _Given], configs: Mapping[str, Any] | None = None) -> Any:
    """Make one config; its own cross-checks become errors that name where the values came from."""
    values = configs if configs is not None else {key: it.value for key, it in given.items()}
    try:
        return kind(**values)
    except ValueError as error:
        # The configs' messages begin with the field's name; where none is named, all that was set is suspect.
        named = [it.origin for key, it in given.items() if str(error).startswith(key)]
        origins = ", ".join(named or [it.origin for it in given.values()])
        raise SettingsError(f"{error}: set by {origins}") from error
