"""YAML files and ``key=value`` overrides -> any dataclass. The only user of OmegaConf.

OmegaConf reads (``1e-4`` is a number, a key given twice is an error), merges and resolves
``${section.key}``; this file checks every key and value against the dataclass, file by file, so
that an error names the file that holds the mistake.
"""

import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smolvlm2.errors import ConfigError

T = TypeVar("T")
PathLike = str | Path

ABSENT = "(absent)"
"""What ``diff_configs`` shows for a key that one side does not have."""
OVERRIDES = "command line"
"""Name of the overrides in error messages, where a file would be named."""


_Layer = tuple[str, dict[str, Any]]
"""A file's name or OVERRIDES, and its own values before merging, interpolations unresolved."""


def load_config(cls: type[T], *files: PathLike, overrides: Sequence[str] = ()) -> T:
    """Build ``cls`` from its defaults, then ``files`` from left to right, then ``overrides``.

    Sections and dictionaries merge key by key; a list replaces the list before it.

    Args:
        cls: A dataclass; sections are nested dataclasses.
        files: YAML files; ``extends: other.yaml`` (or a list, relative) reads others before it.
        overrides: ``section.key=value``, the value in YAML notation.

    Raises:
        ConfigError: A file is missing or no YAML; a key is unknown; a value has the wrong type; a
            required key is missing; ``cls`` itself refuses the combination.
    """
    layers = [layer for file in files for layer in _read_layers(Path(file), ())]
    layers += [_override_layer(cls, text) for text in overrides]
    origins: dict[str, str] = {}
    for source, values in layers:
        _check(cls, values, "", source, cls)
        for key in flatten(values):
            origins.pop(key, None)
            origins[key] = source
    result: T = _Builder(origins, [str(file) for file in files]).section(cls, _merge(layers), "")
    return result


def load_raw(*files: PathLike) -> dict[str, Any]:
    """Merge YAML files, ``extends`` included, without checking them against a dataclass."""
    return _merge([layer for file in files for layer in _read_layers(Path(file), ())])


