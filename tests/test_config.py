"""The schema, the lookup of config files, overrides and the messages for what does not fit."""

import dataclasses
from pathlib import Path

import pytest

from i2vpp import config as config_module
from i2vpp.config import (
    Config,
    ModelConfig,
    SelectionConfig,
    config_from_mapping,
    load_config,
    shipped_configs,
    to_yaml,
)
from i2vpp.errors import ConfigError, I2VPPError


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_shipped_configs_and_their_sizes() -> None:
    assert shipped_configs() == ["i2vpp-256", "i2vpp-512", "i2vpp-infer"]
    assert load_config() == Config()  # the published model
    for size in (256, 512):
        assert load_config(f"i2vpp-{size}") == Config(model=ModelConfig(image_size=size))


@pytest.mark.parametrize("folder", ["", "./", "configs/", "./configs/", "i2vpp/configs/", "./i2vpp/configs/"])
@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_shipped_config_is_found_from_any_directory(folder, suffix, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(f"{folder}i2vpp-512{suffix}").model.image_size == 512


def test_any_existing_file_is_read_and_wins_over_a_shipped_name(tmp_path, monkeypatch) -> None:
    path = write(tmp_path, "model: {image_size: 128}", "i2vpp-512.yaml")
    assert load_config(path).model.image_size == 128
    monkeypatch.chdir(tmp_path)
    assert load_config("i2vpp-512.yaml").model.image_size == 128
    assert load_config("i2vpp-512").model.image_size == 512
    (tmp_path / "i2vpp-256").mkdir()  # a folder is no config
    assert load_config("i2vpp-256").model.image_size == 256


@pytest.mark.parametrize("name", ["i2vpp-521", "other/i2vpp-512.yaml", "/nowhere/i2vpp-512.yaml", ""])
def test_config_not_found_lists_the_shipped_ones(name) -> None:
    with pytest.raises(ConfigError, match="shipped are i2vpp-256, i2vpp-512, i2vpp-infer") as caught:
        load_config(name)
    assert ("did you mean 'i2vpp-512'?" in str(caught.value)) == bool(name)
    assert isinstance(caught.value, (I2VPPError, ValueError))


def test_a_file_says_only_what_differs(tmp_path) -> None:
    path = write(tmp_path, "model:\n  fill_hole_area: 0\n  selection:\n    mode: recent\n")
    expected = ModelConfig(fill_hole_area=0, selection=SelectionConfig(mode="recent"))
    assert load_config(path).model == expected
    assert load_config(write(tmp_path, "model:\n  selection:\n")) == Config()
    assert load_config(write(tmp_path, "# nothing\n")) == Config()


def test_overrides_come_last_and_the_last_one_wins(tmp_path) -> None:
    path = write(tmp_path, "model: {image_size: 128, fill_hole_area: 1}")
    config = load_config(path, ["model.image_size=256", "++model.image_size=512", "+model.selection.mode=top"])
    assert config.model == ModelConfig(image_size=512, fill_hole_area=1, selection=SelectionConfig(mode="top"))
    assert load_config(overrides=["model.selection={mode: top, seed: 3}"]).model.selection.seed == 3


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("++model.fill_hole_area=4", "fill_hole_area", 4),
        ("++model.binarize_mask_from_pts_for_mem_enc=false", "binarize_mask_from_pts_for_mem_enc", False),
        (
            "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=false",
            "dynamic_multimask_via_stability",
            False,
        ),
    ],
)
def test_overrides_of_sam2(override, attribute, value) -> None:
    assert getattr(load_config(overrides=[override]).model, attribute) is value


def test_published_selection_keys(tmp_path) -> None:
    text = (
        "model: {num_maskmem: 7, num_maskmem_global_all: 100, num_maskmem_global: 3, num_maskmem_local_all: 5, "
        "num_maskmem_local: 1}"
    )
    expected = SelectionConfig(global_window=100, num_global=3, local_window=5, num_local=1)
    assert load_config(write(tmp_path, text)).model.selection == expected


def test_constants_are_accepted_at_their_value_only() -> None:
    section = "++model.sam_mask_decoder_extra_args"
    published = [f"{section}.dynamic_multimask_stability_delta=0.05", "++model.num_maskmem=7"]
    assert load_config(overrides=[*published, f"{section}.dynamic_multimask_stability_thresh=0.98"]) == Config()
    with pytest.raises(
        ConfigError, match=r"dynamic_multimask_stability_delta is fixed at 0.05 in SAM-I2V\+\+; got 0.1"
    ):
        load_config(overrides=[f"{section}.dynamic_multimask_stability_delta=0.1"])
    with pytest.raises(ConfigError, match=r"model.num_maskmem is fixed at 7 .* got 5 \(override"):
        load_config(overrides=["model.num_maskmem=5"])


