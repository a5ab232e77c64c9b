"""Loading, saving, inspecting and importing checkpoints, on a stand-in network and on files of the published layout."""

import json
import os
import pickle
import random
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from i2vpp.checkpoint import (
    import_image_model,
    inspect_checkpoint,
    load_checkpoint,
    published_entries,
    read_checkpoint,
    save_checkpoint,
)
from i2vpp.errors import CheckpointError
from i2vpp.weights import download
from i2vpp.weights.files import DOWNLOADABLE

SHAPES = Path(__file__).parent / "parity" / "state_dict_shapes.json"


UNCHECKED = (
    "{} has no checksum, so that damaged weights in it would not be noticed; files of `save_checkpoint` have one"
)


class Network(nn.Module):
    """A stand-in with an integer buffer, as BatchNorm has."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 1)


class Nested(nn.Module):
    """A network that consists of the given dotted names, one value each, so that any layout can be stood in for."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        for name in names:
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(torch.zeros(2)))


class Code:
    """Unpickling it would make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def published_state() -> dict[str, Tensor]:
    """A state dict of the published layout whose file is small: every entry repeats a single stored value."""
    state = {}
    for name, shape in json.loads(SHAPES.read_text()).items():
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        state[name] = torch.ones((), dtype=dtype).expand(shape)
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def refused(path: Path, message: str) -> str:
    """Check that loading fails with the message and leaves the model alone; return the whole message."""
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(model, path)
    assert same(before, model.state_dict())
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---- load and save


def test_saved_checkpoint_loads_again(tmp_path) -> None:
    path = tmp_path / "new" / "folder" / "mine.pt"
    saved, loaded = Network(), Network()
    save_checkpoint(saved, path, image_size=512, extra={"step": 3, "config": "model: {}", "optimizer": {"lr": [0.1]}})
    info = load_checkpoint(loaded, path, image_size=512)
    assert same(saved.state_dict(), loaded.state_dict())
    assert (info.image_size, info.num_entries, info.num_parameters, info.fits) == (512, 9, 37, True)
    assert info.dtypes == {"float32": 8, "int64": 1}
    content = read_checkpoint(path)
    assert (content["step"], info.checked) == (3, "CRC-32, SHA-256")
    assert content["meta"] | {"sha256": ""} == {"format": 1, "image_size": 512, "sha256": ""}


@pytest.mark.parametrize("wrap", [True, False], ids=["published form", "bare state dict"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_all_forms_load(wrap, zipped, tmp_path) -> None:
    saved, loaded = Network(), Network()
    path = tmp_path / "mine.pt"
    state = saved.state_dict()
    torch.save({"model": state} if wrap else state, path, _use_new_zipfile_serialization=zipped)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        info = load_checkpoint(loaded, str(path), image_size=1024)
    assert same(saved.state_dict(), loaded.state_dict())
    assert (info.image_size, info.size) == (None, path.stat().st_size)
    assert info.checked == ("CRC-32" if zipped else "none")
    assert [str(entry.message) for entry in caught] == ([] if zipped else [UNCHECKED.format(path)])


def test_the_model_does_not_keep_the_file(tmp_path) -> None:
    path = tmp_path / "mine.pt"
    save_checkpoint(Network(), path, image_size=64)
    model = Network()
    load_checkpoint(model, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path.write_bytes(bytes(path.stat().st_size))
    assert same(before, model.state_dict())


def test_other_image_size_gives_a_warning(tmp_path) -> None:
    path = tmp_path / "mine.pt"
    save_checkpoint(Network(), path, image_size=512)
    with pytest.warns(UserWarning, match=r"trained at image_size 512, .* 1024; pass no config, or .*image_size=512"):
        load_checkpoint(Network(), path, image_size=1024)


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "mine.pt"
    save_checkpoint(Network(), path, image_size=64)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"was not saved, it could not be loaded again: .* holds Python objects"):
        save_checkpoint(Network(), path, image_size=64, extra={"args": Code(tmp_path / "made")})
    with pytest.raises(CheckpointError, match="extra must not hold 'meta', 'model'"):
        save_checkpoint(Network(), path, image_size=64, extra={"model": 1, "meta": 2})

    def broken(content, file) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(Network(), path, image_size=64)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- files that are refused


def test_missing_file_says_where_to_get_one(tmp_path) -> None:
    message = refused(tmp_path / "sam-i2vpp_8gpu.pt", "does not exist .*`i2vpp download sam-i2vpp_8gpu` fetches one")
    assert "32gpu" not in message
    refused(tmp_path / "other.pt", "`i2vpp download sam-i2vpp_8gpu` or `i2vpp download sam-i2vpp_32gpu` or")
    assert tuple(download.SOURCES) == DOWNLOADABLE


def test_folder_empty_file_and_cut_off_file(tmp_path) -> None:
    refused(tmp_path, "is a folder")
    path = tmp_path / "mine.pt"
    path.touch()
    refused(path, "is empty")
    save_checkpoint(Network(), path, image_size=64)
    path.write_bytes(path.read_bytes()[:-500])
    refused(path, r"is cut off or damaged \([\d,]+ bytes\)")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", bytes(1000), b"\x80\x02}q\x00.", b"x"])
def test_what_is_not_a_checkpoint(content, tmp_path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    message = refused(path, "is not a PyTorch checkpoint: .*; nothing in it was executed")
    assert "weights_only" not in message  # torch's advice to switch the protection off


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_damaged_files_are_read_or_refused_but_nothing_else(zipped, tmp_path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"model": {"weight": torch.zeros(30)}}, path, _use_new_zipfile_serialization=zipped)
    good, rng, refusals = path.read_bytes(), random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(good)
        for _ in range(10):
            damaged[rng.randrange(len(good))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            inspect_checkpoint(path, expected={})
        except CheckpointError:
            refusals += 1
    assert refusals > 10


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_is_never_executed(form, tmp_path) -> None:
    path, trace = tmp_path / "mine.pt", tmp_path / "trace"
    content = {"model": {"weight": torch.zeros(2)}, "args": Code(trace)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content["args"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = refused(path, "nothing in it was executed")
    assert form == "pickle" or "holds Python objects" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not a checkpoint"),
        ({"state_dict": {}, "epoch": 3}, "it has no key 'model'; keys found: 'state_dict', 'epoch'"),
        ({}, "it has no key 'model'; keys found: none"),
        ({"model": 5, "step": 1}, "its key 'model' holds no state dict; keys found: 'model', 'step'"),
        ({"model": {}, "meta": {"format": 2}}, "has format 2; this version of i2vpp reads up to 1"),
    ],
)
def test_other_contents(content, message, tmp_path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(content, path)
    refused(path, message)


def test_every_misfit_is_listed(tmp_path) -> None:
    path = tmp_path / "mine.pt"
    state = Network(width=5).state_dict()
    del state["encoder.1.num_batches_tracked"]
    state |= {f"extra.{index}": torch.zeros(2, 3) for index in range(10)}
    torch.save({"model": state}, path)
    message = refused(path, r"does not fit the network \(18 entries, 9 expected\)")
    assert "  1 missing: encoder.1.num_batches_tracked []\n" in message
    assert "  10 unexpected: extra.0 [2, 3], extra.1 [2, 3]," in message
    assert "extra.7 [2, 3], and 2 more\n" in message
    assert "  7 of another shape: encoder.0.weight is [5, 3] and must be [4, 3], " in message


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.iou_token.weight"], "TinySAM .*import_image_model"),
        (["image_encoder.trunk.pos_embed", "sam_mask_decoder.iou_token.weight"], "looks like a SAM 2 checkpoint"),
    ],
)
def test_checkpoints_of_other_models_are_recognised(names, hint, tmp_path) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": dict.fromkeys(names, torch.zeros(2))}, path)
    refused(path, f"(?s)does not fit.*{hint}")


# ---- inspect


def test_inspect_published_layout(tmp_path) -> None:
    path = tmp_path / "sam-i2vpp_32gpu.pt"
    state = published_state()
    torch.save({"model": state}, path)
    expected = {name: tuple(value.shape) for name, value in state.items()}
    info = inspect_checkpoint(path, expected)
    assert (info.kind, info.num_entries, info.num_parameters, info.fits) == ("i2vpp", 929, 19_046_694, True)
    assert info.parts["memory_attention"] == 3_732_872
    assert sum(info.parts.values()) == info.num_parameters
    assert info.image_size is None

    del state["no_obj_ptr"]
    torch.save({"model": state | {"stranger": torch.zeros(2)}, "meta": {"image_size": 256}}, path)
    info = inspect_checkpoint(path, expected | {"no_mem_embed": (1,)})
    assert (info.missing, info.unexpected, info.misshapen) == (("no_obj_ptr",), ("stranger",), ("no_mem_embed",))
    assert (info.image_size, info.fits) == (256, False)


def test_inspect_compares_with_the_network_by_default(tmp_path) -> None:
    expected = {name: tuple(shape) for name, shape in json.loads(SHAPES.read_text()).items()}
    assert published_entries() == expected
    path = tmp_path / "tinysam.pth"
    names = ["image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.iou_token.weight"]
    torch.save(dict.fromkeys(names, torch.zeros(2, dtype=torch.bfloat16)), path)
    info = inspect_checkpoint(path)
    assert (info.kind, info.dtypes, len(info.missing)) == ("tinysam/mobilesam", {"bfloat16": 2}, 929)
    torch.save({"weight": torch.zeros(2)}, path)
    assert inspect_checkpoint(path).kind == "unknown"


# ---- TinySAM and MobileSAM

OWN = [
    "image_encoder.trunk_image.patch_embed.seq.0.c.weight",
    "image_encoder.trunk_image.layers.1.blocks.0.mlp.fc1.weight",
    "image_encoder.trunk_image.head.weight",
    "image_encoder.trunk_video.temporal_stem.weight",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "sam_prompt_encoder.not_a_point_embed.weight",
    "sam_mask_decoder.iou_token.weight",
    "sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight",
    "sam_mask_decoder.transformer.layers.0.mlp.layers.1.weight",
    "sam_mask_decoder.obj_score_token.weight",
    "sam_mask_decoder.pred_obj_score_head.layers.0.weight",
    "no_obj_ptr",
]
THEIRS = [
    "image_encoder.patch_embed.seq.0.c.weight",
    "image_encoder.layers.1.blocks.0.mlp.fc1.weight",
    "image_encoder.head.weight",
    "image_encoder.layers.1.blocks.0.attn.attention_bias_idxs",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.not_a_point_embed.weight",
    "mask_decoder.iou_token.weight",
    "mask_decoder.transformer.layers.0.mlp.lin1.weight",
    "mask_decoder.transformer.layers.0.mlp.lin2.weight",
]


def image_model(path: Path, names: list[str] = THEIRS, wrap: bool = False) -> Path:
    """Write an image model whose n-th entry holds the value n + 1."""
    state = {name: torch.full((2,), index + 1.0) for index, name in enumerate(names)}
    torch.save({"model": state} if wrap else state, path)
    return path


@pytest.mark.parametrize("wrap", [False, True])
def test_import_image_model(wrap, tmp_path) -> None:
    model = Nested(OWN)
    left = import_image_model(model, image_model(tmp_path / "tinysam.pth", wrap=wrap))
    assert set(left) == {OWN[3], OWN[9], OWN[10], OWN[11]}
    values = {name: value[0].item() for name, value in model.state_dict().items()}
    assert [values[name] for name in OWN] == [1, 2, 3, 0, 5, 6, 7, 8, 9, 0, 0, 0]


def test_import_covers_the_published_layout(tmp_path) -> None:
    own = list(json.loads(SHAPES.read_text()))
    new = ("sam_mask_decoder.obj_score_token", "sam_mask_decoder.pred_obj_score_head")
    theirs = [
        re.sub(
            r"^image_encoder.trunk_image|^sam_(?=prompt|mask)", lambda m: "image_encoder" if "." in m[0] else "", name
        )
        .replace("transformer.layers.0.mlp.layers.0", "transformer.layers.0.mlp.lin1")
        .replace("transformer.layers.0.mlp.layers.1", "transformer.layers.0.mlp.lin2")
        .replace("transformer.layers.1.mlp.layers.0", "transformer.layers.1.mlp.lin1")
        .replace("transformer.layers.1.mlp.layers.1", "transformer.layers.1.mlp.lin2")
        for name in own
        if name.startswith(("image_encoder.trunk_image.", "sam_")) and not name.startswith(new)
    ]
    path = image_model(tmp_path / "tinysam.pth", theirs)
    assert inspect_checkpoint(path, expected={}).kind == "tinysam/mobilesam"
    left = import_image_model(Nested(own), path)
    assert {name.split(".")[0] for name in left} == {name.split(".")[0] for name in own} - {"sam_prompt_encoder"}
    assert len(left) == len(own) - len(theirs)


def test_image_model_may_lack_its_classifier(tmp_path) -> None:
    names = [name for name in THEIRS if "head" not in name]
    assert OWN[2] in import_image_model(Nested(OWN), image_model(tmp_path / "tinysam.pth", names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (THEIRS[1:], r"(?s)1 missing: image_encoder.trunk_image.patch_embed.seq.0.c.weight \[2\]$"),
        ([*THEIRS, "adapter.weight"], r"(?s)1 unexpected: adapter.weight \[2\]$"),
        (OWN, "(?s)unexpected.*It looks like a SAM-I2V.. checkpoint: load_checkpoint loads it"),
        (["image_encoder.trunk.x", "sam_mask_decoder.y"], "(?s)missing.*It looks like a SAM 2 checkpoint"),
    ],
)
def test_import_is_strict(names, message, tmp_path) -> None:
    model = Nested(OWN)
    with pytest.raises(CheckpointError, match=message):
        import_image_model(model, image_model(tmp_path / "tinysam.pth", names))
    assert all(not value.any() for value in model.state_dict().values())


def test_import_refuses_other_shapes(tmp_path) -> None:
    path = image_model(tmp_path / "tinysam.pth")
    state = torch.load(path)
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 3)}, path)
    with pytest.raises(CheckpointError, match=r"sam_mask_decoder.iou_token.weight is \[1, 3\] and must be \[2\]"):
        import_image_model(Nested(OWN), path)
