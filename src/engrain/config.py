"""Configuration: nested frozen dataclasses, filled from flags, environment, files and defaults.

The first source that has a value wins::

    flag  >  environment (ENGRAIN_SECTION__KEY)  >  ./engrain.toml  >  HOME/config.toml  >  default

Every value keeps its origin. An unknown key, or a value of the wrong kind, is a
:class:`~engrain.errors.ConfigError` that names the place and proposes the nearest key. A value is
data: no key names a class or a file of code.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from engrain.errors import ConfigError

Scalar = bool | int | float | str
Effort = Literal["low", "normal", "high"]

HOME_FILE = "config.toml"
PROJECT_FILE = "engrain.toml"
ENVIRONMENT_PREFIX = "ENGRAIN_"
EVERYDAY = "qwen2.5-coder-0.5b"
"""The model that is meant when nobody says which: the default of the catalogue."""


def option(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A setting: its default, one line of help, and the closed range it must lie in."""
    metadata = {"help": help, "low": low, "high": high}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# ---------------------------------------------------------------------------- the sections


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it runs."""

    source: str = option(
        EVERYDAY, "a name of the catalogue, 'pocket', a folder, a GGUF file, or an id on the hub"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where the model runs; auto takes cuda, then mps, then the processor"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "number format of the weights; auto takes bfloat16 where the hardware multiplies it"
    )
    compute: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "number format of training's arithmetic; auto takes what the processor is made for"
    )
    kernels: Literal["auto", "off"] = option(
        "auto", "compiled kernels; off computes everything in torch, more slowly"
    )
    threads: int = option(
        0, "CPU threads; 0 takes one a physical core, at most OMP_NUM_THREADS", low=0, high=1024
    )
    local_only: bool = option(False, "never ask the hub: use only models that are on this machine")


@dataclass(frozen=True)
class LearnConfig:
    """How a lesson is learned."""

    recipe: str = option("auto", "name of the recipe; auto takes the one that fits the model")
    effort: Effort = option("normal", "how much work goes into a lesson")
    rounds: int = option(
        0,
        "rounds of training at most: 2 trains once more what the exam finds missing; "
        "0 takes the recipe's own (2 for chat, 1 for the others)",
        low=0,
        high=2,
    )
    manners: bool = option(True, "a new home begins with lesson zero, where the base has one")
    seed: int = option(0, "seed of everything random in a lesson", low=0, high=2**31 - 1)
    settings: Mapping[str, Scalar] = option(
        {}, "changes to the recipe by dotted name, for example optimization.learning_rate"
    )


@dataclass(frozen=True)
class StudyConfig:
    """How a conversation becomes a lesson."""

    hold_out: float = option(
        0.25, "share of the questions kept as probes, never trained on", low=0.05, high=0.9
    )
    max_facts: int = option(64, "most facts taken from one lesson", low=1, high=10_000)
    writer: str = option(
        "auto",
        "who asks the questions: self, a model on this machine by name, folder or GGUF file, "
        "or the address of an endpoint on it; auto takes a larger model where that is needed",
    )


@dataclass(frozen=True)
class GateConfig:
    """What an exam must show before a lesson goes live; fixed before training.

    The same fields and defaults as ``engrain.exam.gate.GateThresholds``, and a switch.
    """

    enabled: bool = option(True, "decide on the exam; off accepts every lesson that trained")
    min_recall: float = option(
        0.8, "least share of the lesson's own probes that pass", low=0, high=1
    )
    max_forgetting: float = option(
        0.05, "largest share of the earlier lessons' questions lost, all together", low=0, high=1
    )
    max_worst_drop: float = option(
        0.1, "largest share of one earlier lesson's questions lost", low=0, high=1
    )
    max_panel_loss_percent: float = option(
        1.0, "largest rise of the loss on general text over this lesson", low=0, high=100
    )
    max_total_panel_loss_percent: float = option(
        2.0, "largest rise of the loss on general text over all lessons", low=0, high=100
    )
    min_abstention: float = option(
        0.7, "share of never-told questions at which no fall is tested", low=0, high=1
    )
    max_abstention_drop: float = option(0.1, "largest fall of abstention", low=0, high=1)
    max_reading_drop: float = option(0.15, "largest fall of reading in context", low=0, high=1)
    max_arithmetic_drop: float = option(0.15, "largest fall of arithmetic", low=0, high=1)
    max_locality_drop: float = option(0.15, "largest fall of world facts", low=0, high=1)
    max_format_drop: float = option(0.2, "largest fall of keeping to a format", low=0, high=1)
    max_capability_drop: float = option(
        0.05, "largest fall of choices by likelihood", low=0, high=1
    )
    alpha: float = option(
        0.1, "error rate of the tests that tell change from chance", low=0, high=1
    )
    quarantine_margin: float = option(
        0.5, "share of an allowance by which a near miss may exceed it", low=0, high=10
    )


@dataclass(frozen=True)
class ChatConfig:
    """How answers are generated in a chat."""

    max_new_tokens: int = option(128, "longest answer in tokens", low=1, high=32_768)
    temperature: float = option(0.0, "randomness of the answer; 0 is greedy", low=0, high=10)
    top_p: float = option(1.0, "share of the probability mass to sample from", low=0.01, high=1)


@dataclass(frozen=True)
class LedgerConfig:
    """Where the record is kept."""

    url: str = option("", "database URL; empty is an SQLite file in the home folder")


@dataclass(frozen=True)
class Config:
    """Everything that can be configured.

    Example:
        >>> Config().learn.effort
        'normal'
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-ready values, section by section."""
        return {section.name: _plain(getattr(self, section.name)) for section in fields(type(self))}

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all values, as hex."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _plain(section: Any) -> dict[str, Any]:
    values = {f.name: getattr(section, f.name) for f in fields(section)}
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}


# ---------------------------------------------------------------------------- origins


@dataclass(frozen=True)
class Origin:
    """Where a value came from: the kind of source, and which one of that kind."""

    kind: Literal["flag", "environment", "project file", "home file", "default"]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".strip()


@dataclass(frozen=True)
class Resolved:
    """A configuration with the origin of each value by dotted key."""

    config: Config
    origins: Mapping[str, Origin]
    home: Path

    @property
    def digest(self) -> str:
        """The digest of the configuration; where a value came from does not change it."""
        return self.config.digest

    def flags(self) -> dict[str, Scalar]:
        """The settings that were given as flags, by dotted key, each of the setting's own type."""
        return {
            key: value
            for key, value in _flatten(self.config.to_dict())
            if key in self.origins and self.origins[key].kind == "flag"
        }

    def rows(self) -> Iterator[tuple[str, Scalar, Origin]]:
        """Dotted key, value and origin of every setting, passwords in URLs masked."""
        for key, value in _flatten(self.config.to_dict()):
            shown = _mask(value) if isinstance(value, str) else value
            yield key, shown, self.origins.get(key, Origin("default"))


