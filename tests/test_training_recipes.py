"""Recipes: composition by Hydra, inheritance, overrides, and what a wrong key or value is told."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from i2vpp.config import ModelConfig, SelectionConfig
from i2vpp.errors import ConfigError
from training.config import ClipConfig, OptimizerConfig, SourceConfig, TrainConfig, UserConfig
from training.recipes import RECIPES, load_recipe, to_yaml

DEMO = ["i2vpp-demo", "i2vpp-demo-photos"]
NAMES = [*DEMO, "i2vpp-finetune", "i2vpp-smoke", "i2vpp-train", "i2vpp-train-32gpu"]
BASE = "defaults: [train_schema, i2vpp-512, _self_]\ndata: {sources: {made_up: {kind: procedural}}}\n"


@pytest.fixture(autouse=True)
def hydra_is_left_as_it_was() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert not GlobalHydra.instance().is_initialized()
    assert "train_schema.yaml" not in ConfigStore.instance().repo


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def needed(name: str) -> list[str]:
    return ["data.sources.own.images=frames"] if name == "i2vpp-finetune" else []


def test_these_recipes_are_shipped() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_read_and_can_be_written_and_read_again(name, tmp_path) -> None:
    config = load_recipe(name, needed(name))
    assert type(config) is TrainConfig and type(config.model) is ModelConfig
    assert all(type(source) is SourceConfig for source in config.data.sources.values())
    assert config.run.folder == f"outputs/{name}"
    assert load_recipe(write(tmp_path, to_yaml(config))) == config


def test_the_published_recipe() -> None:
    config = load_recipe("i2vpp-train")
    assert config.model == ModelConfig()
    assert config.user == UserConfig()
    assert config.optimizer == OptimizerConfig()
    assert (config.optimizer.learning_rate, config.optimizer.trunk_learning_rate) == (3e-4, 6e-5)
    assert (config.run.epochs, config.run.precision, config.cluster.num_gpus) == (12, "bfloat16", 8)
    assert config.start.image_model == "checkpoints/tinysam.pth"
    sav, sa1b = config.data.sources["sav"], config.data.sources["sa1b"]
    assert (sav.batch_size, sav.clip) == (1, ClipConfig(num_frames=8, max_objects=1, reverse=0.5))
    assert (sa1b.batch_size, sa1b.clip.num_frames) == (8, 1)


def test_the_recipe_of_32_gpus_differs_in_machines_only() -> None:
    one, four = load_recipe("i2vpp-train"), load_recipe("i2vpp-train-32gpu")
    assert (four.cluster.num_nodes, four.cluster.num_gpus) == (4, 8)
    four.cluster, four.run.folder = one.cluster, one.run.folder
    assert four == one


def test_the_folder_of_the_data_comes_from_the_environment(monkeypatch) -> None:
    monkeypatch.delenv("I2VPP_DATA", raising=False)
    assert load_recipe("i2vpp-demo").data.sources["ecssd"].images == "data/ecssd/images"
    monkeypatch.setenv("I2VPP_DATA", "/elsewhere")
    assert load_recipe("i2vpp-demo").data.sources["ecssd"].images == "/elsewhere/ecssd/images"


def test_the_smoke_recipe_needs_nothing() -> None:
    config = load_recipe("i2vpp-smoke")
    assert {source.kind for source in config.data.sources.values()} == {"procedural"}
    assert (config.run.device, config.run.precision, config.start.image_model) == ("cpu", "float32", None)
    assert config.model.image_size <= 128 and config.run.max_steps <= 20


def test_a_recipe_is_found_by_path_and_by_name_from_any_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_recipe(RECIPES / "i2vpp-smoke.yaml")
    for name in ("i2vpp-smoke", "i2vpp-smoke.yaml", "configs/i2vpp-smoke.yaml"):
        assert load_recipe(name) == expected
    write(tmp_path, BASE + "run: {seed: 5}", "i2vpp-smoke.yaml")
    assert load_recipe("i2vpp-smoke.yaml").run.seed == 5  # a file that is there wins
    assert load_recipe("i2vpp-smoke").run.seed == 0


def test_a_folder_with_an_awkward_name(tmp_path) -> None:
    folder = tmp_path / "my 'own', recipes=1"
    folder.mkdir()
    write(folder, BASE, "base.yaml")
    assert load_recipe(write(folder, "defaults: [base, _self_]\nrun: {seed: 3}")).run.seed == 3


def test_a_recipe_builds_on_another_one_and_on_another_model_config(tmp_path) -> None:
    path = write(
        tmp_path, "defaults: [i2vpp-train, i2vpp-256, _self_]\nmodel: {selection: {seed: 4}}\nrun: {epochs: 3}"
    )
    config = load_recipe(path)
    assert config.model == ModelConfig(image_size=256, selection=SelectionConfig(seed=4))
    assert config.run.epochs == 3
    assert config.data == load_recipe("i2vpp-train").data


def test_overrides_win() -> None:
    overrides = [
        "run.epochs=3",
        "+run.seed=7",
        "model.image_size=128",
        "optimizer.freeze=[image_encoder]",
        "start.checkpoint='a=b, c.pt'",
        "start.image_model=null",
        "~data.sources.sa1b",
        "+data.sources.mine.images=frames",
        "data.sources.mine.kind=coco",
    ]
    config = load_recipe("i2vpp-train", overrides)
    assert (config.run.epochs, config.run.seed, config.model.image_size) == (3, 7, 128)
    assert config.optimizer.freeze == ["image_encoder"]
    assert (config.start.checkpoint, config.start.image_model) == ("a=b, c.pt", None)
    assert set(config.data.sources) == {"sav", "mine"}
    assert config.data.sources["mine"] == SourceConfig(kind="coco", images="frames")
    assert set(load_recipe("i2vpp-train").data.sources) == {"sav", "sa1b"}  # nothing stays behind


WRONG_FILES = [
    ("run: {epoch: 3}", ["unknown key 'run.epoch'", "did you mean 'run.epochs'?", "mine.yaml"]),
    ("model: {image_siz: 64}", ["unknown key 'model.image_siz'", "did you mean 'model.image_size'?"]),
    ("rum: {epochs: 3}", ["unknown key 'rum'", "did you mean 'run'?"]),
    ("data: {sources: {a: {clip: {frames: 3}}}}", ["'data.sources.a.clip.frames'", "'data.sources.a.clip.num_frames'"]),
    ("run: {epochs: many}", ["run.epochs", "'many'", "Integer", "mine.yaml"]),
    ("run: {compile: 2.5}", ["run.compile", "2.5", "bool"]),
    ("run: 3", ["run is a section", "got 3"]),
    ("run:", ["run must have a value"]),
    ("optimizer: {betas: 0.9}", ["optimizer.betas must be a list"]),
    ("model: {image_size: 100}", ["model.image_size must be an integer, a multiple of 16", "got 100"]),
    ("run: {folder: '${nope}'}", ["run.folder", "nope", "not found"]),
    ("run: {seed: 1, seed: 2}", ["not valid YAML", "duplicate key seed", "mine.yaml"]),
    ("run: {seed: [1", ["not valid YAML", "mine.yaml"]),
]


@pytest.mark.parametrize(("text", "said"), WRONG_FILES)
def test_what_a_file_gets_wrong_is_said_in_one_line(text, said, tmp_path) -> None:
    path = write(tmp_path, f"defaults: [train_schema, i2vpp-512, _self_]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


WRONG_DEFAULTS = [
    ("run: {epochs: 3}", "must begin with 'defaults: [train_schema, i2vpp-infer, _self_]'"),
    ("", "must begin with 'defaults: [train_schema, i2vpp-infer, _self_]'"),
    ("defaults: [train_schema, i2vpp-521, _self_]", "did you mean 'i2vpp-512'?"),
    ("defaults: [mine, _self_]", "its defaults lead back to itself"),
    ("defaults:", "defaults must be a list of names, such as [train_schema, i2vpp-infer, _self_]; got None"),
    ("defaults: train_schema", "defaults must be a list of names"),
    ("defaults: [train_schema, null]", "defaults must be a list of names"),
    ("defaults: [{1: 2}]", "defaults must be a list of names"),
    ("defaults: [{data: {x: y}}]", "Unsupported item value in defaults"),
    ("[1, 2]", "mine"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_DEFAULTS)
def test_wrong_defaults(text, said, tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    assert said in str(caught.value)


def test_the_file_at_fault_is_named_where_recipes_build_on_each_other(tmp_path) -> None:
    write(tmp_path, BASE + "run: {epoch: 3}\n", "base.yaml")
    with pytest.raises(ConfigError, match=r"unknown key 'run.epoch'.*base\.yaml"):
        load_recipe(write(tmp_path, "defaults: [base, _self_]\nrun: {seed: 3}"))


WRONG_OVERRIDES = [
    ("run.epoch=3", ["unknown key 'run.epoch'", "'run.epochs'"]),
    ("+run.epoch=3", ["unknown key 'run.epoch'", "'run.epochs'"]),
    ("rum.epochs=3", ["unknown key 'rum'"]),
    ("run.epochs=many", ["run.epochs", "'many'"]),
    ("data.augment.color=[a,b,c]", ["data.augment.color[0]", "'a'"]),
    ("run=3", ["run is a section", "got 3"]),
    ("run.epochs", ["must be written key=value"]),
    ("run.folder=a=b", ["needs quotes"]),
    ("run.epochs=1,2", ["run.epochs=[1,2]"]),
    ("~run.epochs", ["run.epochs", "deletion"]),
    ("data.sources.other.images=x", ["there is no source 'other'", "'+' before the key adds it"]),
]


@pytest.mark.parametrize(("override", "said"), WRONG_OVERRIDES)
def test_what_an_override_gets_wrong(override, said) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("i2vpp-smoke", ["run.seed=1", override])
    assert f"override {override!r}" in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)


WRONG_VALUES = [
    ("run.precision=fp16", "run.precision must be one of float32, bfloat16; got 'fp16'"),
    ("run.device=tpu", "run.device must be one of auto, cuda, cpu, mps; got 'tpu'"),
    ("optimizer.batch_norm=off", "optimizer.batch_norm must be one of frozen, train, sync; got 'off'"),
    ("optimizer.learning_rate=0", "optimizer.learning_rate must be a positive number; got 0"),
    ("validation.prompt=scribble", "validation.prompt must be one of gm, bb, 3c, 1c; got 'scribble'"),
    ("data.sources.made_up.kind=davis", "data.sources.made_up.kind must be one of sav, sa1b"),
    ("data.sources.made_up.kind=sav", "data.sources.made_up.images is not set"),
    ("data.sources.made_up.repeat=0", "data.sources.made_up.repeat must be a positive number; got 0"),
    ("data.sources.made_up.clip.num_frames=0", "num_frames must be at least 1; got 0"),
    ("data.sources.made_up.clip.strides=[1,0]", "strides must be at least 1; got [1, 0]"),
    ("data.sources.made_up.clip.strides=[]", "strides is empty"),
    ("data.sources.made_up.clip.reverse=1.5", "reverse must be from 0 to 1; got 1.5"),
    ("data.augment.color=[0.1]", "data.augment.color must be a list of 3 numbers; got [0.1]"),
    ("data.augment.scale=[2,1]", "data.augment.scale must be a range"),
    ("user.mask=-0.1", "user.mask must be from 0 to 1; got -0.1"),
    ("user.corrections=-1", "user.corrections must be a number and not negative; got -1"),
    ("loss.mask=nan", "loss.mask must be a number and not negative; got nan"),
    ("run.max_minutes=inf", "run.max_minutes must be a number and not negative; got inf"),
    ("run.epochs=0", "run.epochs must be at least 1; got 0"),
    ("cluster.num_nodes=0", "cluster.num_nodes must be at least 1; got 0"),
    ("~data.sources.made_up", "data.sources is empty"),
    ("validation.images=frames", "validation.images and validation.annotations go together"),
]


@pytest.mark.parametrize(("override", "said"), WRONG_VALUES)
def test_values_that_make_no_sense(override, said) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("i2vpp-smoke", [override])
    assert said in str(caught.value)
    assert "i2vpp-smoke.yaml" in str(caught.value) and override in str(caught.value)


def test_one_origin_of_the_weights() -> None:
    with pytest.raises(ConfigError, match=r"start\.image_model and start\.checkpoint exclude each other"):
        load_recipe("i2vpp-train", ["start.checkpoint=mine.pt"])


def test_fine_tuning_asks_for_the_folder() -> None:
    with pytest.raises(ConfigError, match=r"data\.sources\.own\.images is not set"):
        load_recipe("i2vpp-finetune")


@pytest.mark.parametrize("name", ["i2vpp-trian", "other/i2vpp-train.yaml", "/nowhere/i2vpp-train.yaml"])
def test_a_recipe_that_is_not_there(name) -> None:
    with pytest.raises(ConfigError, match=r"i2vpp-smoke, i2vpp-train, .*did you mean 'i2vpp-train'\?"):
        load_recipe(name)


def test_one_string_is_no_list_of_overrides() -> None:
    with pytest.raises(ConfigError, match="must be a list of strings"):
        load_recipe("i2vpp-smoke", "run.epochs=3")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("where", ["recipe", "beginning", "parent", "group"])
def test_aliases_that_stand_for_millions_of_values_are_refused_at_once(tmp_path: Path, where: str) -> None:
    texts = {"recipe": BOMB, "beginning": BASE + BOMB, "parent": "defaults: [other, _self_]\n"}
    recipe = write(tmp_path, texts.get(where, "defaults: [part: other, _self_]\n"))
    named = "mine.yaml"
    if where in ("parent", "group"):
        folder = tmp_path / "part" if where == "group" else tmp_path
        folder.mkdir(exist_ok=True)
        named = write(folder, BOMB, "other.yaml").name
    with pytest.raises(ConfigError, match=rf"{named} holds more than 10,000 values with its aliases"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "x: " + "[" * 1000 + "]" * 1000, "is nested more than"),
        (BASE + "x: " + "{a: " * 20_000, "is nested more than"),
        (BASE + "run: {epochs: " + "9" * 5000 + "}", "not valid YAML"),
        (BASE + "run: {epochs: " + "9" * 400 + "}", "run.epochs must be a whole number of less than 19 digits"),
        (
            BASE + "optimizer: {learning_rate: " + "9" * 400 + "}",
            "optimizer.learning_rate must be a whole number of less",
        ),
        (BASE.encode() + b"# \xe9", "is not UTF-8"),
        (BASE.encode("utf-16"), "is not UTF-8"),
    ],
)
def test_absurd_recipes_are_refused_in_one_short_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert said in str(caught.value) and "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "-" + "9" * 400, "[" * 2000, "a" * 5000])
@pytest.mark.parametrize("key", ["run.epochs", "run.seed", "optimizer.learning_rate", "optimizer.accumulate"])
def test_absurd_overrides_are_refused_in_one_short_line(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("i2vpp-smoke", [f"{key}={value}"])
    assert key in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (BASE + "run: {epochs: 3}\n").encode())
    assert load_recipe(path).run.epochs == 3
