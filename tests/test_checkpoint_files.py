"""Checkpoints by name, and the config that fits them: on the command line, in Python, as the start of a training."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from i2vpp import checkpoint, cli
from i2vpp.build_i2vpp import _warn_untrained, build_i2vpp, build_i2vpp_video_predictor
from i2vpp.checkpoint import inspect_checkpoint, published_entries, read_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import CheckpointError, UntrainedWarning
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.weights import files as checkpoint_files
from i2vpp.weights.files import find_checkpoint, named_checkpoint
from media import moving_disc, write_video
from training.config import StartConfig
from training.model.initialise import start

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `checkpoints` of the working folder, empty; i2vpp seems to be imported from `tmp_path/repo`, no checkout."""
    monkeypatch.setattr(checkpoint_files, "__file__", str(tmp_path / "repo/i2vpp/weights/files.py"))
    (tmp_path / "here/checkpoints").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here/checkpoints"


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def checkout(tmp_path: Path) -> Path:
    """Make `tmp_path/repo` a checkout; returns its `checkpoints`."""
    folder = tmp_path / "repo/checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "repo/pyproject.toml").touch()
    return folder


def write_checkpoint(path: Path, *, image_size: int | None) -> Path:
    """Write a checkpoint of ones that fits the network; a small file, since every entry repeats one stored value."""
    state = {
        name: torch.ones((), dtype=torch.int64 if name.endswith("num_batches_tracked") else torch.float32).expand(shape)
        for name, shape in published_entries().items()
    }
    meta = {} if image_size is None else {"meta": {"format": 1, "image_size": image_size}}
    torch.save({"model": state, **meta, "card": {"licence": "research only"}}, path)
    return path


# ---- from names to files


def test_a_name_is_looked_up_here_and_then_in_the_checkout(here: Path, tmp_path: Path) -> None:
    there = checkout(tmp_path)
    assert named_checkpoint("mine") is None
    names = ("mine/model.safetensors", "mine.safetensors", "mine.pth", "mine.pt")  # from last to first
    for path in (folder / name for folder in (there, here) for name in names):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert find_checkpoint("mine") == named_checkpoint("mine") == path
    assert find_checkpoint(Path("mine")) == here / "mine.pt"


def test_a_file_wins_over_a_name_and_a_folder_does_not(here: Path) -> None:
    (here / "mine.pt").touch()
    Path("mine").mkdir()
    assert find_checkpoint("mine") == here / "mine.pt"
    Path("mine").rmdir()
    Path("mine").touch()
    assert find_checkpoint("mine") == Path("mine")


def test_the_folder_beside_an_installed_package_is_not_searched(here: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "mine.pt").touch()
    assert find_checkpoint("mine") == folder / "mine.pt"
    (tmp_path / "repo/pyproject.toml").unlink()  # now it is like site-packages
    with pytest.raises(CheckpointError, match="there is no checkpoint 'mine'"):
        find_checkpoint("mine")


def test_this_checkout_is_searched_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint_files.checkpoint_folders() == [tmp_path / "checkpoints", REPO / "checkpoints"]
    monkeypatch.chdir(REPO)
    assert checkpoint_files.checkpoint_folders() == [REPO / "checkpoints"]


