"""Recipes: YAML files in `configs/`, composed by Hydra with the schema of `training.config` and a shipped model config.

A recipe begins with the defaults it builds on, `_self_` last, and then says what differs from them:

    defaults: [train_schema, i2vpp-512, _self_]    # schema and published values; model config; this file
    defaults: [i2vpp-train, i2vpp-256, _self_]     # another recipe, with another model config
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

import i2vpp
from i2vpp.config import nearest, shipped_configs
from i2vpp.errors import ConfigError
from i2vpp.evaluation.protocol import PUBLISHED_PROTOCOLS
from i2vpp.utils.brief import LONGEST, brief
from i2vpp.utils.yaml_files import read_yaml
from training import optimizer
from training.config import DataConfig, SourceConfig, TrainConfig
from training.dataset.build import KINDS, PROCEDURAL

RECIPES = Path(__file__).resolve().parent.parent / "configs"
MODEL_CONFIGS = Path(i2vpp.__file__).resolve().parent / "configs"
SCHEMA = "train_schema"

_SOURCE = re.compile(r"data\.sources\.([^.]+)")
_CHOICES = {
    ".kind": KINDS,
    "run.precision": ("float32", "bfloat16"),
    "run.decoder_precision": ("float32", "same"),
    "run.recompute": ("auto", "always", "never"),
    "run.device": ("auto", "cuda", "cpu", "mps"),
    "validation.prompt": PUBLISHED_PROTOCOLS,
}
_LARGEST = 10**18
_TOO_LARGE = "must be a whole number of less than 19 digits"
_LENGTHS = {"augment.scale": 2, "augment.color": 3, "augment.frame_color": 3}
_AT_LEAST_1 = (
    *(".num_frames", ".max_objects", ".strides", ".batch_size", ".length", ".max_failures", ".max_prompted"),
    *("validation.every", ".max_frames", ".epochs", ".num_nodes", ".hours", ".cpus_per_task"),
)
_POSITIVE = (".repeat", ".scale", ".save_minutes")
_SHARES = (".reverse", ".flip", ".gray", "user.mask", "user.box", "user.from_object", "user.box_noise")


def load_recipe(path_or_name: str | PathLike[str], overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose a recipe and check all its values.

    Args:
        path_or_name: path of a YAML file, or name of a recipe in the project's `configs/` (with or without `configs/`
            in front and `.yaml` behind), which is found from any directory.
        overrides: `key=value` in Hydra's grammar; `+data.sources.NAME.key=value` adds a source and
            `~data.sources.NAME` removes one.

    Raises:
        ConfigError: the recipe is not found or no valid YAML, a key is unknown, a value has the wrong type or makes no
            sense.
    """
    path = _find(path_or_name)
    texts, added = _parse(overrides)
    _check_files(path, set())
    try:
        composed = _compose(path, texts, added)
        config = OmegaConf.to_object(composed)
        assert isinstance(config, TrainConfig)
        _check(config)
        optimizer.check(config.optimizer)
    except ConfigError as error:
        raise ConfigError(f"{error} ({_named(path, overrides)})") from None
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(_explain(error, path, overrides)) from error  # ValueError: Hydra's, of lists of defaults
    return config


def to_yaml(config: TrainConfig) -> str:
    """Write out the recipe with all its values; the text can be read back as a recipe."""
    return f"defaults: [{SCHEMA}, _self_]\n" + OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def _find(path_or_name: str | PathLike[str]) -> Path:
    path = Path(path_or_name).expanduser()
    if path.is_file() and path.suffix == ".yaml":
        return path
    named = RECIPES / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent.parts in ((), ("configs",)) and named.is_file():
        return named
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    raise ConfigError(
        f"recipe {str(path_or_name)!r} is neither a .yaml file (looked from {Path.cwd()}) nor one of the recipes in "
        f"{RECIPES}: {', '.join(names)}{nearest(path.stem, names)}"
    )


def _check_files(path: Path, checked: set[Path]) -> None:
    """Read a recipe and all that it builds on with limits, before Hydra does, which has none.

    Args:
        path: the recipe's file.
        checked: files that need not be read again; this one is added.

    Raises:
        ConfigError: a file is not UTF-8 or not YAML, or its aliases stand for more than a recipe can hold.
    """
    checked.add(path)
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        return  # Hydra raises the error
    for key, value in leaves(content):
        if _too_large(value):
            raise ConfigError(f"{key} {_TOO_LARGE} ({path})")
    defaults = content.get("defaults", [])
    if not isinstance(defaults, list) or not all(map(_is_default, defaults)):
        raise ConfigError(
            f"defaults must be a list of names, such as [{SCHEMA}, i2vpp-infer, _self_]; got {brief(defaults)} ({path})"
        )
    for name in _named_in(defaults):
        for folder in (path.parent, RECIPES, MODEL_CONFIGS):
            file = folder / f"{name}.yaml"
            if file.is_file() and file not in checked:
                _check_files(file, checked)


