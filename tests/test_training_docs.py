"""What the pages on training tell people to type is accepted, and names keys, recipes and files that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO
from training import train
from training.config import TrainConfig
from training.recipes import RECIPES, load_recipe

PAGES = [REPO / "docs" / "training.md", REPO / "README.md"]
PLACEHOLDERS = {"RECIPE": "i2vpp-smoke", "N": "2", "M": "1"}
TRAIN = re.compile(r"python -m training\.train |torchrun .*?-m training\.train ")


def commands(page: Path) -> Iterator[str]:
    """Yield every command of a page that trains, in a block or in a line of text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [*(line.strip() for block in blocks for line in block.splitlines()), *re.findall(r"`([^`\n]+)`", text)]
    yield from (line for line in lines if TRAIN.match(line))


def keys(section: Any, prefix: str = "") -> Iterator[str]:
    for entry in fields(section):
        value = getattr(section, entry.name)
        yield f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from keys(value, f"{prefix}{entry.name}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_training_command_is_a_valid_one(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    found = list(commands(page))
    assert len(found) >= 5, "the pattern of this test no longer fits the page"
    for command in found:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
        arguments = train.build_parser().parse_intermixed_args(words[words.index("training.train") + 1 :])
        needed = (
            [] if "data.sources.own.images" in command or "finetune" not in command else ["data.sources.own.images=x"]
        )
        load_recipe(arguments.config, [*arguments.overrides, *needed])


def test_every_recipe_is_described() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    rows = re.findall(r"^\| `i2vpp-[^|]+\|", text, re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert described == {file.stem for file in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_exists(page: Path) -> None:
    there = set(keys(TrainConfig()))
    sections = "|".join(key for key in there if "." not in key)
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{sections})\.(?!md|pt|yaml|sources)[a-z_.]+)[`=]", text))
    assert named <= there, f"unknown keys: {sorted(named - there)}"


@pytest.mark.parametrize("page", [*PAGES, *(REPO / "docs" / f"{n}.md" for n in ("architecture", "benchmark"))], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, target