@pytest.mark.parametrize(("name", "value", "other", "meaning"), [
    ("non_overlap_masks", "false", "true", "masks may overlap"),
    ("clear_non_cond_mem_around_input", "false", "true", "as they are"),
    ("add_all_frames_to_correct_as_cond", "true", "1", "every prompted frame"),
    ("max_cond_frames_in_attn", "-1", "4", "all conditioning frames"),
    ("memory_temporal_stride_for_eval", "1", "true", "model.selection says"),
])  # fmt: skip
def test_what_sam2_can_change_and_this_predictor_cannot(name: str, value: str, other: str, meaning: str) -> None:
    assert load_config(overrides=[f"++model.{name}={value}"]) == Config()
    with pytest.raises(ConfigError, match=rf"^model\.{name} is fixed at {value.title()} in .*\(.*{meaning}.*\); got "):
        load_config(overrides=[f"++model.{name}={other}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {image_sise: 512}", "unknown key 'model.image_sise'.*did you mean 'model.image_size'"),
        (
            "model: {selection: {modus: top}}",
            "unknown key 'model.selection.modus'.*did you mean 'model.selection.mode'",
        ),
        ("image_size: 512", "unknown key 'image_size'.*did you mean 'model.image_size'"),
        ("model: {mode: top}", "unknown key 'model.mode'.*did you mean 'model.selection.mode'"),
        ("optimiser: {}", "unknown key 'optimiser'.*valid are model.binarize_mask"),
        ("model: 5", "model is a section with keys of its own; got 5"),
        ("- 1\n- 2", "must hold a mapping"),
        ("model: {image_size: 512", "is not valid YAML"),
        ("model: {image_size: 512, image_size: 256}", "(?s)is not valid YAML.*found duplicate key"),
        ("model: {image_size: 100}", "model.image_size must be an integer, a multiple of 16, from 64 to 4096; got 100"),
        ("model: {image_size: 48}", "model.image_size must be .* got 48"),
        ("model: {image_size: big}", "model.image_size must be .* got 'big'"),
        ("model: {image_size: 512.0}", "model.image_size must be .* got 512.0"),
        ("model: {image_size: {}}", "model.image_size must be .* got {}"),
        ("model: {image_size:}", "model.image_size must be .* got None"),
        ("model: {fill_hole_area: -1}", "model.fill_hole_area must be an integer and not negative; got -1"),
        ("model: {fill_hole_area: true}", "model.fill_hole_area must be .* got True"),
        ("model: {dynamic_multimask_via_stability: 1}", "must be true or false; got 1"),
        ("model: {selection: {mode: best}}", "model.selection.mode must be one of sample, top, recent; got 'best'"),
        ("model: {selection: {num_local: -2}}", "model.selection.num_local must be .* got -2"),
        ("model: {num_maskmem_global: 5}", "num_global .* must be at most 6, .* got 5 \\+ 2"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(text, message, tmp_path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~model.fill_hole_area", "'~model.fill_hole_area': '~' is refused"),
        ("model.fill_hole_area", "'model.fill_hole_area' must be written key=value"),
        ("model.fil_hole_area=8", "unknown key 'model.fil_hole_area' .*override 'model.fil_hole_area=8'.*did you mean"),
        ("model.selection.mode=[", "override 'model.selection.mode=\\[' is not valid YAML"),
        (
            "model.image_size=",
            "model.image_size must be .* got None .*i2vpp-infer.yaml .*with the overrides model.image_size=",
        ),
    ],
)
def test_bad_overrides(override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_overrides_must_be_a_list() -> None:
    with pytest.raises(ConfigError, match="overrides must be a list of strings"):
        load_config(overrides="model.image_size=512")


def test_config_cannot_be_built_wrong_or_changed() -> None:
    with pytest.raises(ConfigError, match=r"model.image_size must be .* got '512'"):
        ModelConfig(image_size="512")  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.image_size = 512  # type: ignore[misc]


def test_to_yaml_is_read_back(tmp_path) -> None:
    config = load_config("i2vpp-256", ["model.selection.mode=top", "model.selection.seed=9"])
    assert load_config(write(tmp_path, to_yaml(config))) == config
    assert config_from_mapping(dataclasses.asdict(config)) == config
    with pytest.raises(ConfigError, match="a checkpoint"):
        config_from_mapping({"modell": {"image_size": 5}}, "a checkpoint")


def test_aliases_lead_to_valid_keys() -> None:
    valid = set(config_module._leaves(Config()))
    assert set(config_module.ALIASES.values()) <= valid
    assert not valid & (config_module.ALIASES.keys() | config_module.CONSTANTS.keys())


# ---- texts that are small and stand for much, and other texts that no config is


def bomb(form: str) -> str:
    """YAML of ten lines whose aliases stand for a thousand million values."""
    lines = ["a: &a {x: 1}"]
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        inside = {
            "list": f"[{', '.join([f'*{before}'] * 10)}]",
            "mapping": f"{{{', '.join(f'k{index}: *{before}' for index in range(10))}}}",
            "merge": f"{{<<: [{', '.join([f'*{before}'] * 10)}]}}",
            "block": "".join(f"\n  - *{before}" for _ in range(10)),
        }[form]
        lines.append(f"{name}: &{name} {inside}")
    return "\n".join(lines)


HUGE = [
    *((bomb(form), "holds more than 10,000 values with its aliases") for form in ("list", "mapping", "merge", "block")),
    ("model: &a [*a]", r"has an alias, \*a, inside the node that it repeats"),
    ("model: &a {x: {y: *a}}", r"has an alias, \*a, inside the node that it repeats"),
    ("model: *a", r"has an alias, \*a, without the node that it repeats"),
    ("model: " + "[" * 100_000, "is nested more than 32 levels deep"),
    ("model: " + "{a: " * 50_000, "is nested more than 32 levels deep"),
    ("- " * 50_000, "is nested more than 32 levels deep"),
    ("\n".join(" " * depth + "a:" for depth in range(200)), "is nested more than 32 levels deep"),
    (f"model: [{'1, ' * 20_000}]", "holds more than 10,000 values"),
    ("# long\n" * 50_000, "is larger than 262,144 bytes"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("text", "message"), HUGE, ids=lambda value: value[:12])
def test_a_small_text_cannot_become_huge(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "value",
    [
        "[" * 100_000,
        "[" + "&a [*a], " + "]",
        "{a: &a [1, 1], b: &b [*a, *a, *a], c: [" + "*b, " * 2000 + "]}",
        "9" * 5000,
        "0x" + "f" * 4000,
        '"\\UFFFFFFFF"',
        "!!int x",
        "!!timestamp 2024-99-99",
        "2024-99-99",
        "!!python/object/apply:os.mkdir [made]",
        "'${' + '${' * 3000",
        "'" + "x" * 100_000 + "'",
        "\0",
        "{[1]: 2}",
        "{a: 1, a: 2}",
    ],
    ids=lambda value: value[:12],
)
def test_odd_values_are_refused_in_one_line(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for load in (
        lambda: load_config(write(tmp_path, f"model: {{image_size: {value}}}")),
        lambda: load_config(overrides=[f"model.image_size={value}"]),
    ):
        with pytest.raises(ConfigError) as caught:
            load()
        text = str(caught.value).replace(value, "")  # an override is repeated as it was written
        assert "\n" not in text
        assert len(text) < 1000
    assert not Path("made").exists()


def test_aliases_in_moderation_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {selection: {num_global: &n 2, num_local: *n}}")
    assert load_config(path).model.selection == SelectionConfig(num_global=2, num_local=2)


def test_encodings(tmp_path: Path) -> None:
    path, text = tmp_path / "mine.yaml", "# café\nmodel: {image_size: 512}"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert load_config(path).model.image_size == 512
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ConfigError, match=r"mine\.yaml is not UTF-8 \(byte \d+\)"):
            load_config(path)


@pytest.mark.parametrize(
    "size",
    [4112, 160000, 10**5000, "x" * 100_000, True],
    ids=lambda size: f"{size!r:.9}" if size != 10**5000 else "huge",
)
def test_sizes_at_the_api(size: int) -> None:
    with pytest.raises(ConfigError, match="an integer, a multiple of 16, from 64 to 4096; got ") as caught:
        ModelConfig(image_size=size)
    assert len(str(caught.value)) < 400
    assert ModelConfig(image_size=4096).image_size == 4096


def test_overrides_must_be_texts() -> None:
    with pytest.raises(ConfigError, match=r"an override must be text such as 'model\.image_size=512'; got 5"):
        load_config(overrides=[5])  # type: ignore[list-item]