def _is_default(entry: object) -> bool:
    """Whether Hydra takes an entry of a list of defaults for one; of others it says nothing that helps."""
    if isinstance(entry, Mapping):
        return all(isinstance(key, str) for key in entry)
    return isinstance(entry, str)


def _named_in(defaults: Sequence[Any]) -> Iterator[str]:
    """Yield the configs that a list of defaults names, as `name`, `group/name` or `{group: name}`."""
    for entry in defaults:
        pairs = entry.items() if isinstance(entry, Mapping) else [("", entry)]
        for group, options in pairs:
            for option in options if isinstance(options, list) else [options]:
                words = f"{group}/{option}" if group else str(option)
                yield words.split()[-1].partition("@")[0].lstrip("/") if words.split() else ""


def _parse(overrides: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the overrides as Hydra wants them, and the names of sources that they add."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list of strings such as ['run.epochs=3']; got {overrides!r}")
    parser = OverridesParser.create()
    texts, added = [], set()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
            raise ConfigError(
                f"override {brief(text)} must be written key=value; a value with special characters needs quotes "
                f"inside the shell's: \"key='a=b, c'\" ({_shortened(str(error).partition(chr(10))[0])})"
            ) from error
        key = override.key_or_group
        if override.is_sweep_override():
            raise ConfigError(f"override {brief(text)} is a list of runs; a list of values is written {key}=[1,2]")
        if (override.is_add() or override.is_force_add()) and (source := _SOURCE.match(key)):
            added.add(source[1])
        texts.append(text.lstrip("+"))  # a `+` is only needed for sources, whose names `added` holds
    return texts, added


def _compose(path: Path, overrides: Sequence[str], added: set[str]) -> DictConfig:
    """Let Hydra compose the recipe; nothing stays behind in its global registers."""
    schema = OmegaConf.structured(TrainConfig(data=DataConfig(sources={name: SourceConfig() for name in added})))
    for frozen in (schema.model, schema.model.selection):
        OmegaConf.set_readonly(frozen, None)  # nodes of frozen dataclasses are read-only, but have to be filled
    quoted = [str(folder).replace("'", "\\'") for folder in (RECIPES, MODEL_CONFIGS)]
    folders = ",".join(f"'file://{folder}'" for folder in quoted)
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=schema, provider="i2vpp")
    try:
        with initialize_config_dir(str(path.resolve().parent), version_base="1.3"):
            composed = compose(path.stem, overrides=[f"hydra.searchpath=[{folders}]", *overrides])
    finally:
        del store.repo[f"{SCHEMA}.yaml"]
    if OmegaConf.get_type(composed) is not TrainConfig:
        raise ConfigError(_NO_SCHEMA)
    return composed


_NO_SCHEMA = (
    f"a recipe must begin with 'defaults: [{SCHEMA}, i2vpp-infer, _self_]' or build on another recipe, such as "
    "'defaults: [i2vpp-train, _self_]'"
)


def _explain(error: Exception, path: Path, overrides: Sequence[str]) -> str:
    """Say in one line what Hydra and OmegaConf found wrong: key, file or override, and the nearest valid key."""
    if isinstance(error, RecursionError):
        return f"{path}: its defaults lead back to itself"
    if isinstance(error, YAMLError):
        return f"{path}: not valid YAML: {' '.join(str(error).split())}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = str(cause or error)
    found = re.search(r"full_key: (\S+)", text)
    key = found[1] if found else ""
    inside = re.match(r"In '([^']+)': (?:\w+ raised while composing config:\s*)?", text)
    where, line = str(path), text[inside.end() if inside else 0 :].partition("\n")[0]
    if inside:
        where = _place(inside[1], path)
    elif cause:  # an override is wrong
        said = [text for text in overrides if text.lstrip("+") in str(error)]
        where = f"override {brief(said[0])}" if said else where
    if unloaded := re.search(r"Could not load '([^']+)'", line):
        known = [*shipped_configs(), *(file.stem for file in RECIPES.glob("*.yaml"))]
        hint = nearest(unloaded[1], known) or f"; there are {', '.join(known)}"
        return f"{where}: its defaults name {unloaded[1]!r}, which is neither a recipe nor a model config{hint}"
    return f"{_misfit(key, _shortened(line))} ({where})"


