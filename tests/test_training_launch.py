"""Launching: ranks and what they tell each other, plans, the command, cluster jobs, and the two shell scripts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from i2vpp.errors import ConfigError, RunError
from i2vpp.utils.distributed import (
    Ranks,
    all_agree,
    any_rank,
    broadcast_object,
    check_port_free,
    find_free_port,
    gather_objects,
    process_group,
    sum_over_ranks,
)
from training.config import TrainConfig
from training.launch import ClusterJob, Plan, describe, launch, plan_launch
from training.recipes import load_recipe
from training.train import main

REPO = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, "NODES", "NODE_RANK", "GPUS", "CONFIG", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)


def smoke(folder: Path, *overrides: str) -> TrainConfig:
    return load_recipe("i2vpp-smoke", [f"run.folder='{folder}'", *overrides])


def wait_for(*files: Path) -> None:
    limit = time.monotonic() + 300
    while not all(file.exists() for file in files):
        assert time.monotonic() < limit, f"{files} did not appear"
        time.sleep(0.02)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


# ranks


def test_ranks_come_from_the_environment(monkeypatch) -> None:
    assert Ranks.from_environment() == Ranks(rank=0, local_rank=0, world_size=1)
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    ranks = Ranks.from_environment()
    assert ranks == Ranks(rank=5, local_rank=1, world_size=8)
    assert not ranks.is_main and Ranks().is_main


@pytest.mark.parametrize(
    "said",
    [
        {"RANK": "0"},
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "two"},
        {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
    ],
)
def test_half_an_environment_is_refused(said, monkeypatch) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="as torchrun sets them"):
        Ranks.from_environment()


def test_alone_there_is_nobody_to_talk_to() -> None:
    with process_group(Ranks(), CPU):
        assert all_agree(True, CPU) and not all_agree(False, CPU)
        assert any_rank(True, CPU) and not any_rank(False, CPU)
        assert sum_over_ranks(torch.ones(2)).tolist() == [1, 1]
        assert broadcast_object("x") == "x" and gather_objects("x") == ["x"]


def test_several_processes_need_an_address() -> None:
    with pytest.raises(RunError, match="MASTER_ADDR"), process_group(Ranks(world_size=2), CPU):
        pass


def test_a_port_in_use() -> None:
    check_port_free(find_free_port())
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} cannot be used .*MASTER_PORT"):
            check_port_free(port)
    with pytest.raises(RunError, match="port 70000 cannot be used"):
        check_port_free(70000)


# processes of this machine


def test_two_processes_talk_and_get_the_signal_of_their_parent(tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        wait_for(tmp_path / "ready0", tmp_path / "ready1")
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop):
        plan = Plan(mode="spawn", processes=2)
        assert launch(smoke(tmp_path), plan, target="launch_targets:talk") == 0
    assert signal.getsignal(signal.SIGTERM) == before
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == {
            "all_agree": [True, False, False],
            "any_rank": [True, True, False],
            "sum": [2, 1],
            "mine": [1, rank],
            "broadcast": {"from": 0},
            "gathered": ["rank 0", "rank 1"],
            "stopped": [signal.SIGTERM],
        }


def test_an_error_of_several_processes_is_said_once(tmp_path, capfd) -> None:
    arguments = ["-c", "i2vpp-smoke", "--num-gpus", "2", f"run.folder='{tmp_path}'"]
    assert main(arguments, target="launch_targets:find_nothing") == 1
    said = capfd.readouterr().err
    assert said.count(f"error: nothing in {tmp_path}\n") == 1
    assert "Traceback" not in said


# plans and the command


def test_one_process_runs_here(tmp_path) -> None:
    assert main(["-c", "i2vpp-smoke", f"run.folder='{tmp_path}'"], target="launch_targets:note") == 0
    assert json.loads((tmp_path / "rank0.json").read_text()) == [0, 0, 1]


def test_under_torchrun_the_process_takes_its_rank(tmp_path, monkeypatch) -> None:
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    config = smoke(tmp_path)
    ranks = Ranks(rank=3, local_rank=1, world_size=4)
    assert plan_launch(config) == Plan(mode="torchrun", nodes=2, processes=2, ranks=ranks)
    assert "torchrun: rank 3 of 4" in describe(config, plan_launch(config))
    assert main(["-c", "i2vpp-smoke", f"run.folder='{tmp_path}'"], target="launch_targets:note") == 0
    assert json.loads((tmp_path / "rank3.json").read_text()) == [3, 1, 4]


def test_of_the_processes_of_a_machine_one_says_what_is_wrong(monkeypatch, capsys) -> None:
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["-c", "i2vpp-smok"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["-c", "i2vpp-smok"]) == 2
    assert capsys.readouterr().err.startswith("error on rank 2: recipe 'i2vpp-smok'")


def test_options_win_over_the_recipe_wherever_they_stand(tmp_path, capsys) -> None:
    folder = f"run.folder='{tmp_path}'"
    arguments = ["run.epochs=3", "--num-gpus", "3", "-c", "i2vpp-smoke", folder, "--use-cluster", "0", "--dry-run"]
    assert main([*arguments, "cluster.num_gpus=2", "cluster.use_cluster=true"]) == 0
    said = capsys.readouterr().out
    assert "3 processes on this machine" in said
    assert "3 epochs, at most 20 steps" in said


def test_options_have_the_names_that_they_have_in_other_commands(tmp_path, capsys) -> None:
    arguments = ["-c", "i2vpp-smoke", f"run.folder='{tmp_path}'", "--override", "run.epochs=3", "--processes", "2"]
    assert main([*arguments, "--device", "cpu", "--dtype", "bfloat16", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 processes on this machine" in said and "bfloat16 on cpu" in said and "3 epochs" in said
    assert main([*arguments, "--overide", "run.epochs=3"]) == 2
    assert "did you mean '--override'?" in capsys.readouterr().err


def test_a_dry_run_says_what_would_run(tmp_path, capsys) -> None:
    port = find_free_port()
    arguments = ["-c", "i2vpp-smoke", "--num-gpus", "2", "--port", str(port), f"run.folder='{tmp_path / 'x'}'"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    for part in (f"2 processes on this machine, port {port}", "64 px", "scratch", "procedural", str(tmp_path / "x")):
        assert part in said
    assert not (tmp_path / "x").exists()


def test_a_dry_run_says_what_would_stop_it(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("I2VPP_DATA", str(tmp_path))
    assert main(["-c", "i2vpp-train", "run.device=cpu", "start.image_model=nowhere.pth", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "8 processes" in said.out and "sav_train" in said.out
    assert "error: checkpoint nowhere.pth does not exist" in said.err
    assert said.err.count("error: data.sources.sav: ") == said.err.count("error: data.sources.sa1b: ") == 1


WRONG = [
    (["-c", "i2vpp-smok"], "did you mean 'i2vpp-smoke'?"),
    (["-c", "i2vpp-smoke", "run.epoch=3"], "did you mean 'run.epochs'?"),
    (["-c", "i2vpp-smoke", "--num-gpus", "-1"], "cluster.num_gpus must be a number and not negative"),
    (["-c", "i2vpp-smoke", "run.device=cuda", "--num-gpus", "999"], "999 GPUs are asked for, but PyTorch sees"),
    (["-c", "i2vpp-smoke", "run.device=mps", "--num-gpus", "2"], "run.device=mps is one device"),
    (["-c", "i2vpp-smoke", "--num-nodes", "2"], "multi_node_train_4_nodes.sh"),
    (["-c", "i2vpp-smoke", "--use-cluster", "1", "run.device=auto"], "--num-gpus N"),
    (["-c", "i2vpp-smoke", "--use-cluster", "1", "--cluster", "local", "--num-nodes", "2"], "has one machine"),
    (["-c", "i2vpp-smoke", "start.heads=nowhere.pt"], "nowhere.pt does not exist"),
    (["-c", "i2vpp-smoke", "--use-cluster", "2"], "invalid choice"),
    (["run.epochs=3"], "the following arguments are required: -c/--config"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_is_wrong_is_said_before_anything_starts(arguments, said, capsys) -> None:
    assert main(arguments, target="launch_targets:note") == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_the_command_checks_its_port(monkeypatch, capsys) -> None:
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        monkeypatch.setenv("MASTER_PORT", str(busy.getsockname()[1]))
        assert main(["-c", "i2vpp-smoke", "--num-gpus", "2"]) == 2
    assert "cannot be used" in capsys.readouterr().err
    monkeypatch.setenv("MASTER_PORT", "http")
    with pytest.raises(ConfigError, match="MASTER_PORT must be a port from 1 to 65535; got 'http'"):
        plan_launch(load_recipe("i2vpp-smoke", ["cluster.num_gpus=2"]))


def test_a_run_that_fails_has_another_status_than_a_wrong_command(tmp_path, capsys) -> None:
    assert main(["-c", "i2vpp-smoke", f"run.folder='{tmp_path}'"], target="launch_targets:find_nothing") == 1
    assert capsys.readouterr().err == f"error: nothing in {tmp_path}\n"


# cluster jobs


def test_a_cluster_job_runs_in_the_debug_executor(tmp_path) -> None:
    pytest.importorskip("submitit")
    options = ["--use-cluster", "1", "--cluster", "debug", f"run.folder='{tmp_path}'"]
    assert main(["-c", "i2vpp-smoke", *options], target="launch_targets:note") == 0
    assert json.loads((tmp_path / "rank0.json").read_text()) == [0, 0, 1]


def test_a_cluster_job_is_replaced_by_itself(tmp_path) -> None:
    pytest.importorskip("submitit")
    job = ClusterJob(config=smoke(tmp_path))
    assert job.checkpoint().function == job


@pytest.mark.timeout(600)
def test_an_interrupted_cluster_job_saves_and_is_requeued(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPO), str(REPO / "tests")]))

    def interrupt() -> None:
        wait_for(tmp_path / "pid")
        time.sleep(0.1)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)

    options = ["--use-cluster", "1", "--cluster", "local", f"run.folder='{tmp_path}'"]
    with meanwhile(interrupt):
        assert main(["-c", "i2vpp-smoke", *options], target="launch_targets:stop_once") == 0
    assert (tmp_path / "saved").exists() and (tmp_path / "resumed").exists()
    assert f"log of rank 0: {tmp_path / 'jobs'}" in capsys.readouterr().out


def test_without_slurm_a_submission_says_so(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("submitit")
    if shutil.which("srun"):
        pytest.skip("SLURM is here")
    assert main(["-c", "i2vpp-smoke", "--use-cluster", "1", f"run.folder='{tmp_path}'"]) == 1
    assert "could not be submitted" in capsys.readouterr().err


# the two scripts


def script(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("dash") or "sh", str(REPO / name), *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["train.sh", "multi_node_train_4_nodes.sh"])
def test_the_scripts_are_plain_sh(name) -> None:
    assert (REPO / name).read_text().startswith("#!/bin/sh\n")
    subprocess.run([shutil.which("dash") or "sh", "-n", str(REPO / name)], check=True)


def test_train_sh_prints_its_command(tmp_path) -> None:
    done = script("train.sh", "run.epochs=3", "--dry-run", "run.folder='my runs'", cwd=tmp_path, GPUS="4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *(sys.executable, "-m", "training.train", "-c", "configs/i2vpp-train.yaml"),
        *("--use-cluster", "0", "--num-nodes", "1", "--num-gpus", "4", "run.epochs=3"),
        *(r"'run.folder='\''my", r"runs'\'''"),
    ]


def test_train_sh_works_from_any_folder(tmp_path) -> None:
    folder = f"run.folder='{tmp_path}'"
    command = script("train.sh", "--dry-run", folder, cwd=tmp_path, GPUS="2", CONFIG="i2vpp-smoke").stdout.strip()
    plan = subprocess.run(f"{command} --dry-run", shell=True, cwd=REPO, capture_output=True, text=True, check=False)
    assert plan.returncode == 0, plan.stderr
    assert "2 processes on this machine" in plan.stdout and str(tmp_path) in plan.stdout


def test_the_multi_node_script_prints_its_command(tmp_path) -> None:
    name = "multi_node_train_4_nodes.sh"
    done = script(name, "--dry-run", "run.epochs=3", cwd=tmp_path, NODE_RANK="2", MASTER_ADDR="first")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "4", "--node-rank", "2", "--nproc-per-node", "8"),
        *("--master-addr", "first", "--master-port", "29500", "-m", "training.train"),
        *("-c", "configs/i2vpp-train-32gpu.yaml", "run.epochs=3"),
    ]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"NODE_RANK": "0"}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": "first"}, "NODE_RANK is not set"),
        ({"MASTER_ADDR": "first", "NODE_RANK": "4"}, "NODE_RANK must be a number from 0 to 3; got '4'"),
        ({"MASTER_ADDR": "first", "NODE_RANK": "a"}, "NODE_RANK must be a number from 0 to 3; got 'a'"),
    ],
)
def test_the_multi_node_script_says_what_it_lacks(environment, said, tmp_path) -> None:
    done = script("multi_node_train_4_nodes.sh", cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert said in done.stderr and "usage: NODE_RANK=" in done.stderr


def test_under_slurm_the_multi_node_script_asks_slurm(tmp_path) -> None:
    scontrol = tmp_path / "scontrol"  # prints the machines of a job, one a line
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_NODEID": "1"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = script("multi_node_train_4_nodes.sh", "--dry-run", cwd=tmp_path, PATH=path, **slurm)
    assert "--nnodes 2 --node-rank 1" in done.stdout and "--master-addr node1" in done.stdout