def to_dict(config: Any) -> Any:
    """Plain dictionaries, lists and scalars of a dataclass: what a YAML or JSON file can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in fields(config) if f.init}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """The whole config as YAML, in field order; ``load_config`` reads it back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def save_config(config: Any, path: PathLike) -> None:
    """Write ``to_yaml(config)`` so that a reader sees the old file or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(to_yaml(config))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600; a run folder is shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def diff_configs(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """Keys at which two configs differ, as (dotted key, value in a, value in b).

    A key that one side lacks has the value ``ABSENT`` there. Lists are compared whole.
    """
    left, right = flatten(to_dict(a)), flatten(to_dict(b))
    keys = [*left, *(key for key in right if key not in left)]
    found = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys]
    return [entry for entry in found if entry[1] != entry[2]]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` -> ``{"a.b": 1}``; empty sections and lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def recipes_folder() -> Path:
    """Folder of the shipped YAML files: inside an installed wheel, or ``configs/`` of a clone."""
    packaged = Path(__file__).parent / "configs"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"
    # Relative where possible, so that messages read `configs/...` in a clone.
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def recipe_names() -> list[str]:
    """Names that ``find_recipe`` understands, such as ``tiny/train_vision``."""
    folder = recipes_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")
    )


def find_recipe(name: PathLike) -> Path:
    """Path of a recipe given as a path, or as the name of a shipped one.

    Raises:
        ConfigError: Neither exists; the message names the near miss.
    """
    path = Path(name)
    inside = path.as_posix().removeprefix("configs/")  # also where no clone is around
    candidates = [path, recipes_folder() / inside, recipes_folder() / f"{inside}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    near = _suggest(inside.removesuffix(".yaml"), recipe_names(), "recipes are")
    raise ConfigError(f"{name}: no such file or recipe; {near}")


def _read_layers(path: Path, parents: tuple[Path, ...]) -> list[_Layer]:
    if path.resolve() in parents:
        raise ConfigError(f"{path}: extends itself, through {len(parents)} file(s)")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    values = _parse(text, str(path))
    extends = values.pop("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends: found {_found(extends)}, expected a file or a list")
    chain = (*parents, path.resolve())
    bases = [
        layer
        for name in names
        for layer in _read_layers(Path(os.path.normpath(path.parent / name)), chain)
    ]
    return [*bases, (str(path), values)]


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark and not source.startswith(OVERRIDES) else ""
        raise ConfigError(f"{source}{line}: not YAML: {error.problem}") from error
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: found {_found(values)}, expected sections as `key: value`")
    return {str(key): value for key, value in values.items()}


def _override_layer(cls: type, text: str) -> _Layer:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{OVERRIDES}: {text!r}: expected `section.key=value`")
    value: Any = _parse(f"value: {raw}", f"{OVERRIDES}: {key.strip()}")["value"]
    parts, remaining, kind = [], key.strip().split("."), cls
    while remaining:
        section = _section_type(kind)
        if section is None:  # the keys of a dictionary may contain dots
            parts.append(".".join(remaining))
            break
        parts.append(remaining.pop(0))
        kind = get_type_hints(section).get(parts[-1], Any)
    else:
        members = _members(kind)
        literal = any(get_origin(m) is Literal and raw in get_args(m) for m in members)
        wants_text = str in members and not {int, float, bool} & set(members)
        if value is not None and not isinstance(value, str) and (literal or wants_text):
            value = raw  # `name=256` for a text field is the text 256
    for part in reversed(parts):
        value = {part: value}
    return OVERRIDES, value


def _merge(layers: Iterable[_Layer]) -> dict[str, Any]:
    try:
        merged = OmegaConf.merge({}, *(values for _, values in layers))
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        sources = ", ".join(dict.fromkeys(source for source, _ in layers))
        raise ConfigError(f"{sources}: {str(error).splitlines()[0]}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _check(kind: Any, value: Any, key: str, source: str, root: type) -> None:
    """Check one file's values; what is absent or interpolated is left to the builder."""
    section = _section_type(kind)
    if section is None:
        if "${" not in str(value):
            _convert(kind, value, key, source)
        return
    if value is None and NoneType in _members(kind):
        return
    if not isinstance(value, dict):
        raise _wrong(source, key, value, kind)
    hints, known = get_type_hints(section), [f.name for f in fields(section) if f.init]
    for name, item in value.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in known:
            raise ConfigError(f"{source}: {dotted}: no such key; {_near(str(name), known, root)}")
        _check(hints[name], item, dotted, source, root)


class _Builder:
    """Merged values -> dataclasses; ``origins`` says which file set a key."""

    def __init__(self, origins: Mapping[str, str], files: Sequence[str]) -> None:
        self.origins = origins
        self.files = files

    def section(self, cls: Any, values: Mapping[str, Any], key: str) -> Any:
        hints, arguments = get_type_hints(cls), {}
        for item in (f for f in fields(cls) if f.init):
            dotted = f"{key}.{item.name}" if key else item.name
            if item.name in values:
                arguments[item.name] = self.value(hints[item.name], item, values, dotted)
            elif item.default is MISSING and item.default_factory is MISSING:
                where, kind = self.source(key), _expected(hints[item.name])
                raise ConfigError(f"{where}: {dotted}: missing; expected {kind}")
        try:
            return cls(**arguments)
        except ConfigError as error:
            prefix = f"{self.source(key)}: {key}" if key else self.source(key)
            raise ConfigError(f"{prefix}: {error}") from error

    def value(self, kind: Any, item: "Field[Any]", values: Mapping[str, Any], key: str) -> Any:
        value, section = values[item.name], _section_type(kind)
        if section is None or value is None:
            return _convert(kind, value, key, self.source(key))
        if not isinstance(value, Mapping):
            raise _wrong(self.source(key), key, value, kind)
        # A section given in part keeps the rest of its owner's default, not of its class's.
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        base = to_dict(default) if isinstance(default, section) else {}
        merged = OmegaConf.to_container(OmegaConf.merge(base, value))
        assert isinstance(merged, dict)
        return self.section(section, {str(name): v for name, v in merged.items()}, key)

    def source(self, key: str) -> str:
        """The files that set ``key`` or anything below it."""
        below = f"{key}." if key else ""
        sources = [s for k, s in self.origins.items() if k == key or k.startswith(below)]
        return " + ".join(dict.fromkeys(sources or self.files or ["defaults"]))


