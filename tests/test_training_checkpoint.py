"""Checkpoints of a run: bit-identical resuming, a full disk, signals, and small weights for inference."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from i2vpp.checkpoint import inspect_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import CheckpointError, RunError
from i2vpp.modeling.i2vpp import I2VPP
from training.checkpoint import (
    FILE,
    Learner,
    RunState,
    changed_keys,
    complete_best,
    keep_best,
    load,
    random_state,
    restore,
    save,
)
from training.ema import EMA
from training.export import export_weights
from training.signals import STOP_SIGNALS, SaveClock, outlive_signals, stop_requests

CPU = torch.device("cpu")
CONFIG = "optimizer:\n  learning_rate: 0.001\nrun:\n  max_minutes: 5\n"


def learner(
    *, ema: bool = True, width: int = 8, frozen: bool = False, rate: float = 1e-3, device: torch.device = CPU
) -> Learner:
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1))
    model.to(device)[0].requires_grad_(not frozen)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [{"params": [p], "name": name, "parameters": [name], "lr": rate, "peak": rate} for name, p in named]
    return Learner(
        model=model,
        optimizer=torch.optim.AdamW(groups, fused=device.type == "cuda"),
        ema=EMA(model, 0.99) if ema else None,
    )


def train(run: Learner, steps: int) -> None:
    """Steps that depend on the global generator, through data and dropout."""
    for _ in range(steps):
        run.optimizer.zero_grad()
        run.model(torch.randn(6, 4, device=run.model[0].weight.device)).square().mean().backward()
        run.optimizer.step()
        if run.ema is not None:
            run.ema.update(run.model)


def write(path: Path, run: Learner, state: RunState | None = None, **options: Any) -> None:
    given: dict[str, Any] = {"random_states": [random_state(CPU)], "config": CONFIG, "image_size": 64, **options}
    save(path, run, state or RunState(), **given)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)


def everything(run: Learner) -> list[Tensor]:
    states = [run.model.state_dict(), run.optimizer.state_dict()["state"]]
    states += [] if run.ema is None else [run.ema.shadow]
    return [tensor.clone() for tensor in tensors(dict(enumerate(states)))]


@pytest.mark.parametrize("ema", [True, False])
def test_five_and_five_steps_are_ten_bit_for_bit(tmp_path: Path, ema: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    whole = learner(ema=ema, device=device)
    train(whole, 5)
    state = RunState(step=5, epoch=1, batch=3, best=71.5, minutes=2.5, skipped=1)
    write(tmp_path / FILE, whole, state, random_states=[random_state(device)])
    half = everything(whole)
    train(whole, 5)

    torch.manual_seed(1)
    resumed = learner(ema=ema, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore(load(tmp_path / FILE), resumed, config=CONFIG) == state
    assert all(a.equal(b) for a, b in zip(half, everything(resumed), strict=True))
    train(resumed, 5)
    ours, theirs = everything(resumed), everything(whole)
    assert len(ours) == len(half) > 15
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    assert not all(a.equal(b) for a, b in zip(ours, half, strict=True))


def test_resuming_does_not_write_into_the_file(tmp_path: Path) -> None:
    run = learner()
    train(run, 2)
    write(tmp_path / FILE, run)
    before = (tmp_path / FILE).read_bytes()
    restore(load(tmp_path / FILE), run, config=CONFIG)
    train(run, 2)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_checkpoint_is_an_inference_checkpoint_of_the_average(tmp_path: Path) -> None:
    run = learner()
    train(run, 3)
    weights = everything(run)
    write(tmp_path / FILE, run)
    assert all(a.equal(b) for a, b in zip(weights, everything(run), strict=True))  # the average was put in and out
    other = learner().model
    info = load_checkpoint(other, tmp_path / FILE, image_size=64)
    assert info.image_size == 64
    assert run.ema is not None
    assert all(value.equal(run.ema.shadow[name]) for name, value in other.state_dict().items())
    assert not other[0].weight.equal(run.model[0].weight)


def test_the_average_can_be_switched_on_and_off_between_pieces(tmp_path: Path) -> None:
    averaged, plain = learner(ema=True), learner(ema=False)
    train(averaged, 3)
    write(tmp_path / FILE, averaged)
    restore(load(tmp_path / FILE), plain, config=CONFIG)
    assert plain.model[0].weight.equal(averaged.model[0].weight)

    train(plain, 1)
    write(tmp_path / FILE, plain)
    restore(load(tmp_path / FILE), averaged, config=CONFIG)
    assert averaged.ema is not None and averaged.ema.updates == 0
    assert averaged.ema.shadow["0.weight"].equal(plain.model[0].weight)


def test_learning_rates_are_those_of_the_present_config(tmp_path: Path) -> None:
    run, other = learner(rate=1e-3), learner(rate=2e-3)
    train(run, 1)
    write(tmp_path / FILE, run)
    with pytest.warns(UserWarning, match=r"another config: optimizer\.learning_rate: 0\.001 -> 0\.002$"):
        restore(load(tmp_path / FILE), other, config=CONFIG.replace("0.001", "0.002").replace("5", "9"))
    assert {group["peak"] for group in other.optimizer.param_groups} == {2e-3}
    assert {group["lr"] for group in other.optimizer.param_groups} == {2e-3}


def test_changed_keys_are_listed_but_for_those_without_effect() -> None:
    before = "run: {folder: a, seed: 1}\ncluster: {hours: 3}\ndata: {sources: {}, strides: [1, 2]}\n"
    now = "run: {folder: b, seed: 2}\ncluster: {hours: 4}\ndata: {sources: {x: {kind: sav}}, strides: [1]}\n"
    assert changed_keys(before, now) == [
        "run.seed: 1 -> 2",
        "data.sources: {} -> unset",
        "data.strides: [1, 2] -> [1]",
        "data.sources.x.kind: unset -> sav",
    ]
    assert not changed_keys(before, before)


def test_another_number_of_processes_is_warned_about_by_rank_0(tmp_path: Path) -> None:
    run = learner()
    write(tmp_path / FILE, run, random_states=[random_state(CPU)] * 2)
    saved = load(tmp_path / FILE)
    torch.manual_seed(3)
    own = torch.get_rng_state()
    with pytest.warns(UserWarning, match="written by 2 processes and is resumed by 4: .*not bit-identically"):
        restore(saved, run, config=CONFIG, rank=0, world_size=4)
    assert torch.get_rng_state().equal(own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(saved, run, config=CONFIG, rank=1, world_size=4)


def test_each_rank_gets_its_own_random_state(tmp_path: Path) -> None:
    states = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        states.append(random_state(CPU))
    run = learner()
    write(tmp_path / FILE, run, random_states=states)
    restore(load(tmp_path / FILE), run, config=CONFIG, rank=1, world_size=2)
    assert torch.get_rng_state().equal(states[1]["cpu"])


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with pytest.raises(CheckpointError, match="does not exist"):
        load(path)
    save_checkpoint(learner().model, path, image_size=64)
    with pytest.raises(CheckpointError, match=r"holds weights only, .* start\.checkpoint="):
        load(path)
    save_checkpoint(learner().model, path, image_size=64, extra={"training": {"version": 99}})
    with pytest.raises(CheckpointError, match="training state has version 99, this code reads 1"):
        load(path)
    write(path, learner())
    with pytest.raises(CheckpointError, match=r"0\.weight is \[8, 4\] and must be \[16, 4\]"):
        restore(load(path), learner(width=16), config=CONFIG)
    with pytest.raises(CheckpointError, match=r"other parameters are trained now \(0\.bias, 0\.weight\).*freeze"):
        restore(load(path), learner(frozen=True), config=CONFIG)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let files grow to `limit` bytes: the kernel then refuses writes as on a full disk, in the middle of a file."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.999])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path: Path, share: float) -> None:
    path = tmp_path / FILE
    run = learner(width=4096)
    write(path, run)
    before = path.read_bytes()
    train(run, 1)
    weights = everything(run)
    told = (
        r"checkpoint\.pt could not be saved: File too large \([\d,]+ MB free there\); the file written before is whole"
    )
    with full_disk(int(share * len(before))), pytest.raises(RunError, match=told):
        write(path, run)
    assert path.read_bytes() == before
    assert names_in(tmp_path) == [FILE]
    assert all(a.equal(b) for a, b in zip(weights, everything(run), strict=True))
    write(path, run)
    assert path.read_bytes() != before


def test_a_full_disk_at_the_best_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / FILE, learner(width=4096))
    with full_disk(100_000), pytest.raises(RunError, match=r"best\.pt could not be saved: .*no earlier one"):
        keep_best(tmp_path / FILE)
    assert names_in(tmp_path) == [FILE]


def test_errors_that_are_not_of_the_disk_pass(tmp_path: Path) -> None:
    run = learner(ema=False)
    with pytest.raises(CheckpointError, match="could not be loaded again"):
        write(tmp_path / FILE, run, config=threading.Thread)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    run.model.register_state_dict_pre_hook(fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        write(tmp_path / FILE, run)


def test_what_killed_processes_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / f".{FILE}.12345.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"mine")
    write(tmp_path / FILE, learner())
    assert names_in(tmp_path) == [FILE, "notes.tmp"]


def test_the_best_checkpoint_stays_when_the_run_goes_on(tmp_path: Path) -> None:
    run = learner()
    write(tmp_path / FILE, run, RunState(step=1, best=50.0))
    best = keep_best(tmp_path / FILE)
    write(tmp_path / FILE, run, RunState(step=2, best=50.0))
    assert best == tmp_path / "best.pt"
    assert (load(best).state.step, load(tmp_path / FILE).state.step) == (1, 2)
    write(tmp_path / FILE, run, RunState(step=3, best=60.0))
    keep_best(tmp_path / FILE)
    assert load(best).state.step == 3


@pytest.mark.parametrize("left", ["nothing", "older", "half", "damaged", "temporary"])
def test_a_best_checkpoint_that_was_not_copied_is_made_by_the_next_run(tmp_path: Path, left: str) -> None:
    path, best = tmp_path / FILE, tmp_path / "best.pt"
    run = learner()
    if left in ("older", "half", "damaged"):
        write(path, run, RunState(step=1, best=50.0, best_step=1))
        keep_best(path)
    if left == "half":
        best.write_bytes(best.read_bytes()[:2000])
    elif left == "damaged":
        best.write_bytes(b"no checkpoint")
    elif left == "temporary":
        (tmp_path / ".best.pt.123-0a1b.tmp").write_bytes(b"half")
    state = RunState(step=4, best=60.0, best_step=4)
    write(path, run, state)  # the run is killed here
    complete_best(path, load(path).state)
    assert load(best).state == state
    assert best.read_bytes() == path.read_bytes()
    assert names_in(tmp_path) == ["best.pt", FILE]


def test_only_the_checkpoint_of_the_best_step_becomes_the_best(tmp_path: Path) -> None:
    path = tmp_path / FILE
    for state in (RunState(step=5), RunState(step=5, best=60.0), RunState(step=5, best=60.0, best_step=4)):
        write(path, learner(), state)
        complete_best(path, load(path).state)
        assert names_in(tmp_path) == [FILE], "a later checkpoint scores worse"
    write(path, learner(), RunState(step=5, best=60.0, best_step=5))
    complete_best(path, load(path).state)
    before = (tmp_path / "best.pt").stat().st_mtime_ns
    complete_best(path, load(path).state)
    assert (tmp_path / "best.pt").stat().st_mtime_ns == before, "it is there already"


def test_a_checkpoint_of_before_the_best_step_was_noted_can_be_read(tmp_path: Path) -> None:
    run = learner(ema=False)
    write(tmp_path / FILE, run, RunState(step=3, best=50.0))
    training = dict(read_checkpoint(tmp_path / FILE)["training"])
    training["state"] = {key: value for key, value in training["state"].items() if key != "best_step"}
    save_checkpoint(run.model, tmp_path / FILE, image_size=64, extra={"training": training})
    assert load(tmp_path / FILE).state == RunState(step=3, best=50.0)


@pytest.fixture(scope="module")
def network() -> I2VPP:
    torch.manual_seed(0)
    return I2VPP(ModelConfig(image_size=64))


def test_exported_weights_are_small_and_load_as_float32(tmp_path: Path, network: I2VPP) -> None:
    run = Learner(model=network, optimizer=torch.optim.AdamW(network.parameters()))
    write(tmp_path / FILE, run, image_size=64)
    info = export_weights(tmp_path / FILE, tmp_path / "small.pt", dtype="bf16", card={"licence": "research"})
    assert info.fits
    assert info.size < 40e6
    assert info.image_size == 64
    content = read_checkpoint(tmp_path / "small.pt")
    assert content.keys() == {"model", "meta", "card"}
    assert content["card"] == {"licence": "research"}
    state = content["model"]
    assert state["memory_attention.layers.0.linear1.weight"].dtype == torch.bfloat16
    assert state["memory_attention.layers.0.linear1.bias"].dtype == torch.float32
    assert state["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].dtype == torch.float32
    assert state["image_encoder.trunk_image.patch_embed.seq.0.bn.running_var"].dtype == torch.float32

    loaded = I2VPP(ModelConfig(image_size=64))
    load_checkpoint(loaded, tmp_path / "small.pt", image_size=64)
    originals = network.state_dict()
    for name, value in loaded.state_dict().items():
        original = originals[name]
        assert value.dtype == original.dtype
        torch.testing.assert_close(value, original, rtol=2**-8, atol=0)


def test_a_full_disk_at_an_export(tmp_path: Path, network: I2VPP) -> None:
    save_checkpoint(network, tmp_path / FILE, image_size=64)
    with (
        full_disk(1_000_000),
        pytest.raises(RunError, match=r"small\.pt could not be saved: .*no earlier one\. Make"),
    ):
        export_weights(tmp_path / FILE, tmp_path / "small.pt")
    assert names_in(tmp_path) == [FILE]


def test_weights_that_do_not_fit_a_dtype_are_not_exported(tmp_path: Path, network: I2VPP) -> None:
    with pytest.raises(CheckpointError, match="dtype must be one of float32, bfloat16, float16; got 'int8'"):
        export_weights(tmp_path / FILE, tmp_path / "small.pt", dtype="int8")
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["obj_ptr_tpos_proj.weight"][0, 0] = 1e6
    torch.save({"model": state}, tmp_path / FILE)
    with pytest.raises(
        CheckpointError, match=r"obj_ptr_tpos_proj\.weight is not finite in float16; nothing was written"
    ):
        export_weights(tmp_path / FILE, tmp_path / "small.pt", dtype="fp16")
    assert not (tmp_path / "small.pt").exists()
    assert inspect_checkpoint(tmp_path / FILE).image_size is None


def test_the_save_clock() -> None:
    seconds = 100.0
    clock = SaveClock(2, now=lambda: seconds)
    seconds = 219.0
    assert not clock.due()
    seconds = 220.0
    assert clock.due()
    clock.reset()
    assert not clock.due()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_is_noted_and_the_earlier_handler_comes_back(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"there is no {name} here")
    earlier = signal.getsignal(number)
    with stop_requests() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
    assert signal.getsignal(number) is earlier


def test_other_threads_install_no_handlers() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    seen = []

    def body() -> None:
        with stop_requests() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(earlier, False)]


class Slow(Dataset[int]):
    """Items that take a moment, each telling which process made it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        time.sleep(0.2)
        return os.getpid()


def test_loader_processes_go_on_through_a_signal_to_the_group() -> None:
    loader = iter(DataLoader(Slow(), batch_size=None, num_workers=1, worker_init_fn=outlive_signals))
    worker = int(next(loader))
    assert worker != os.getpid()
    for number in STOP_SIGNALS:
        os.kill(worker, number)
    assert [int(item) for item in loader] == [worker] * 3