@pytest.mark.parametrize("name", ["sub/mine", "./sub/mine", "mine.pt", "mine.bin", "/mine"])
def test_what_has_a_folder_or_a_suffix_is_a_path(name: str, here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub/mine.pt").touch()
    (here / "mine.pt").touch()
    (here / "mine.bin.pt").touch()
    with pytest.raises(CheckpointError, match=rf"checkpoint {name.removeprefix('./')} does not exist \(looked from"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["", ".", "..", "checkpoints"])
def test_folders_are_no_checkpoints(name: str, here: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a folder, not a checkpoint file; and holds no model\.safetensors"):
        find_checkpoint(name)
    (Path(name) / "mine.pt").touch()
    with pytest.raises(CheckpointError, match=r"is a folder, not a checkpoint file; name one of its files: mine\.pt"):
        find_checkpoint(name)


@pytest.mark.parametrize("name", ["mine", "sub/mine", ".", ""])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_stands_for_its_model(name: str, kind: type, here: Path) -> None:
    path = Path(name) / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert find_checkpoint(kind(name)) == path


@pytest.mark.parametrize("value", [5, True, None, b"mine", ["mine"], {"model": 1}, 1.5], ids=repr)
def test_what_is_no_path(value: object, here: Path) -> None:
    with pytest.raises(CheckpointError, match="a checkpoint must be a path or a name") as caught:
        find_checkpoint(value)  # type: ignore[arg-type]
    assert repr(value) in str(caught.value)
    if value is not None:
        with pytest.raises(CheckpointError, match="a checkpoint must be a path or a name"):
            build_i2vpp("i2vpp-256", value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a/" * 3000])
def test_names_that_no_file_can_have(name: str, here: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be looked up|there is no checkpoint|does not exist"):
        find_checkpoint(name)


def test_a_link_to_nothing_and_a_device(here: Path) -> None:
    Path("link.pt").symlink_to("nothing.pt")
    with pytest.raises(CheckpointError, match=r"link\.pt does not exist"):
        find_checkpoint("link.pt")
    with pytest.raises(CheckpointError, match="is empty"):
        read_checkpoint("/dev/zero")


def test_an_unknown_name_is_told_what_there_is(here: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\(there: no checkpoint\)"):
        find_checkpoint("mine")
    there = checkout(tmp_path)
    for path in (here / "second.pt", here / "first.pth", there / "second.pt", there / "notes.md"):
        path.touch()
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint("mine")
    assert str(caught.value) == (
        f"there is no checkpoint 'mine': no file of that name in {here.parent}, and no mine.pt, mine.pth, "
        f"mine.safetensors in {here} or {there} (there: first, second); `i2vpp download sam-i2vpp_8gpu` or "
        "`i2vpp download sam-i2vpp_32gpu` or `i2vpp download tinysam` fetches one"
    )
    with pytest.raises(CheckpointError, match=r"\(there: first, second\); `i2vpp download tinysam` fetches one"):
        find_checkpoint("tinysam")


@pytest.mark.parametrize("name", ["i2vpp-demo", "checkpoints/i2vpp-demo.pt"])
def test_a_wheel_says_where_the_demo_checkpoint_comes_from(name: str, tmp_path: Path) -> None:
    """The package alone in a folder, as a wheel installs it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "i2vpp", tmp_path / "site/i2vpp", ignore=ignore)
    (tmp_path / "site/checkpoints").mkdir()
    (tmp_path / "site/checkpoints/i2vpp-demo.pt").touch()  # of some other package
    code = f"from i2vpp.weights import files as c; print(c.__file__); c.find_checkpoint({name!r})"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == str(tmp_path / "site/i2vpp/weights/files.py")
    assert "comes with the git repository of i2vpp, not with the installed package" in result.stderr
    assert "copy checkpoints/i2vpp-demo.pt from a checkout into " in result.stderr


def test_everything_that_reads_a_checkpoint_takes_a_name(here: Path) -> None:
    path = write_checkpoint(here / "mine.pt", image_size=64)
    info = inspect_checkpoint("mine")
    assert (info.path, info.image_size, info.card) == (path, 64, {"licence": "research only"})
    assert read_checkpoint("mine")["card"] == {"licence": "research only"}
    model = I2VPP(ModelConfig(image_size=64))
    start(model, StartConfig(checkpoint="mine"), seed=0)
    assert bool((model.no_mem_embed == 1).all())
    start(model, StartConfig(heads="mine"), seed=1)
    assert bool((model.no_mem_embed == 1).all())


# ---- the config that fits


@pytest.mark.parametrize(
    ("recorded", "runs_at"), [(256, 256), (512, 512), (1024, 1024), (64, 64), (None, 1024)], ids=str
)
@pytest.mark.usefixtures("no_warnings")
def test_no_config_means_the_size_of_the_checkpoint(recorded: int | None, runs_at: int, here: Path) -> None:
    write_checkpoint(here / "mine.pt", image_size=recorded)
    model = build_i2vpp(None, "mine", device="cpu", hydra_overrides_extra=["model.fill_hole_area=3"])
    assert (model.config.image_size, model.config.fill_hole_area) == (runs_at, 3)
    assert bool((model.no_mem_embed == 1).all())


@pytest.mark.usefixtures("no_warnings")
def test_without_config_and_checkpoint_it_is_the_published_one() -> None:
    assert build_i2vpp(device="cpu").config == ModelConfig()


def test_a_checkpoint_that_chooses_the_config_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read = checkpoint.read_content
    monkeypatch.setattr(checkpoint, "read_content", lambda path: reads.append(path) or read(path))
    path = write_checkpoint(here / "mine.pt", image_size=256)
    assert build_i2vpp(ckpt_path="mine", device="cpu").image_size == 256
    assert [file.resolve() for file in reads] == [path.resolve()]


def test_a_predictor_without_a_checkpoint_warns_once() -> None:
    _warn_untrained.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_i2vpp_video_predictor("i2vpp-256", device="cpu")
        build_i2vpp_video_predictor("i2vpp-256", device="cpu")
    (warning,) = caught
    assert (warning.category, warning.filename) == (UntrainedWarning, __file__)
    for words in (
        "the weights are untrained and the masks mean nothing",
        "i2vpp download sam-i2vpp_32gpu",
        "i2vpp-demo",
    ):
        assert words in str(warning.message)


# ---- pretrained


@pytest.fixture
def safetensors_folder(here: Path) -> Path:
    """A folder `mine` with a small model.safetensors, whose entries are all 1."""
    model = I2VPP(ModelConfig(image_size=64))
    for value in model.state_dict().values():
        value.fill_(1)
    save_checkpoint(model, Path("mine/model.safetensors"), image_size=64, extra={"card": {"licence": "any"}})
    return Path("mine")


@pytest.mark.usefixtures("no_warnings")
def test_a_safetensors_file_is_read_wherever_a_checkpoint_is(
    safetensors_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect_checkpoint("mine").fits
    assert build_i2vpp(None, safetensors_folder, device="cpu").image_size == 64
    model = I2VPP(ModelConfig(image_size=64))
    start(model, StartConfig(checkpoint="mine"), seed=0)
    assert bool((model.no_mem_embed == 1).all())
    assert cli.main(["info", "mine"]) == 0
    assert "licence  any" in capsys.readouterr().out
    write_video(Path("disc.mp4"), moving_disc(2, 48, 64)[0])
    options = ["--device", "cpu", "--quiet", "--checkpoint", "mine"]
    assert cli.main(["track", "disc.mp4", "-o", "out", "--point", "9,9", *options]) == 0


class Hub(types.ModuleType):
    """Stands in for huggingface_hub: a repository `me/weights`, of which the folder `mine` is the cache."""

    def __init__(self) -> None:
        super().__init__("huggingface_hub")
        self.asked: list[tuple[str, str, str | None]] = []

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        self.asked.append((repo_id, filename, revision))
        if repo_id != "me/weights":
            raise OSError("404 Client Error.\nRepository Not Found")
        return f"mine/{filename}"


@pytest.mark.usefixtures("no_warnings")
def test_from_pretrained(safetensors_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for source in ("mine", safetensors_folder, "mine/model.safetensors"):
        predictor = I2VPPVideoPredictor.from_pretrained(source, device="cpu")
        assert predictor.image_size == 64
    assert not hub.asked
    predictor = I2VPPVideoPredictor.from_pretrained("me/weights", revision="v1", device="cpu", dtype="bfloat16")
    assert (predictor.image_size, predictor.dtype) == (64, torch.bfloat16)
    assert bool((predictor.model.no_mem_embed == 1).all())
    assert hub.asked == [("me/weights", "model.safetensors", "v1")]
    with pytest.raises(CheckpointError) as caught:
        I2VPPVideoPredictor.from_pretrained("you/weights")
    assert str(caught.value) == (
        f"'you/weights' is no checkpoint here (looked from {Path.cwd()}), and model.safetensors of that repository "
        "cannot be fetched from the Hugging Face Hub: OSError: 404 Client Error."
    )


@pytest.mark.parametrize(
    "name", ["mine", "./me/weights", "me/weights.pt", "me/you/weights", "https://x.y/z", "me/here", 5]
)
def test_what_the_hub_is_not_asked_for(name: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    Path("me/here").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no checkpoint 'mine'|does not exist|is a folder|must be a path"):
        I2VPPVideoPredictor.from_pretrained(name)
    assert not hub.asked


def test_the_hub_needs_its_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'huggingface_hub is needed: pip install "\.\[hub\]" in a clone'):
        I2VPPVideoPredictor.from_pretrained("me/weights")


def test_the_hub_has_what_we_call() -> None:
    hub = pytest.importorskip("huggingface_hub")
    parameters = list(inspect.signature(hub.hf_hub_download).parameters)
    assert parameters[:2] == ["repo_id", "filename"]
    assert "revision" in parameters


def test_a_config_or_an_override_that_is_given_wins(here: Path) -> None:
    write_checkpoint(here / "mine.pt", image_size=64)
    with pytest.warns(UserWarning, match="trained at image_size 64, but the model runs at 256; pass no config"):
        assert build_i2vpp_video_predictor("i2vpp-256", "mine", device="cpu").image_size == 256
    with pytest.warns(UserWarning, match="trained at image_size 64, but the model runs at 80"):
        model = build_i2vpp(ckpt_path="mine", device="cpu", hydra_overrides_extra=["model.image_size=80"])
    assert model.image_size == 80


# ---- on the command line


@pytest.mark.usefixtures("no_warnings")
@pytest.mark.parametrize("options", [["--checkpoint", "mine"], []], ids=["by name", "the demo checkpoint"])
def test_track_by_name_at_the_size_of_the_checkpoint(
    options: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(here / ("mine.pt" if options else "i2vpp-demo.pt"), image_size=64)
    write_video(Path("disc.mp4"), moving_disc(2, 48, 64)[0])
    assert cli.main(["track", "disc.mp4", "-o", "out", "--point", "9,9", "--device", "cpu", "--quiet", *options]) == 0
    assert len(list(Path("out/masks").iterdir())) == 2
    assert capsys.readouterr().err == ("" if options else f"i2vpp: weights: {path}\n")


def test_an_unknown_name_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["track", "v.mp4", "-o", "out", "--point", "9,9", "--checkpoint", "mine"]) == cli.EXIT_ERROR
    assert cli.main(["info", "mine"]) == cli.EXIT_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[2].partition(":")[0] for line in lines] == [" error"] * 2
    assert all("there is no checkpoint 'mine'" in line for line in lines)


def test_info_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_checkpoint(here / "i2vpp-demo.pt", image_size=256)
    assert cli.main(["info", "i2vpp-demo"]) == 0
    table = capsys.readouterr().out
    for line in (f"path            {path}", "image size      256", "card            licence  research only"):
        assert line in table