def _mask(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*:)[^@/\s]*@", r"\1***@", text)


def home_folder(
    given: str | Path | None = None, *, environ: Mapping[str, str] | None = None
) -> Path:
    """The home folder: the one given, else ``ENGRAIN_HOME``, else the platform's data folder."""
    if given:
        return Path(given).expanduser()
    named = (os.environ if environ is None else environ).get("ENGRAIN_HOME", "").strip()
    if named:
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("engrain", appauthor=False)


def resolve(
    home: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: str | Path = ".",
) -> Resolved:
    """Gather the configuration from all sources.

    ``overrides`` are flags by dotted key; ``None`` means that the flag was not given, and text is
    read as the setting's own type. ``folder`` is where the project file is looked for.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind or out of range, or a broken file.

    Example:
        >>> found = resolve(overrides={"learn.effort": "low"}, environ={}, folder="/nowhere")
        >>> found.config.learn.effort, str(found.origins["learn.effort"])
        ('low', 'flag')
    """
    variables = os.environ if environ is None else environ
    home_path = home_folder(home, environ=variables)
    project_file, home_file = Path(folder) / PROJECT_FILE, home_path / HOME_FILE
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    sources: list[tuple[Origin, Iterator[tuple[str, Any]]]] = [
        (Origin("home file", str(home_file)), _flatten(_read(home_file))),
        (Origin("project file", str(project_file)), _flatten(_read(project_file))),
        *(
            (Origin("environment", name), iter([(_dotted(name), text)]))
            for name, text in sorted(variables.items())
            if name.startswith(ENVIRONMENT_PREFIX) and "__" in name
        ),
        (Origin("flag"), _flatten(given)),
    ]
    values: dict[str, dict[str, Any]] = {section: {} for section in _sections()}
    origins: dict[str, Origin] = {}
    for origin, pairs in sources:
        for key, raw in pairs:
            section, name, inner = _locate(key, origin)
            value = _take(section, name, key, raw, origin)
            if inner:
                values[section].setdefault(name, {})[inner] = value
            else:
                values[section][name] = value
            origins[key] = origin
    config = replace(Config(), **{name: cls(**values[name]) for name, cls in _sections().items()})
    return Resolved(config, origins, home_path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}.", remedy="Check the file's permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 (byte {error.start}).", remedy="Save the file as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: {error}.",
            remedy='A setting looks like this: [learn] on one line, effort = "low" on the next.',
        ) from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _dotted(variable: str) -> str:
    return variable[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")


# ---------------------------------------------------------------------------- checking


@cache
def _sections() -> dict[str, type[Any]]:
    return get_type_hints(Config)


@cache
def _annotations(section: str) -> dict[str, Any]:
    return get_type_hints(_sections()[section])


def keys() -> list[str]:
    """All settings by dotted key."""
    return [f"{section}.{name}" for section in _sections() for name in _annotations(section)]


def _is_table(annotation: Any) -> bool:
    return get_origin(annotation) is Mapping


def _locate(key: str, origin: Origin) -> tuple[str, str, str]:
    """Section, setting, and the dotted name inside a table."""
    section, _, rest = key.partition(".")
    name, _, inner = rest.partition(".")
    known = _annotations(section) if section in _sections() else {}
    if name in known and bool(inner) == _is_table(known[name]):
        return section, name, inner
    near = difflib.get_close_matches(key, keys(), n=1, cutoff=0.6)
    if name in known:
        hint = (
            f"[{section}.{name}] is a table." if not inner else f"Did you mean '{section}.{name}'?"
        )
    elif near:
        hint = f"Did you mean {near[0]!r}?"
    elif known:
        hint = f"[{section}] knows: {', '.join(known)}."
    else:
        hint = f"Sections: {', '.join(_sections())}."
    raise ConfigError(f"{_place(origin)}{key!r} is not a setting.", remedy=hint, key=key)


def _place(origin: Origin) -> str:
    return f"{origin.place}: " if origin.place else ""


def _take(section: str, name: str, key: str, raw: Any, origin: Origin) -> Scalar:
    """Check a value against the setting's type and range.

    Text from flags and variables is read as that type; a file says it with TOML's own types.
    """
    spec = _sections()[section].__dataclass_fields__[name]
    annotation = _annotations(section)[name]
    typed = origin.kind in ("project file", "home file")
    value = _convert(annotation, raw, typed)
    if value is None:
        raise ConfigError(
            f"{_place(origin)}{key} is {raw!r}.",
            remedy=f"Expected {_expected(annotation)}: {spec.metadata['help']}.",
            key=key,
        )
    low, high = spec.metadata["low"], spec.metadata["high"]
    if low is not None and not isinstance(value, str) and not low <= value <= high:
        raise ConfigError(
            f"{_place(origin)}{key} is {value}, outside {low} to {high}.",
            remedy=f"{key} is: {spec.metadata['help']}.",
            key=key,
        )
    return value


def _convert(annotation: Any, raw: Any, typed: bool) -> Scalar | None:
    """The value as the annotation's type, or ``None`` if it is none of that type."""
    if _is_table(annotation):
        return _scalar(raw, typed)
    if get_origin(annotation) is Literal:
        return str(raw) if raw in get_args(annotation) else None
    if isinstance(raw, str) and not typed and annotation is not str:
        raw = _read_text(raw)
    if annotation is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not annotation or (isinstance(raw, float) and not math.isfinite(raw)):
        return None
    found: Scalar = raw
    return found


def _scalar(raw: Any, typed: bool) -> Scalar | None:
    value = _read_text(raw) if isinstance(raw, str) and not typed else raw
    return value if isinstance(value, (bool, int, float, str)) else None


_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _read_text(text: str) -> Scalar:
    if text.strip().lower() in _WORDS:
        return _WORDS[text.strip().lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _expected(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(repr(choice) for choice in get_args(annotation))
    if _is_table(annotation):
        return "text, a number, true or false"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[
        annotation
    ]


# ---------------------------------------------------------------------------- describing


def json_schema() -> dict[str, Any]:
    """The JSON schema of ``engrain.toml`` and ``config.toml``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "engrain configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            section: {
                "type": "object",
                "description": (cls.__doc__ or "").strip(),
                "additionalProperties": False,
                "properties": {f.name: _property(section, f) for f in fields(cls)},
            }
            for section, cls in _sections().items()
        },
    }


_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _property(section: str, spec: Field[Any]) -> dict[str, Any]:
    annotation = _annotations(section)[spec.name]
    described: dict[str, Any] = {
        "description": spec.metadata["help"],
        "default": getattr(_sections()[section](), spec.name),
    }
    if _is_table(annotation):
        described |= {
            "type": "object",
            "additionalProperties": {"type": list(_JSON_TYPES.values())},
        }
    elif get_origin(annotation) is Literal:
        described |= {"type": "string", "enum": list(get_args(annotation))}
    else:
        described["type"] = _JSON_TYPES[annotation]
    bounds = {"minimum": spec.metadata["low"], "maximum": spec.metadata["high"]}
    return described | {name: bound for name, bound in bounds.items() if bound is not None}


def to_toml(values: Mapping[str, Scalar]) -> str:
    """A configuration file with these values by dotted key.

    Example:
        >>> print(to_toml({"model.source": "pocket"}), end="")
        [model]
        source = "pocket"
    """
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        section, name, inner = _locate(key, Origin("flag"))
        table = f"{section}.{name}" if inner else section
        tables.setdefault(table, []).append(f"{_toml(inner) if inner else name} = {_toml(value)}")
    return "\n".join(
        "".join(f"{line}\n" for line in (f"[{table}]", *lines)) for table, lines in tables.items()
    )


def _toml(value: Scalar) -> str:
    # JSON text is TOML text, but for the delete character, which only TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
