"""Means over parts of a dataset: by attribute of the videos, and by whether training had the category of an object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from i2vpp.data.files import read_items, read_json
from i2vpp.errors import DataError
from sav_dataset.results import Evaluation, Mean, Table

Attributes = Mapping[str, frozenset[str]]


def read_attributes(path: Path) -> dict[str, frozenset[str]]:
    """Read the attributes of videos.

    Args:
        path: JSON or YAML: attributes by video, or DAVIS's `db_info.yaml`, a list of `{name: ..., attributes: [...]}`,
            which may be under `sequences`.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    content = read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if isinstance(content, dict) and isinstance(content.get("sequences"), list):
        content = content["sequences"]
    try:
        if isinstance(content, list):
            content = {entry["name"]: entry["attributes"] for entry in content}
        pairs = {str(video): [str(name) for name in _as_list(names)] for video, names in content.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path} holds no attributes of videos; wanted is {{"video": ["attribute", ...]}} as JSON or YAML, '
            "or DAVIS's db_info.yaml"
        ) from error
    return {video: frozenset(names) for video, names in pairs.items()}


def attribute_table(evaluation: Evaluation, attributes: Attributes) -> Table:
    """Average, for each attribute, over the objects of the videos that have it; a video may have several.

    Args:
        evaluation: scores of the objects.
        attributes: names of attributes by video.

    Returns:
        A row for each attribute, in the order of their names.

    Raises:
        DataError: no scored video has an attribute.
    """
    names = sorted({name for result in evaluation.objects for name in attributes.get(result.video, ())})
    if not names:
        videos = sorted({result.video for result in evaluation.objects})
        raise DataError(f"the file of attributes has none for the {len(videos)} scored videos, such as {videos[0]}")
    return Table(
        title="attribute",
        rows={
            name: Mean.over([r for r in evaluation.objects if name in attributes.get(r.video, ())]) for name in names
        },
    )


def read_categories(path: Path) -> dict[tuple[str, str], str]:
    """Read YouTube-VOS's `meta.json`: the category of each video's objects, by video and object id.

    Raises:
        DataError: the file cannot be read, or does not name the categories.
    """
    content = read_json(path)
    try:
        return {
            (video, obj_id): str(about["category"])
            for video, entry in content["videos"].items()
            for obj_id, about in entry["objects"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not name the categories of objects ({type(error).__name__}: {error}); wanted is "
            'YouTube-VOS\'s meta.json, {"videos": {"<video>": {"objects": {"1": {"category": "..."}}}}}'
        ) from error


def read_seen(path: Path) -> frozenset[str]:
    """Read the categories that training had: the training set's `meta.json`, or a list of names, one a line."""
    return frozenset(read_categories(path).values()) if path.suffix == ".json" else read_items(path)


def seen_table(evaluation: Evaluation, categories: Mapping[tuple[str, str], str], seen: frozenset[str]) -> Table:
    """Average over objects of seen categories, over those of unseen ones, and over these two means.

    The mean of both is YouTube-VOS's overall score.

    Args:
        evaluation: scores of the objects.
        categories: category of each object, by video and object id.
        seen: the categories that training had.

    Returns:
        The rows "seen", "unseen" and "mean of both".

    Raises:
        DataError: the category of a scored object is not known, or one of the two parts is empty.
    """
    known = {result: categories.get((result.video, result.object)) for result in evaluation.objects}
    if lost := [result.name for result, category in known.items() if category is None]:
        raise DataError(f"the meta file lacks {len(lost)} of {len(known)} scored objects, such as {lost[0]}")
    parts = {
        "seen": Mean.over([result for result, category in known.items() if category in seen]),
        "unseen": Mean.over([result for result, category in known.items() if category not in seen]),
    }
    for name, mean in parts.items():
        if not mean.objects:
            there = ", ".join(sorted({str(category) for category in known.values()})[:5])
            raise DataError(f"all scored objects are in one part, none is {name}; their categories: {there}, ...")
    return Table(
        title="category",
        rows={
            **parts,
            "mean of both": Mean(
                videos=evaluation.mean.videos,
                objects=evaluation.mean.objects,
                j=(parts["seen"].j + parts["unseen"].j) / 2,
                f=(parts["seen"].f + parts["unseen"].f) / 2,
            ),
        },
    )


def _as_list(names: Any) -> list[Any]:
    if not isinstance(names, list):
        raise TypeError
    return names


def _read_yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise DataError(f"cannot read the YAML file {path}: {error}") from error
