"""Checkpoints that are damaged or whose values no network can have: refused in one line, or loaded exactly."""

from __future__ import annotations

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from i2vpp.checkpoint import inspect_checkpoint, load_checkpoint, load_parts, read_checkpoint, save_checkpoint
from i2vpp.errors import CheckpointError
from i2vpp.weights.checks import content_hash
from i2vpp.weights.formats import write_content

CARD = {"card": {"licence": "research only", "data": "café"}}
REGIONS = ("local headers", "pickle", "data", "central directory", "anywhere")


class Network(nn.Module):
    """A stand-in with an integer buffer, as BatchNorm has."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 40), nn.BatchNorm1d(40))
        self.head = nn.Linear(40, 1)


def network() -> Network:
    """The same weights every time; none is 0, so that zeroed values differ from them."""
    torch.manual_seed(0)
    made = Network()
    for value in made.state_dict().values():
        value.copy_(torch.arange(1, value.numel() + 1).view(value.shape) if value.is_floating_point() else 7)
    return made


def state() -> dict[str, Tensor]:
    return network().state_dict()


def write(path: Path, form: str) -> bytes:
    """Write `network()` as others do ("theirs") or as we do; return the file's bytes."""
    if form == "theirs":
        torch.save({"model": state(), "meta": {"image_size": 512}}, path)
    elif form == "safetensors of others":
        safetensors.torch.save_file(state(), path)
    else:
        save_checkpoint(network(), path, image_size=512, extra=CARD)
    return path.read_bytes()


