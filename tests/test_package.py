"""The package as others meet it: its metadata, its data files, and an import that does nothing but import."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import i2vpp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parent.parent
PACKAGE = REPO / "i2vpp"
TOP_LEVEL = [
    "README.md",
    "LICENSE",
    "setup.py",
    "i2vpp",
    "tools",
    "checkpoints",
    "training",
    "configs",
    "sav_dataset",
    "test_pvs",
    "train.sh",
    "multi_node_train_4_nodes.sh",
]
CONFIGS = ["i2vpp-infer", "i2vpp-512", "i2vpp-256"]
MAX_IMPORT_SECONDS = 3.0


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def run_python(code: str) -> str:
    """Run code in a new interpreter, away from the checkout's root, and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO / "tests", capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_top_level_names_stay(name: str) -> None:
    assert (REPO / name).exists(), f"{name} is part of the project's fixed tree"


@pytest.mark.parametrize("script", sorted(REPO.glob("*.sh")) + sorted(REPO.glob("*/*.sh")), ids=lambda path: path.name)
def test_scripts_can_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK), f"chmod +x {script.relative_to(REPO)}"


def test_the_version_stands_in_one_place(pyproject: dict[str, Any]) -> None:
    """Metadata and command take it from the package, and the changelog begins with it or with what comes next."""
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "i2vpp.__version__"}
    assert metadata.version("i2vpp") == i2vpp.__version__, "installed metadata is stale: make install"
    newest = re.search(r"^## \[(.+?)\]", (REPO / "docs" / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == ("Unreleased" if Version(i2vpp.__version__).is_devrelease else i2vpp.__version__)
    texts = {name: (REPO / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "setup.py", "CITATION.cff")}
    assert not [name for name, text in texts.items() if re.search(r"^version *[:=] *\S*\d", text, re.MULTILINE)]


def public_names() -> dict[str, str]:
    """The names that `i2vpp/__init__.py` shows to type checkers, and the modules it takes them from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (shown,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in shown.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_public_names_are_the_same_for_users_and_type_checkers() -> None:
    names = public_names()
    assert {*names, "__version__"} == set(i2vpp.__all__)
    for name, module in names.items():
        assert getattr(i2vpp, name) is getattr(importlib.import_module(module), name)
    assert set(i2vpp.__all__) <= set(dir(i2vpp))
    with pytest.raises(AttributeError, match=r"module 'i2vpp' has no attribute 'build'"):
        _ = i2vpp.build
    with pytest.raises(ImportError, match=r"cannot import name 'Predictor' from 'i2vpp'"):
        exec("from i2vpp import Predictor")


def test_importing_the_package_imports_nothing_else() -> None:
    loaded = run_python("""
import sys
before = set(sys.modules)
import i2vpp
i2vpp.__version__, dir(i2vpp)
print(*sorted(set(sys.modules) - before))""")
    assert loaded == "i2vpp"
    errors = run_python("import sys, i2vpp; i2vpp.I2VPPError; print('torch' in sys.modules)")
    assert errors == "False", "the classes to catch need no PyTorch"


@pytest.mark.parametrize("arguments", [["--version"], ["info", "--help"]])
def test_the_package_can_be_run(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "i2vpp", *arguments]
    done = subprocess.run(command, cwd=REPO / "tests", capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"i2vpp {i2vpp.__version__}" if "--version" in arguments else "usage: i2vpp info")


# folder -> the extras whose packages it may import beside those of the library; the first part that fits counts
EXTRAS_OF = {
    "i2vpp/annotate": {"web"},
    "i2vpp/evaluation": {"eval", "train"},
    "i2vpp": set(),
    "training": {"train"},
    "sav_dataset": {"eval"},
    "test_pvs": {"eval"},
    "tools": {"train", "eval"},
}
ON_REQUEST = {
    "gdown": "download",
    "huggingface_hub": "hub",
    "matplotlib": "eval",
    "nbclient": "dev",
    "nbformat": "dev",
    "onnx": "export",
    "onnxruntime": "export",
    "playwright": "dev",
    "pycocotools": "coco",
    "submitit": "train",
}
IN_NO_EXTRA = {"sam2"}  # is measured by tools/benchmark_masks.py
"""Packages that are imported when they are needed, with a message where they are missing."""
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "hydra-core": "hydra"}


def third_party_imports(folder: Path) -> set[str]:
    """Packages that the files of a folder import, wherever in a file; those named to `import_module`, too."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    ours = {"i2vpp", "training", "sav_dataset", "test_pvs", "tools", "__future__", "_typeshed"}
    return {name.split(".")[0] for name in names} - ours - sys.stdlib_module_names


def test_every_folder_finds_what_it_imports_and_no_package_is_idle(pyproject: dict[str, Any]) -> None:
    def imported_as(texts: list[str]) -> set[str]:
        names = [Requirement(text).name for text in texts]
        return {IMPORTED_AS.get(name, name) for name in names}

    project = pyproject["project"]
    core = imported_as(project["dependencies"])
    extras = {name: imported_as(texts) for name, texts in project["optional-dependencies"].items()}
    for package, extra in ON_REQUEST.items():
        assert package in extras[extra]
    found = {folder: third_party_imports(REPO / folder) for folder in EXTRAS_OF}
    found["i2vpp"] -= found["i2vpp/annotate"] | found["i2vpp/evaluation"]
    for folder, names in found.items():
        allowed = core.union(ON_REQUEST, IN_NO_EXTRA, *(extras[extra] for extra in EXTRAS_OF[folder]))
        assert names <= allowed, f"{folder} imports {sorted(names - allowed)}, which its extras do not bring"
    runtime = {name for extra, names in extras.items() if extra not in {"dev", "docs"} for name in names} | core
    by_torch = {"onnxscript", "tensorboard"}  # imported by torch.onnx and torch.utils.tensorboard
    idle = runtime - set().union(*found.values()) - third_party_imports(PACKAGE) - by_torch
    assert not idle, f"declared and never imported: {sorted(idle)}"


def test_what_is_installed_is_named_as_of_a_clone() -> None:
    """The name is on no package index: to install by it would fetch nothing, or something else."""
    files = [path for kind in ("py", "md", "sh", "ipynb", "toml", "js", "html") for path in REPO.rglob(f"*.{kind}")]
    parts = {".venv", "build", "outputs", ".git", "site"}
    texts = {path: path.read_text(encoding="utf-8") for path in files if not parts & {*path.relative_to(REPO).parts}}
    wrong = re.compile(r"""pip install (-\S+ )*["'\\]*i2vp[p]""")
    assert not [str(path) for path, text in texts.items() if wrong.search(text)]


def test_the_command_is_declared_and_callable(pyproject: dict[str, Any]) -> None:
    target = pyproject["project"]["scripts"]["i2vpp"]
    (installed,) = metadata.entry_points(group="console_scripts", name="i2vpp")
    assert installed.value == target
    module, function = target.split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_data_file_is_shipped(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]["i2vpp"]
    shipped = {file for pattern in patterns for file in PACKAGE.glob(pattern) if file.is_file()}
    found = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in {".py", ".pyc"}}
    assert found == shipped, f"not matched by package-data: {sorted(map(str, found - shipped))}"
    assert PACKAGE / "py.typed" in shipped
    assert {file.stem for file in shipped if file.parent.name == "configs"} >= set(CONFIGS)
    assert any(file.parent == PACKAGE / "assets" for file in shipped)


def test_the_demo_checkpoint_is_the_only_one_that_git_keeps() -> None:
    def ignored(path: str) -> bool:
        patterns = (REPO / ".gitignore").read_text(encoding="utf-8").split()
        matching = [pattern for pattern in patterns if fnmatch(path, pattern.removeprefix("!"))]
        return bool(matching) and not matching[-1].startswith("!")  # the last one counts

    assert not ignored("checkpoints/i2vpp-demo.pt")
    assert ignored("checkpoints/sam-i2vpp_32gpu.pt")
    assert ignored("checkpoints/tinysam.pth")


def test_every_folder_with_code_is_a_package() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    bare = [str(folder.relative_to(REPO)) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not bare, f"setuptools leaves out folders without __init__.py: {bare}"


def requires_python(pin: Requirement) -> SpecifierSet:
    """Pythons that a locked version runs on, as far as that version is installed here."""
    try:
        installed = metadata.distribution(pin.name)
    except metadata.PackageNotFoundError:
        return SpecifierSet()
    return SpecifierSet(installed.metadata.get("Requires-Python", "") if installed.version in pin.specifier else "")


def test_the_lock_fits_the_ranges(pyproject: dict[str, Any]) -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    there = {"python_version": oldest, "python_full_version": f"{oldest}.0"}
    for pin in pins:
        fits = requires_python(pin).contains(f"{oldest}.99")
        assert fits or (pin.marker and not pin.marker.evaluate(there)), f"{pin} cannot be installed on Python {oldest}"
    locked = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    project = pyproject["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    lockers = {**default_environment(), "python_version": "3.11"}  # the lock is made for 3.11 and newer
    for wanted in map(Requirement, texts):
        if wanted.marker and not wanted.marker.evaluate(lockers):
            continue
        version = locked.get(canonicalize_name(wanted.name))
        assert version, f"constraints.txt does not lock {wanted.name}"
        assert wanted.specifier.contains(version), f"constraints.txt locks {wanted.name} {version}, not in {wanted}"


# Third-party packages are imported first, so that what they do to global state is not blamed on i2vpp.
BEFORE_AND_AFTER = """
import importlib, json, logging, os, pkgutil, random, threading, warnings
import av, numpy, PIL.Image, safetensors.torch, torch, tqdm, yaml

def state():
    return {
        "random": random.getstate(),
        "numpy random": repr(numpy.random.get_state()),
        "torch random": (torch.initial_seed(), torch.get_rng_state().tolist()),
        "torch threads": torch.get_num_threads(),
        "torch dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "torch matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "cuda": torch.cuda.is_initialized(),
        "warnings": list(warnings.filters),
        "log level": (logging.root.level, logging.root.manager.disable),
        "log handlers": [(str(logger), list(getattr(logger, "handlers", [])))
                         for name, logger in [("", logging.root), *logging.root.manager.loggerDict.items()]
                         if name.split(".")[0] in ("", "i2vpp") and getattr(logger, "handlers", [])],
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "threads": threading.active_count(),
    }

before = state()
{statements}
after = state()
print(json.dumps([key for key in before if before[key] != after[key]]))
"""

IMPORT_EVERYTHING = """
import i2vpp
names = [module.name for module in pkgutil.walk_packages(i2vpp.__path__, "i2vpp.") if "__main__" not in module.name]
assert len(names) > 10, names
for name in names:
    importlib.import_module(name)
"""


def changed_by(statements: str) -> list[str]:
    """Name the pieces of global state that statements change in a new interpreter."""
    return json.loads(run_python(BEFORE_AND_AFTER.replace("{statements}", statements)))


def test_importing_any_module_changes_nothing() -> None:
    assert changed_by(IMPORT_EVERYTHING) == []


def test_a_change_would_be_noticed() -> None:
    guilty = """
torch.manual_seed(1); numpy.random.seed(1); random.seed(1)
warnings.simplefilter("ignore"); logging.basicConfig(); logging.getLogger("i2vpp.x").addHandler(logging.StreamHandler())
"""
    assert changed_by(guilty) == ["random", "numpy random", "torch random", "warnings", "log handlers"]


TIME_THE_IMPORT = """
import time, torch
started = time.perf_counter()
from i2vpp.build_i2vpp import build_i2vpp_video_predictor
print(time.perf_counter() - started)
"""


def test_import_is_quick() -> None:
    # The best of three: other work on the machine, or a cold disk, is not the package's fault.
    seconds = []
    while len(seconds) < 3 and min(seconds, default=MAX_IMPORT_SECONDS) >= MAX_IMPORT_SECONDS:
        seconds.append(float(run_python(TIME_THE_IMPORT)))
    assert min(seconds) < MAX_IMPORT_SECONDS, f"importing the predictor takes {min(seconds):.1f} s after torch"
