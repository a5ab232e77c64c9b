"""The rules between the parts, checked on the source: who may import whom, and what may not be written where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

REPO = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("i2vpp", "training", "tools", "test_pvs", "sav_dataset")

# part of i2vpp -> the other parts, or modules of them, that it may import; parts that are not listed may import any. A
# module or room that is listed itself goes by its own line: `data` reads videos by `session`, which needs but one
# module of it
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    # for `plot` and `save` of `FrameResult`, when they are called
    "structures": {"utils.visualize", "utils.result_files"},
    "config": {"errors", "utils"},
    "prompts": {"errors", "utils", "data", "session", "tracking"},
    "prompts.checks": {"errors", "utils"},
    "memory": {"structures", "config", "errors"},
    "modeling": {"structures", "config", "errors"},
    "session": {"structures", "memory", "errors", "utils", "data.frame_folders"},
    "data": {"errors", "structures", "utils", "session"},
    "data.frame_folders": {"errors", "utils"},
    "utils": {"structures", "errors"},
    "annotate.storage": {"annotate.errors", "errors", "prompts.checks", "utils"},
    "annotate.tracking": {
        "annotate.storage",
        "annotate.workers",
        "errors",
        "i2vpp_video_predictor",
        "session",
        "structures",
        "utils",
    },
    "annotate": {
        "structures",
        "session",
        "data",
        "utils",
        "errors",
        "prompts",
        "i2vpp_video_predictor",
    },
    "evaluation": {"structures", "session", "utils", "errors", "i2vpp_video_predictor"},
}
# part of i2vpp -> the only packages beside the standard library that it may import
THIRD_PARTY: dict[str, set[str]] = {"errors": set(), "structures": {"torch"}, "prompts.checks": {"numpy"}}
# the library must work without these
NEVER_FROM_I2VPP = {"training", "tools", "test_pvs", "sav_dataset", "tests"}
# folder beside the library -> the other folders, or modules of them, that it may import; scoring needs no training code
FOLDERS_MAY_IMPORT: dict[str, set[str]] = {
    "training": {"i2vpp"},
    "sav_dataset": {"i2vpp", "training.dataset.sav"},
    "test_pvs": {"i2vpp", "sav_dataset"},
}
# folder of training -> modules of training that its data sources may import: not the network, the losses and the loop
SOURCES_MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "dataset": ("training.dataset", "training.synthetic", "training.config", "training.recipes"),
    "synthetic": ("training.synthetic", "training.dataset.clips"),
}

MAX_LINES = 450
# the runtime of an export is one file by design, which stands alone in the exported folder
MORE_LINES = {PurePosixPath("i2vpp/export/i2vpp_onnx.py"): 499}
PRINTING = {"cli", "commands", "i2vpp_onnx"}  # modules or packages of i2vpp that speak to a terminal
BROAD = {"Exception", "BaseException"}
# attributes in which predictor and session keep objects; others use the methods of predictor and session
INNER_STATE = {"_tracker", "tracks", "visited", "bank", "clicks"}
# parts of i2vpp that make up the predictor
CORE = {"execution", "i2vpp_video_predictor", "prompts", "sam2_module", "session", "stream", "tracking"}
# names of things that have such attributes and are no session
OWN = {"self", "arguments", "i2vpp"}

Rule = Callable[[PurePosixPath, str], Iterator[str]]


def part_of(path: PurePosixPath) -> str | None:
    """Name the part of i2vpp that a file belongs to: a subpackage or a top-level module; None outside i2vpp."""
    if path.parts[0] != "i2vpp":
        return None
    return path.parts[1] if len(path.parts) > 2 else path.stem


def imported(path: PurePosixPath, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import, wherever it stands; relative ones are made absolute."""
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = path.parts[: -node.level] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def parts_keep_to_their_imports(path: PurePosixPath, source: str) -> Iterator[str]:
    module = ".".join(path.with_suffix("").parts[1:])
    names = module.split(".") if path.parts[0] == "i2vpp" else []
    part = next((part for n in range(len(names), 0, -1) if (part := ".".join(names[:n])) in MAY_IMPORT), None)
    if part is None:
        return
    allowed = {part, *MAY_IMPORT[part]}
    for line, name in imported(path, source):
        top, _, rest = name.partition(".")
        if top == "i2vpp" and not any(f"{rest}.".startswith(f"{other}.") for other in allowed):
            yield f"{path}:{line} imports {name}; `{part}` may import only {', '.join(sorted(allowed))} of i2vpp"