def region(content: bytes, name: str, rng: random.Random) -> tuple[int, int]:
    """First and last byte of a part of a zip archive of torch.save."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records, directory = archive.infolist(), archive.start_dir
    starts = [record.header_offset for record in records] + [directory]
    if name == "central directory":
        return directory, len(content)
    if name == "anywhere":
        return 0, len(content)
    wanted = [index for index, record in enumerate(records) if ("/data/" in record.filename) == (name == "data")]
    index = 0 if name == "pickle" else rng.choice(wanted if name == "data" else range(len(records)))
    start = starts[index]
    names, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    body = start + 30 + names + extra
    return (start, body) if name == "local headers" else (body, starts[index + 1])


def damages(content: bytes, name: str, seeds: range) -> Iterator[tuple[str, bytes]]:
    """Yield flipped bits and bytes, zeroed and overwritten stretches, lost and doubled bytes, and cut-off files."""
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        low, high = region(content, name, rng) if content.startswith(b"PK") else (0, len(content))
        place = rng.randrange(low, high)
        end = min(high, place + rng.choice([1, 2, 7, 30, 200, len(content) // 3]))
        kind = ("bit", "byte", "zeros", "ones", "cut", "lost", "doubled")[seed % 7]
        changed = bytearray(content)
        if kind == "bit":
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            changed[place] ^= rng.randrange(1, 256)
        elif kind in ("zeros", "ones"):
            changed[place:end] = (b"\0" if kind == "zeros" else b"\xff") * (end - place)
        elif kind == "cut":
            del changed[place:]
        elif kind == "lost":
            del changed[place:end]
        else:
            changed[place:place] = content[place:end]
        if changed != content:
            yield f"{kind}, {name}, {place} to {end}", bytes(changed)


def refused(path: Path, message: str, load: Callable[..., object] = load_checkpoint) -> str:
    """Check that loading fails with one line that names the file, and leaves the model alone; return the line."""
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load(model, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(caught.value)


# ---- damaged bytes


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("form", ["ours", "theirs"])
def test_damage_is_refused_or_harmless(form: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    good, expected = write(path, form), state()
    refusals, harmless = 0, 0
    for what, changed in damages(good, name, range(210)):
        path.write_bytes(changed)
        model = Network()
        try:
            info = load_checkpoint(model, path)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error), what
            refusals += 1
        else:
            found = model.state_dict()
            assert all(torch.equal(found[entry], value) for entry, value in expected.items()), what
            assert info.image_size == 512, what
            harmless += 1
    assert refusals > (20 if name == "local headers" else 100)  # padding and doubled headers may be anything
    assert harmless or name in ("pickle", "data")


@pytest.mark.filterwarnings("error")
def test_damaged_safetensors_are_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    good, expected, refusals = write(path, "ours"), state(), 0
    for what, changed in damages(good, "anywhere", range(700)):
        path.write_bytes(changed)
        model = Network()
        try:
            info = load_checkpoint(model, path)
        except CheckpointError as error:
            assert str(path) in str(error) and "\n" not in str(error).replace("\\n", ""), what
            refusals += 1
        else:
            found = model.state_dict()
            assert all(torch.equal(found[entry], value) for entry, value in expected.items()), what
            assert (info.image_size, info.card) == (512, CARD["card"]), what
    assert refusals > 600


@pytest.mark.parametrize("entry", ["encoder.0.weight", "encoder.1.running_var", "encoder.1.num_batches_tracked"])
@pytest.mark.parametrize("form", ["ours", "theirs"])
def test_a_damaged_entry_is_named(form: str, entry: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    good = write(path, form)
    record = list(state()).index(entry)
    with zipfile.ZipFile(path) as archive:
        (info,) = (info for info in archive.infolist() if info.filename.endswith(f"/data/{record}"))
        value = archive.read(info)
    place = good.index(value, info.header_offset)
    path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
    refused(path, f"is damaged: entry {entry} \\(record '.*/data/{record}'\\) does not match its checksum")


def test_what_is_left_of_a_zeroed_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    good = write(path, "theirs")
    third = len(good) // 3
    path.write_bytes(good[:third] + bytes(third) + good[2 * third :])
    refused(path, r"is damaged: .* and \d+ more does not match its checksum")
    path.write_bytes(bytes(len(good)))
    refused(path, "is not a PyTorch checkpoint")


def rezip(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    """Write the records of an archive anew, with checksums that are right."""
    with zipfile.ZipFile(path) as archive:
        records = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in records:
            change(archive, info, content)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    """Mapped into memory, they would be taken for the values."""
    path = tmp_path / "mine.pt"
    write(path, "theirs")
    rezip(path, lambda archive, info, content: archive.writestr(info.filename, content, zipfile.ZIP_DEFLATED))
    refused(path, "is not as torch.save writes it: its record 'mine/data.pkl' is compressed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    write(path, "theirs")

    def twice(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        archive.writestr(info.filename, content)
        if info.filename.endswith("data/0"):
            archive.writestr(info.filename, bytes(len(content)))

    rezip(path, twice)
    refused(path, "is cut off or damaged")


def test_what_was_changed_with_right_checksums_is_noticed_in_our_files(tmp_path: Path) -> None:
    def double(archive: zipfile.ZipFile, info: zipfile.ZipInfo, content: bytes) -> None:
        info.extra = b""
        archive.writestr(info, content[::-1] if info.filename.endswith("data/2") else content)

    path = tmp_path / "mine.pt"
    write(path, "ours")
    rezip(path, double)
    refused(path, r"is damaged or was changed: its content does not match the SHA-256 .* \(meta.sha256\)")


def test_the_hash_depends_on_all_that_counts_and_on_nothing_else() -> None:
    def of(weights: dict[str, Tensor], size: int = 512, card: Any = CARD["card"]) -> str:
        return content_hash(weights, {"meta": {"image_size": size, "format": 1}, "card": card})

    first = of(state())
    assert first == of(dict(reversed(state().items())))
    assert first == of({name: value.clone().to_sparse().to_dense() for name, value in state().items()})
    others = [
        of(state(), 256),
        of(state(), card={"licence": "any"}),
        of({name: value.double() if "head" in name else value for name, value in state().items()}),
        of({name: value.reshape(-1) for name, value in state().items()}),
        of({name.replace("head", "tail"): value for name, value in state().items()}),
        of({name: value + 1 for name, value in state().items()}),
    ]
    assert len({first, *others}) == 7


def test_files_without_a_checksum_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, "safetensors of others")
    model = Network()
    with pytest.warns(UserWarning, match="has no checksum, so that damaged weights in it would not be noticed"):
        assert load_checkpoint(model, path).checked == "none"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state().items())


def test_an_old_file_with_something_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + b"x")
    refused(path, "goes on after its last tensor")


# ---- values


def changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {entry: change(value) if entry == name else value for entry, value in state().items()}


def put(number: float) -> Callable[[Tensor], Tensor]:
    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value.view(-1)[-1] = number
        return value

    return change


WEIGHT, COUNT = "encoder.0.weight", "encoder.1.num_batches_tracked"


@pytest.mark.parametrize("load", [load_checkpoint, load_parts])
@pytest.mark.parametrize("wrap", [True, False], ids=["under model", "bare"])
@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (WEIGHT, put(float("nan")), "has values that are not finite in float32"),
        (WEIGHT, put(float("inf")), r"has values that are not finite in float32 \(from 1 to inf\)"),
        ("encoder.1.running_var", put(-float("inf")), "has values that are not finite in float32"),
        (WEIGHT, lambda value: put(float("nan"))(value.bfloat16()), "has values that are not finite in float32"),
        (WEIGHT, lambda value: put(float("inf"))(value.half()), "has values that are not finite in float32"),
        (
            WEIGHT,
            lambda value: put(1e300)(value.double()),
            r"has values that are not finite in float32 \(from 1 to 1e\+300\)",
        ),
        (WEIGHT, lambda value: value.to(torch.int8), "is int8; weights must be float32, bfloat16, float16, float64"),
        (WEIGHT, lambda value: value.to(torch.uint8), "is uint8"),
        (WEIGHT, lambda value: value > 3, "is bool"),
        (WEIGHT, lambda value: value.to(torch.complex64), "is complex64"),
        (WEIGHT, lambda value: value.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        (WEIGHT, lambda value: value.long(), "is int64 where the network has float32"),
        (COUNT, lambda value: value.float(), "is float32 where the network has int64"),
        (COUNT, lambda value: value > 3, "is bool"),
        (WEIGHT, lambda value: value.to_sparse(), "is a sparse_coo tensor; weights must be dense"),
        (WEIGHT, lambda value: value.to_sparse_csr(), "is a sparse_csr tensor; weights must be dense"),
        (WEIGHT, lambda value: torch.empty_like(value, device="meta"), r"holds no values \(a meta tensor\)"),
        (WEIGHT, lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is qint8"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about sparse and quantised tensors
def test_values_that_weights_cannot_have(
    name: str, change: Callable[[Tensor], Tensor], problem: str, wrap: bool, load: Callable[..., object], tmp_path: Path
) -> None:
    path = tmp_path / "mine.pt"
    content = changed(name, change)
    torch.save({"model": content} if wrap else content, path)
    refused(path, f"entry {name} {problem}", load)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_all_floating_point_weights_load(dtype: torch.dtype, tmp_path: Path) -> None:
    for path in (tmp_path / "mine.pt", tmp_path / "mine.safetensors"):
        save_checkpoint(network().to(dtype), path, image_size=64)
        model = Network()
        assert load_checkpoint(model, path).dtypes[str(dtype).removeprefix("torch.")] == 8
        assert all(torch.equal(value, state()[name]) for name, value in model.state_dict().items())


def test_an_inspected_file_with_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(changed(WEIGHT, put(float("nan"))), path)
    with pytest.raises(CheckpointError, match=f"entry {WEIGHT} has values that are not finite"):
        inspect_checkpoint(path, {name: tuple(value.shape) for name, value in state().items()})


SIZES = [160000, 4112, 0, -512, 48, 500, 512.0, "512", True, float("nan"), [512], {"a": 1}, 2**70, 16**500, b"512"]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{type(size).__name__} {str(size)[:8]}")
def test_sizes_that_no_network_has(size: object, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"model": state(), "meta": {"image_size": size}}, path)
    message = refused(path, "its entry meta.image_size must be an integer, a multiple of 16, from 64 to 4096; got ")
    assert len(message) < 400


@pytest.mark.parametrize("size", [160000, 0, 100, "512", 512.0], ids=repr)
def test_such_sizes_are_not_written(size: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"meta\.image_size must be an integer"):
        save_checkpoint(network(), tmp_path / "mine.pt", image_size=size)
    assert not list(tmp_path.iterdir())


def test_a_size_of_numpy_is_written_as_an_integer(tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path / "mine.pt", image_size=np.int64(512))  # type: ignore[arg-type]
    assert inspect_checkpoint(tmp_path / "mine.pt", expected={}).image_size == 512


@pytest.mark.parametrize(
    "card", [{"path": Path("x")}, {"a": "\ud800"}, "text", [1]], ids=["path", "surrogate", "text", "list"]
)
def test_a_card_that_is_no_text_is_not_written(card: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be text by heading|was not saved"):
        save_checkpoint(network(), tmp_path / "model.safetensors", image_size=64, extra={"card": card})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", [2, 0, -1, True, 1.0, "1", None, [1]])
def test_formats_of_the_future(version: object, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"model": state(), "meta": {"format": version}}, path)
    refused(path, f"has format {version!r}; this version of i2vpp reads up to 1".replace("[", "\\["))


def test_a_small_file_cannot_keep_the_hash_busy(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save({"model": {"a": torch.zeros(1).expand(10**15)}, "meta": {"sha256": "0"}}, path)
    refused(path, "entry a repeats stored values")


# ---- safetensors


def test_safetensors_there_and_back(tmp_path: Path) -> None:
    first, second = tmp_path / "new/model.safetensors", tmp_path / "mine.pt"
    save_checkpoint(network(), first, image_size=512, extra=CARD)
    with safetensors.safe_open(first, "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == state().keys()
    assert metadata["format"] == "pt"
    assert json.loads(metadata["card"]) == CARD["card"]
    assert "café" in metadata["card"]
    save_checkpoint(network(), second, image_size=512, extra=CARD)
    one, two = read_checkpoint(first), read_checkpoint(second)
    assert (one["meta"], one["card"]) == (two["meta"], two["card"])
    for path, checked in ((first, "SHA-256"), (second, "CRC-32, SHA-256")):
        model = Network()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            info = load_checkpoint(model, path)
        assert all(torch.equal(value, state()[name]) for name, value in model.state_dict().items())
        assert (info.image_size, info.card, info.checked) == (512, CARD["card"], checked)


def test_shared_and_strided_entries_are_written_as_they_are(tmp_path: Path) -> None:
    model = network()
    model.register_buffer("again", model.encoder[0].bias.detach())
    model.encoder[0].weight.data = model.encoder[0].weight.data.t().contiguous().t()
    save_checkpoint(model, tmp_path / "model.safetensors", image_size=64)
    found = read_checkpoint(tmp_path / "model.safetensors")["model"]
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_a_safetensors_file_holds_no_training(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"holds weights and a card only, not 'training'; save it as \.pt"):
        save_checkpoint(network(), path, image_size=64, extra={"training": {"step": 3}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"meta": "nonsense"}, "its metadata 'meta' must be a JSON object; got 'nonsense'"),
        ({"meta": "[" * 100_000}, "its metadata 'meta' must be a JSON object; got"),
        ({"meta": "9" * 5000}, "its metadata 'meta' must be a JSON object; got"),
        ({"card": "{}"}, "is damaged: its metadata lacks what i2vpp writes"),
        ({"meta": '{"image_size": 64}', "card": "{}"}, "is damaged: its metadata lacks what i2vpp writes"),
        ({"meta": '{"image_size": 160000, "sha256": ""}'}, "meta.image_size must be"),
        ({"meta": '{"sha256": "0"}'}, "does not match the SHA-256"),
    ],
)
def test_metadata_that_cannot_be_ours(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state(), path, metadata)
    refused(path, message)


@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(100), b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}more", b"<html></html>"]
)
def test_what_is_no_safetensors_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, "is cut off, damaged or no safetensors file" if content else "is empty")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to write to")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_full_disk_is_an_error_of_the_system(suffix: str) -> None:
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
        write_content(file, {"model": state(), "meta": {}}, suffix=suffix)
