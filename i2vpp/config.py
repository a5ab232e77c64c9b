"""Configuration: dataclasses that are the schema and hold the published values; YAML and overrides say what differs.

    config = load_config("i2vpp-512", ["model.selection.mode=top"])

A config file is a mapping with the sections and keys of `Config`; keys that it leaves out keep the published value.
Overrides and messages write keys with dots: `model.selection.mode`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from i2vpp.errors import ConfigError
from i2vpp.utils.brief import brief
from i2vpp.utils.files import exists
from i2vpp.utils.yaml_files import parse_yaml, read_yaml_text

IMAGE_SIZES = "an integer, a multiple of 16, from 64 to 4096"
SELECTION_MODES = ("sample", "top", "recent")
NON_CONDITIONING_SLOTS = 6  # of the model's 7 temporal slots, one belongs to the conditioning frames

ALIASES = {
    "model.num_maskmem_global_all": "model.selection.global_window",
    "model.num_maskmem_global": "model.selection.num_global",
    "model.num_maskmem_local_all": "model.selection.local_window",
    "model.num_maskmem_local": "model.selection.num_local",
    "model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability": "model.dynamic_multimask_via_stability",
}
"""Keys that users of SAM 2 and of the published code write, and ours."""


class Constant(NamedTuple):
    """The only value of a key of SAM 2's, and what it means or what to do instead of changing it."""

    value: bool | int | float
    meaning: str = ""