def _convert(kind: Any, value: Any, key: str, source: str) -> Any:
    """``value`` as an instance of ``kind``, which may be a union, container or dataclass."""
    if kind is Any:
        return value
    members = _members(kind)
    if value is None and NoneType in members:
        return None
    exact = [m for m in members if isinstance(m, type) and type(value) is m]
    others = [m for m in members if m is not NoneType and m not in exact]
    for member in exact + others:
        converted = _convert_one(member, value, key, source)
        if converted is not MISSING:
            return converted
    raise _wrong(source, key, value, kind)


def _convert_one(kind: Any, value: Any, key: str, source: str) -> Any:
    """Like ``_convert`` for one member of a union; MISSING when it does not fit."""
    origin, arguments = get_origin(kind), get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if origin is Literal:
        fits = any(type(value) is type(a) and value == a for a in arguments)
        return value if fits else MISSING
    if kind is float:
        try:  # plain YAML 1.1 reads 1e-4 as text
            return float(value) if number or isinstance(value, str) else MISSING
        except ValueError:
            return MISSING
    if kind is int:
        return int(value) if number and value == int(value) else MISSING
    if kind is Path:
        return Path(value) if isinstance(value, str) else MISSING
    if (origin or kind) in (list, tuple) and isinstance(value, list):
        inner = list(arguments[:1] or (Any,)) * len(value)
        if origin is tuple and arguments[-1] is not Ellipsis:
            inner = list(arguments)
        if len(inner) != len(value):
            return MISSING
        pairs = enumerate(zip(inner, value, strict=True))
        return (origin or kind)(_convert(t, v, f"{key}[{i}]", source) for i, (t, v) in pairs)
    if (origin or kind) is dict and isinstance(value, dict):
        inner_kind = arguments[1] if arguments else Any
        return {
            str(name): _convert(inner_kind, item, f"{key}.{name}", source)
            for name, item in value.items()
        }
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        _check(kind, value, key, source, kind)
        return _Builder({key: source}, []).section(kind, value, key)
    return value if isinstance(kind, type) and type(value) is kind else MISSING


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _section_type(kind: Any) -> Any:
    """The dataclass of ``kind`` or of ``kind | None``; None for anything else."""
    members = [member for member in _members(kind) if member is not NoneType]
    return members[0] if len(members) == 1 and is_dataclass(members[0]) else None


def _near(name: str, known: Sequence[str], root: type) -> str:
    if not get_close_matches(name, known, n=1):
        elsewhere = [key for key in _all_keys(root, "") if key.rpartition(".")[2] == name]
        if elsewhere:
            return f"did you mean {elsewhere[0]!r}?"
    return _suggest(name, known, "known here:")


def _all_keys(cls: Any, prefix: str) -> list[str]:
    keys = []
    for name, kind in get_type_hints(cls).items():
        section = _section_type(kind)
        keys += _all_keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return keys


def _suggest(name: str, known: Sequence[str], otherwise: str) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{otherwise} {', '.join(known) or 'none'}"


def _wrong(source: str, key: str, value: Any, kind: Any) -> ConfigError:
    return ConfigError(f"{source}: {key}: found {_found(value)}, expected {_expected(kind)}")


def _found(value: Any) -> str:
    if value is None:
        return "null"
    return f"{type(value).__name__} {value!r}" if not isinstance(value, dict) else "a section"


def _expected(kind: Any) -> str:
    words = []
    for member in _members(kind):
        arguments = get_args(member)
        if member is NoneType:
            words.append("null")
        elif get_origin(member) is Literal:
            words.append(f"one of {', '.join(map(repr, arguments))}")
        elif get_origin(member) in (list, dict, tuple):
            words.append(str(member).replace("typing.", ""))
        else:
            section = "a section (" if is_dataclass(member) else ""
            words.append(f"{section}{getattr(member, '__name__', member)}{')' * bool(section)}")
    return " or ".join(words)