def some_parts_need_few_packages(path: PurePosixPath, source: str) -> Iterator[str]:
    part = part_of(path)
    if part not in THIRD_PARTY:
        return
    allowed = {"i2vpp", *THIRD_PARTY[part], *sys.stdlib_module_names}
    for line, name in imported(path, source):
        if name.split(".")[0] not in allowed:
            packages = ", ".join(sorted(THIRD_PARTY[part])) or "nothing"
            yield f"{path}:{line} imports {name}; `{part}` may import only {packages} beside the standard library"


def library_stands_alone(path: PurePosixPath, source: str) -> Iterator[str]:
    if part_of(path) is None:
        return
    for line, name in imported(path, source):
        if name.split(".")[0] in NEVER_FROM_I2VPP:
            yield f"{path}:{line} imports {name}; the library never imports {', '.join(sorted(NEVER_FROM_I2VPP))}"


def folders_keep_to_their_imports(path: PurePosixPath, source: str) -> Iterator[str]:
    folder = path.parts[0]
    if folder not in FOLDERS_MAY_IMPORT:
        return
    allowed = {folder, *FOLDERS_MAY_IMPORT[folder]}
    for line, name in imported(path, source):
        ours = name.split(".")[0] in {*CODE_FOLDERS, "tests"}
        if ours and not any(f"{name}.".startswith(f"{other}.") for other in allowed):
            yield f"{path}:{line} imports {name}; `{folder}` may import only {', '.join(sorted(allowed))}"


def sources_know_no_training(path: PurePosixPath, source: str) -> Iterator[str]:
    folder = path.parts[1]
    if path.parts[0] != "training" or folder not in SOURCES_MAY_IMPORT:
        return
    allowed = SOURCES_MAY_IMPORT[folder]
    for line, name in imported(path, source):
        inside = any(f"{name}.".startswith(f"{module}.") for module in allowed)
        if name.split(".")[0] == "training" and not inside:
            yield f"{path}:{line} imports {name}; `training/{folder}` may import only {', '.join(allowed)}"


def files_stay_short(path: PurePosixPath, source: str) -> Iterator[str]:
    most = MORE_LINES.get(path, MAX_LINES)
    if (lines := len(source.splitlines())) > most:
        yield f"{path} has {lines} lines; at most {most} are allowed"


def only_commands_print(path: PurePosixPath, source: str) -> Iterator[str]:
    if part_of(path) is None or PRINTING & {path.stem, *path.parts}:
        return
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{path}:{node.lineno} prints; only {', '.join(sorted(PRINTING))} may"