CONSTANTS = {
    "model.num_maskmem": Constant(1 + NON_CONDITIONING_SLOTS),
    "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta": Constant(0.05),
    "model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh": Constant(0.98),
    "model.non_overlap_masks": Constant(
        False,
        "masks may overlap; in the index masks of `result.save` a pixel belongs to the object of its highest logit",
    ),
    "model.clear_non_cond_mem_around_input": Constant(
        False, "a prompt leaves the memories of tracked frames as they are"
    ),
    "model.add_all_frames_to_correct_as_cond": Constant(True, "every prompted frame becomes a conditioning frame"),
    "model.max_cond_frames_in_attn": Constant(-1, "all conditioning frames are read as memory"),
    "model.memory_temporal_stride_for_eval": Constant(
        1, "model.selection says which non-conditioning frames are read as memory"
    ),
}
"""Keys of SAM 2's and of the published code that are constants here."""


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which non-conditioning frames are read as memory (conditioning frames always are).

    Args:
        mode: `sample` draws frames by similarity (published), `top` takes the most similar, `recent` the latest ones.
        num_global: frames from the global window.
        num_local: frames from the local window; at most 6 with those of the global one.
        global_window: length in frames of the window behind the local one.
        local_window: length in frames of the window behind the current frame.
        seed: of the draws in mode `sample`.
    """

    mode: str = "sample"
    num_global: int = 4
    num_local: int = 2
    global_window: int = 200
    local_window: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        where = "model.selection"
        if self.mode not in SELECTION_MODES:
            raise ConfigError(f"{where}.mode must be one of {', '.join(SELECTION_MODES)}; got {brief(self.mode)}")
        for name in ("num_global", "num_local", "global_window", "local_window", "seed"):
            _check_count(f"{where}.{name}", getattr(self, name))
        if self.num_global + self.num_local > NON_CONDITIONING_SLOTS:
            raise ConfigError(
                f"{where}.num_global + {where}.num_local must be at most {NON_CONDITIONING_SLOTS}, the temporal "
                f"slots of the model for non-conditioning frames; got {self.num_global} + {self.num_local}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and how it is used.

    Args:
        image_size: side in pixels of the square network input, a multiple of 16, from 64 to 4096.
        fill_hole_area: background holes of at most this many low-resolution pixels are filled; 0 switches it off.
        dynamic_multimask_via_stability: replace an unstable single mask by the best of three.
        binarize_mask_from_pts_for_mem_enc: encode the masks of prompted frames in memory as 0/1.
        memory_pooling: side of the squares of memory tokens that memory attention reads as one, their mean. 1 reads
            every token (published); 2 is a quarter of the work and costs accuracy, see docs/performance.md.
        selection: which frames are read as memory.
    """

    image_size: int = 1024
    fill_hole_area: int = 8
    dynamic_multimask_via_stability: bool = True
    binarize_mask_from_pts_for_mem_enc: bool = True
    memory_pooling: int = 1
    selection: SelectionConfig = field(default_factory=SelectionConfig)

    def __post_init__(self) -> None:
        if not is_image_size(self.image_size):
            raise ConfigError(f"model.image_size must be {IMAGE_SIZES}; got {brief(self.image_size)}")
        _check_count("model.fill_hole_area", self.fill_hole_area)
        pooling, cells = self.memory_pooling, self.image_size // 16
        if not _is_integer(pooling) or pooling < 1 or cells % pooling:
            raise ConfigError(
                f"model.memory_pooling must be an integer of at least 1 that divides model.image_size / 16 = {cells}; "
                f"got {brief(pooling)}"
            )
        for name in ("dynamic_multimask_via_stability", "binarize_mask_from_pts_for_mem_enc"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"model.{name} must be true or false; got {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Root of a model config file."""

    model: ModelConfig = field(default_factory=ModelConfig)


def load_config(config_file: str | PathLike[str] = "i2vpp-infer", overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply overrides to it.

    Args:
        config_file: path of a file, or name of a shipped config (see `shipped_configs`), with or without `.yaml` and
            with or without `configs/` or `i2vpp/configs/` in front. An existing file takes precedence over a shipped
            name.
        overrides: `key=value` each, the value in YAML. As in Hydra, `+` or `++` may stand in front of the key.

    Returns:
        The config.

    Raises:
        ConfigError: the file is not found or not YAML, or a key or value does not fit the schema.
    """
    text, source = _find(config_file)
    values = dict(_flatten(_parse_mapping(text, source), source))
    values.update(_parse_overrides(overrides))
    if overrides:
        source = f"{source} with the overrides {', '.join(overrides)}"
    return _build(values, source)


def config_from_mapping(values: Mapping[str, Any], source: str = "mapping") -> Config:
    """Build a config from nested mappings, as a YAML file holds them.

    Args:
        values: sections and keys of the schema.
        source: name of the origin of the values, for errors.

    Returns:
        The config.

    Raises:
        ConfigError: a key or value does not fit the schema.
    """
    return _build(dict(_flatten(values, source)), source)


def to_yaml(config: Config) -> str:
    """Return the config with all its values as YAML, which can be read back as a config file."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def shipped_configs() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(Path(entry.name).stem for entry in _shipped_folder().iterdir() if entry.name.endswith(".yaml"))


def _shipped_folder() -> Any:
    return resources.files("i2vpp") / "configs"


def _find(config_file: str | PathLike[str]) -> tuple[str, str]:
    """Text of the config file, and how to call it in messages."""
    if not isinstance(config_file, (str, PathLike)):
        raise ConfigError(f"config_file must be a name or a path, such as 'i2vpp-512'; got {config_file!r:.100}")
    path = Path(config_file)
    if exists(path) and path.is_file():
        return read_yaml_text(path), str(path)
    shipped = shipped_configs()
    name = path.name.removesuffix(".yaml")
    if path.parent.parts in ((), ("configs",), ("i2vpp", "configs")) and name in shipped:
        return (_shipped_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml (shipped)"
    raise ConfigError(
        f"config {str(config_file)!r} is neither a file (looked from {Path.cwd()}) nor a shipped config; "
        f"shipped are {', '.join(shipped)}{nearest(name, shipped)}"
    )


def _parse_mapping(text: str, source: str) -> Mapping[Any, Any]:
    parsed = parse_yaml(text, source)
    if parsed is None:
        return {}
    if not isinstance(parsed, Mapping):
        raise ConfigError(f"{source} must hold a mapping such as 'model: {{image_size: 512}}'; got {brief(parsed)}")
    return parsed


def _parse_overrides(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of every override, as `_flatten` does."""
    if isinstance(overrides, str):
        raise ConfigError(
            f"overrides must be a list of strings such as ['model.image_size=512']; got {brief(overrides)}"
        )
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(f"an override must be text such as 'model.image_size=512'; got {brief(override)}")
        key, equals, text = override.strip().partition("=")
        if key.startswith("~"):
            raise ConfigError(f"override {override!r}: '~' is refused, a key of the schema cannot be removed")
        if not equals:
            raise ConfigError(f"override {override!r} must be written key=value")
        source = f"override {override!r}"
        value = _parse_mapping(f"value: {text}", source)["value"]
        yield from _flatten({key.lstrip("+").strip(): value}, source)


def _flatten(values: Mapping[Any, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys of our schema and their values; published spellings are translated."""
    valid = set(_leaves(Config()))
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = any(other.startswith(f"{key}.") for other in valid)
        if isinstance(value, Mapping) and (value or is_section):
            yield from _flatten(value, source, f"{key}.")
        elif value is None and is_section:
            continue  # `model:` with nothing behind it
        elif key in CONSTANTS:
            if not is_same(value, CONSTANTS[key].value):
                raise ConfigError(f"{key} {describe_constant(key)}; got {brief(value)} ({source})")
        elif ALIASES.get(key, key) in valid:
            yield ALIASES.get(key, key), value
        elif is_section:
            raise ConfigError(f"{key} is a section with keys of its own; got {brief(value)} ({source})")
        else:
            hint = nearest(key, valid) or f"; valid are {', '.join(sorted(valid))}"
            raise ConfigError(f"unknown key {brief(key)} ({source}){hint}")


def _leaves(section: Any, prefix: str = "") -> Iterator[str]:
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}"


def _build(values: Mapping[str, Any], source: str) -> Config:
    def section(default: Any, prefix: str) -> Any:
        arguments = {}
        for entry in fields(default):
            key, value = f"{prefix}{entry.name}", getattr(default, entry.name)
            arguments[entry.name] = section(value, f"{key}.") if is_dataclass(value) else values.get(key, value)
        return type(default)(**arguments)

    try:
        config: Config = section(Config(), "")
    except ConfigError as error:
        raise ConfigError(f"{error} ({source})") from None
    return config


def nearest(name: str, valid: Iterable[str]) -> str:
    """Suggest a valid name for an unknown one; the last part of a dotted key counts most.

    Args:
        name: the unknown name.
        valid: the valid names.

    Returns:
        `; did you mean ...?`, or an empty text if no valid name is near.
    """
    near = get_close_matches(name, list(valid), n=1)
    if not near:
        last = {key.rpartition(".")[2]: key for key in valid}
        near = [last[match] for match in get_close_matches(name.rpartition(".")[2], last, n=1)]
    return f"; did you mean {near[0]!r}?" if near else ""


def is_image_size(value: object) -> bool:
    """Return whether a value is a possible input size of the network; see `IMAGE_SIZES`."""
    return isinstance(value, int) and _is_integer(value) and 64 <= value <= 4096 and value % 16 == 0


def describe_constant(key: str) -> str:
    """Return the part of an error message that says what a key of `CONSTANTS` is fixed at, and what that means."""
    value, meaning = CONSTANTS[key]
    return f"is fixed at {value} in SAM-I2V++{meaning and f' ({meaning})'}"


def is_same(value: object, other: object) -> bool:
    """Return whether two values of a config are the same truth value or number; True and 1 are not."""
    is_number = isinstance(value, (bool, int, float))
    return is_number and isinstance(value, bool) == isinstance(other, bool) and value == other


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_count(key: str, value: int) -> None:
    if not _is_integer(value) or value < 0:
        raise ConfigError(f"{key} must be an integer and not negative; got {brief(value)}")