def _misfit(key: str, line: str) -> str:
    """Translate a message of OmegaConf about a key; all of the schema is in the struct, but for new sources."""
    source = _SOURCE.match(key)
    if "not in struct" in line:
        return f"there is no source {source[1]!r}; '+' before the key adds it" if source else _NO_SCHEMA
    if re.match(r"Key '.*' not in", line):
        return f"unknown key {key!r}{nearest(key, _keys(key))}"
    if section := re.search(r"is not a subclass of (\w+)Config\. value: (.*)", line):
        return f"{key or section[1].lower()} is a section with keys of its own; got {section[2]}"
    if "is not Optional" in line:
        return f"{key} must have a value"
    if "is not a ListConfig" in line:
        return f"{key} must be a list"
    return f"{key}: {line}" if key else line


def _place(name: str, path: Path) -> str:
    """Path of the file that Hydra calls by its name."""
    candidates = [path, *(folder / f"{name}.yaml" for folder in (path.parent, RECIPES, MODEL_CONFIGS))]
    return next((str(file) for file in candidates if file.stem == name and file.is_file()), name)


def _named(path: Path, overrides: Sequence[str]) -> str:
    return f"{path} with {_shortened(', '.join(overrides))}" if overrides else str(path)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _keys(near: str) -> list[str]:
    """All keys of a recipe, sections too; sources are called as in the key `near`."""
    source = _SOURCE.match(near)
    example = TrainConfig(data=DataConfig(sources={source[1] if source else "NAME": SourceConfig()}))
    parts = (key.split(".") for key, _ in leaves(asdict(example)))
    return list(dict.fromkeys(key for words in parts for key in accumulate(words, "{}.{}".format)))


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in nested mappings that is not a mapping with entries itself.

    Args:
        value: nested mappings.
        prefix: put before the keys; ends in a dot.
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}{name}.")
    else:
        yield prefix.rstrip("."), value


def _check(config: TrainConfig) -> None:
    """Raise ConfigError for the first value that makes no sense; `model` and `optimizer` have checks of their own."""
    for key, value in leaves(asdict(config)):
        for suffix, allowed in _CHOICES.items():
            if key.endswith(suffix) and value not in allowed:
                raise ConfigError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
        numbers = value if isinstance(value, list) else [value]
        if any(map(_too_large, numbers)):
            raise ConfigError(f"{key} {_TOO_LARGE}")
        if key.startswith(("model.", "optimizer.")):
            continue
        fits, wanted = _wanted(key)
        if any(isinstance(number, (int, float)) and not fits(number) for number in numbers):
            raise ConfigError(f"{key} must be {wanted}; got {value!r}")
        for suffix, length in _LENGTHS.items():
            if key.endswith(suffix) and len(value) != length:
                raise ConfigError(f"{key} must be a list of {length} numbers; got {value!r}")
    _check_together(config)


def _too_large(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= _LARGEST


def _wanted(key: str) -> tuple[Callable[[float], bool], str]:
    if key.endswith(_AT_LEAST_1):
        return lambda number: number >= 1, "at least 1"
    if key.endswith(_SHARES):
        return lambda number: 0 <= number <= 1, "from 0 to 1"
    if key.endswith(_POSITIVE):
        return lambda number: 0 < number < math.inf, "a positive number"
    return lambda number: 0 <= number < math.inf, "a number and not negative"


def _check_together(config: TrainConfig) -> None:
    if not config.data.sources:
        raise ConfigError("data.sources is empty: name at least one source to train on")
    for name, source in config.data.sources.items():
        if source.images is None and source.kind != PROCEDURAL:
            raise ConfigError(
                f"data.sources.{name}.images is not set; sources of kind {source.kind} need a folder there"
            )
        if not source.clip.strides:
            raise ConfigError(f"data.sources.{name}.clip.strides is empty; [1] takes each annotated frame")
    low, high = config.data.augment.scale
    if low > high:
        raise ConfigError(f"data.augment.scale must be a range [low, high]; got [{low}, {high}]")
    if config.start.image_model and config.start.checkpoint:
        raise ConfigError("start.image_model and start.checkpoint exclude each other; set one of them to null")
    if (config.validation.images is None) != (config.validation.annotations is None):
        raise ConfigError("validation.images and validation.annotations go together: set both or neither")