def hands_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler ends by raising, or gives the exception to a future that will raise it."""
    ends_in_raise = isinstance(handler.body[-1], ast.Raise)
    return ends_in_raise or any(isinstance(x, ast.Attribute) and x.attr == "set_exception" for x in ast.walk(handler))


def only_the_core_knows_how_objects_are_kept(path: PurePosixPath, source: str) -> Iterator[str]:
    if part_of(path) in CORE:
        return
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Attribute) and node.attr in INNER_STATE:
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            if node.attr in ("_tracker", "visited") or owner not in OWN:
                yield f"{path}:{node.lineno} uses .{node.attr}; use the public methods of predictor and session"


def nothing_is_swallowed(path: PurePosixPath, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source, str(path))):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(isinstance(kind, ast.Name) and kind.id in BROAD for kind in caught)
        if node.type is None or (broad and not hands_on(node)):
            yield f"{path}:{node.lineno} catches everything; name the exceptions that are expected, or raise again"


RULES: list[Rule] = [
    parts_keep_to_their_imports,
    some_parts_need_few_packages,
    library_stands_alone,
    folders_keep_to_their_imports,
    sources_know_no_training,
    files_stay_short,
    only_commands_print,
    only_the_core_knows_how_objects_are_kept,
    nothing_is_swallowed,
]


@pytest.fixture(scope="module")
def sources() -> dict[PurePosixPath, str]:
    files = sorted(file for folder in CODE_FOLDERS for file in (REPO / folder).rglob("*.py"))
    return {PurePosixPath(file.relative_to(REPO).as_posix()): file.read_text(encoding="utf-8") for file in files}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule, sources: dict[PurePosixPath, str]) -> None:
    problems = [problem for path, source in sources.items() for problem in rule(path, source)]
    assert not problems, "\n" + "\n".join(problems)


def test_the_tables_name_parts_that_exist(sources: dict[PurePosixPath, str]) -> None:
    modules = [path.with_suffix("").parts[1:] for path in sources]
    there = {".".join(names[:n]) for names in modules for n in range(1, len(names) + 1)}
    named = {*MAY_IMPORT, *THIRD_PARTY, *(other for allowed in MAY_IMPORT.values() for other in allowed)}
    assert named <= there, f"rules for parts of i2vpp that are gone: {sorted(named - there)}"


BAD = [
    (parts_keep_to_their_imports, "i2vpp/memory/bank.py", "import i2vpp.modeling.i2vpp", "i2vpp.modeling.i2vpp"),
    (parts_keep_to_their_imports, "i2vpp/memory/bank.py", "import i2vpp", "imports i2vpp;"),
    (parts_keep_to_their_imports, "i2vpp/memory/bank.py", "from i2vpp import session", "i2vpp.session"),
    (parts_keep_to_their_imports, "i2vpp/session/state.py", "from ..modeling.layers import MLP", "modeling.layers.MLP"),
    (parts_keep_to_their_imports, "i2vpp/session/state.py", "def f():\n    from .. import modeling", "i2vpp.modeling"),
    (parts_keep_to_their_imports, "i2vpp/modeling/sam/x.py", "from ...memory import bank", "i2vpp.memory.bank"),
    (parts_keep_to_their_imports, "i2vpp/modeling/i2vpp.py", "from i2vpp.session.video import FrameSource", "session"),
    (parts_keep_to_their_imports, "i2vpp/annotate/web/app.py", "from i2vpp.tracking import Tracker", "i2vpp.tracking"),
    (parts_keep_to_their_imports, "i2vpp/evaluation/metrics.py", "from i2vpp import annotate", "i2vpp.annotate"),
    (parts_keep_to_their_imports, "i2vpp/structures.py", "from i2vpp.config import Config", "i2vpp.config.Config"),
    (parts_keep_to_their_imports, "i2vpp/memory/__init__.py", "from ..session import state", "i2vpp.session.state"),
    (parts_keep_to_their_imports, "i2vpp/session/video.py", "from i2vpp.data import masks", "i2vpp.data.masks"),
    (parts_keep_to_their_imports, "i2vpp/data/frame_folders.py", "from i2vpp import session", "i2vpp.session"),
    (parts_keep_to_their_imports, "i2vpp/annotate/storage/edit.py", "from i2vpp.annotate import session", "session"),
    (parts_keep_to_their_imports, "i2vpp/annotate/tracking/x.py", "import i2vpp.annotate.web.app", "annotate.web.app"),
    (some_parts_need_few_packages, "i2vpp/structures.py", "import numpy as np", "numpy"),
    (library_stands_alone, "i2vpp/cli.py", "from training.train import main", "training.train.main"),
    (library_stands_alone, "i2vpp/annotate/web/app.py", "import tools.benchmark", "tools.benchmark"),
    (folders_keep_to_their_imports, "training/trainer.py", "import tools.benchmark", "tools.benchmark"),
    (folders_keep_to_their_imports, "training/dataset/sav.py", "from sav_dataset import png_video", "sav_dataset"),
    (folders_keep_to_their_imports, "test_pvs/infer.py", "from tools.vos_inference import main", "vos_inference"),
    (folders_keep_to_their_imports, "sav_dataset/scoring.py", "from training.dataset import loader", "dataset.loader"),
    (folders_keep_to_their_imports, "test_pvs/infer.py", "from training.dataset.sav import STEP", "dataset.sav.STEP"),
    (folders_keep_to_their_imports, "sav_dataset/visualize.py", "from tests.media import save", "tests.media.save"),
    (sources_know_no_training, "training/dataset/loader.py", "from training.loss_fns import clip_loss", "loss_fns"),
    (sources_know_no_training, "training/dataset/loader.py", "from ..model import rollout", "training.model.rollout"),
    (sources_know_no_training, "training/synthetic/scene.py", "from training.dataset import loader", "dataset.loader"),
    (files_stay_short, "training/trainer.py", "x = 1\n" * (MAX_LINES + 1), f"{MAX_LINES + 1} lines"),
    (only_commands_print, "i2vpp/session/video.py", "if True:\n    print('hello')", "video.py:2"),
    (only_the_core_knows_how_objects_are_kept, "tools/benchmark.py", "predictor._tracker.runner", "benchmark.py:1"),
    (only_the_core_knows_how_objects_are_kept, "i2vpp/annotate/tracking/tracks.py", "x = state.tracks", "uses .tracks"),
    (only_the_core_knows_how_objects_are_kept, "i2vpp/cli.py", "state.track(1).bank.drop(2)", "uses .bank"),
    (nothing_is_swallowed, "i2vpp/checkpoint.py", "try:\n    pass\nexcept:\n    pass", "checkpoint.py:3"),
    (nothing_is_swallowed, "tools/benchmark.py", "try:\n    pass\nexcept Exception:\n    pass", "benchmark.py:3"),
    (nothing_is_swallowed, "i2vpp/cli.py", "try:\n    pass\nexcept (OSError, BaseException):\n    pass", "cli.py:3"),
]


@pytest.mark.parametrize(("rule", "path", "source", "named"), BAD)
def test_a_violation_is_found_and_named(rule: Rule, path: str, source: str, named: str) -> None:
    problems = list(rule(PurePosixPath(path), source))
    assert len(problems) == 1
    assert path in problems[0]
    assert named in problems[0]


GOOD = [
    ("i2vpp/memory/bank.py", "from __future__ import annotations\nimport math\nfrom ..structures import FrameMemory"),
    ("i2vpp/memory/selection.py", "from i2vpp.memory.bank import MemoryBank\nfrom .bank import MemoryBank"),
    ("i2vpp/structures.py", "from dataclasses import dataclass\nfrom torch import Tensor"),
    ("i2vpp/i2vpp_video_predictor.py", "from i2vpp.modeling.i2vpp import I2VPP\nfrom i2vpp.session import state"),
    ("i2vpp/session/video.py", "from i2vpp.data.frame_folders import list_frames"),
    ("i2vpp/data/masks.py", "from i2vpp.session.sources import to_rgb\nfrom i2vpp.data import frame_folders"),
    ("i2vpp/cli.py", "print('hello')"),
    ("i2vpp/session/state.py", "self.tracks[1].bank.drop(2)"),
    ("training/model/rollout.py", "self.bank.put(1)"),
    ("i2vpp/commands/demo.py", "print('hello')"),
    ("training/dataset/loader.py", "from training.config import DataConfig\nfrom .clips import Clip\nimport i2vpp"),
    ("training/dataset/build.py", "from training.synthetic.procedural import ProceduralVideos"),
    ("training/synthetic/scene.py", "from training.dataset.clips import Source\nfrom training.synthetic import warp"),
    ("sav_dataset/visualize.py", "from training.dataset.sav import SavVideos\nfrom i2vpp.errors import I2VPPError"),
    ("tools/benchmark_training.py", "from training.trainer import Trainer\nimport benchmark"),
    ("tools/benchmark.py", "from i2vpp import build_i2vpp_video_predictor\nprint('hello')"),
    ("i2vpp/checkpoint.py", "try:\n    pass\nexcept (OSError, ValueError):\n    pass"),
    ("i2vpp/checkpoint.py", "try:\n    pass\nexcept Exception as error:\n    raise ValueError from error"),
    ("i2vpp/session/frames.py", "try:\n    pass\nexcept BaseException as e:\n    future.set_exception(e)"),
]


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_honest_code_passes(path: str, source: str) -> None:
    assert not [problem for rule in RULES for problem in rule(PurePosixPath(path), source)]
