"""The runner of evaluations: every job is made once and whole, whatever happens to processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2vpp.errors import CheckpointError, DataError, RunError
from i2vpp.runs.runner import Outcome, run_jobs
from i2vpp.runs.store import Job, JobRecord, RunStore
from i2vpp.utils.distributed import find_free_port
from runner_jobs import JOBS, SETTINGS, Drawing

REPO = Path(__file__).resolve().parent.parent
NAMES = {job.name for job in JOBS}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return tmp_path / "orders"


@pytest.fixture
def run(out: Path, orders: Path) -> Callable[..., Outcome]:
    def call(**options) -> Outcome:
        return run_jobs(JOBS, Drawing(orders), out, options.pop("settings", SETTINGS), **options)

    return call


def order(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def masks(out: Path) -> dict[str, str]:
    """All files that a run has made, also half-made ones, without its records."""
    files = (path for path in out.rglob("*") if path.is_file())
    named = {path.relative_to(out).as_posix(): path.read_text() for path in files}
    return {name: text for name, text in named.items() if not name.startswith(".run/")}


WHOLE = {f"{job.name}/{t:05d}.png": f"{job.name} {t}" for job in JOBS for t in range(job.frames)}


def begun(orders: Path) -> Counter[str]:
    lines = (orders / "log").read_text().splitlines()
    return Counter(line.split()[1] for line in lines if line.startswith("begin"))


def wait_until(happened: Callable[[], object]) -> None:
    limit = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.02)


# one process


def test_a_run_leaves_whole_jobs_records_and_how_it_was_made(run, out, capfd) -> None:
    outcome = run()
    assert masks(out) == WHOLE
    assert outcome.exit_status == 0 and set(outcome.done) == NAMES and not outcome.failed
    assert "9/9 jobs" in capfd.readouterr().err
    assert outcome.report() == "9 of 9 jobs made: 36 frames, 8.0 frames/s per process, peak memory 1 MiB"
    assert json.loads((out / ".run/units/cat/001.json").read_text()) == {
        "frames": 4, "seconds": 0.5, "peak_memory": 2**20, "device": "", "note": ""
    }  # fmt: skip
    made = json.loads((out / ".run/run.json").read_text())
    assert made["settings"] == {**SETTINGS, "threads": 1}
    assert {"command", "started", "host", "versions"} <= set(made)


def test_the_longest_jobs_come_first(run, orders) -> None:
    run()
    assert [name[-3:] for name in begun(orders)] == ["002"] * 3 + ["001"] * 3 + ["000"] * 3


def test_a_second_start_does_only_what_is_missing(run, out, orders) -> None:
    run()
    (orders / "log").unlink()
    assert set(run().done) == NAMES
    assert not (orders / "log").exists()  # not even the network was set up

    (out / "bear/001/00000.png").rename(out / "bear/moved.png")
    (out / "bear/moved.png").unlink()
    for path in (out / "bear/001").iterdir():
        path.unlink()
    (out / "bear/001").rmdir()  # removed by the user
    (out / ".run/units/cat/000.json").unlink()  # ended between the renaming and the record
    (out / "cat/000/00001.png").write_text("other")
    (out / ".run/units/dog/002.json").unlink()  # ended in the middle
    (out / "dog/002").rename(out / "dog/.002.partial")
    (out / "dog/.002.partial/00000.png").write_text("half")
    run()
    assert set(begun(orders)) == {"bear/001", "cat/000", "dog/002"}
    assert masks(out) == WHOLE


def test_a_run_that_the_first_version_began_goes_on(run, out, orders) -> None:
    """On disk jobs are called units, as they were in the first version; its runs are resumed."""
    records = out / ".run" / "units" / "bear"
    records.mkdir(parents=True)
    made = {"settings": {**SETTINGS, "threads": 1}, "command": ["infer"], "started": "2025-01-01T00:00:00+00:00"}
    (out / ".run" / "run.json").write_text(json.dumps(made))
    record = {"frames": 3, "seconds": 0.5, "peak_memory": 2**20, "device": "", "note": ""}
    (records / "000.json").write_text(json.dumps(record))
    (records / "001.json").write_text(json.dumps({"error": "OSError: no disk", "attempt": "e3"}))
    (out / "bear" / "000").mkdir(parents=True)
    for t in range(3):
        (out / "bear" / "000" / f"{t:05d}.png").write_text(f"bear/000 {t}")
    with pytest.raises(RunError, match='prompt was "gm" and is now "bb"'):
        run(settings={**SETTINGS, "prompt": "bb"})
    assert run().exit_status == 0
    assert begun(orders) == dict.fromkeys(NAMES - {"bear/000"}, 1)
    assert masks(out) == WHOLE


def test_a_job_that_has_nothing_to_do_is_reported_and_leaves_nothing(out) -> None:
    def set_up(index):
        return lambda job, folder, on_frame: JobRecord(frames=0, seconds=0, peak_memory=0, note="never appears")

    outcome = run_jobs(JOBS[:1], set_up, out, SETTINGS)
    assert outcome.exit_status == 0
    assert outcome.report() == "0 of 1 jobs made: 0 frames\nnote: bear/000: never appears"
    assert not masks(out) and not (out / "bear/000").exists()
    assert run_jobs(JOBS[:1], Drawing(out / "unused"), out, SETTINGS).done == outcome.done


# failures


def test_a_failure_is_reported_the_rest_is_done_and_the_next_start_tries_again(run, out, orders) -> None:
    broken = order(orders / "broken/cat/001")
    outcome = run()
    assert outcome.exit_status == 1
    assert outcome.failed == {"cat/001": "DataError: frame 1 of cat/001 is broken"}
    assert outcome.report().splitlines()[-2:] == [
        "1 failed; the same command tries them again:",
        "  cat/001: DataError: frame 1 of cat/001 is broken",
    ]
    assert masks(out) == {name: text for name, text in WHOLE.items() if not name.startswith("cat/001")}
    assert begun(orders)["cat/001"] == 1

    assert run().exit_status == 1
    assert begun(orders)["cat/001"] == 2

    broken.unlink()
    assert run().exit_status == 0
    assert masks(out) == WHOLE


@pytest.mark.parametrize("error", [OSError("no disk"), RuntimeError("out of memory"), ValueError("a value")])
def test_what_may_go_wrong_with_one_job(out, error) -> None:
    def set_up(index):
        def work(job, folder, on_frame):
            raise error

        return work

    outcome = run_jobs(JOBS[:2], set_up, out, SETTINGS)
    assert outcome.failed == dict.fromkeys(("bear/000", "bear/001"), f"{type(error).__name__}: {error}")


def test_a_bug_ends_the_run_and_leaves_nothing_half_made(out) -> None:
    def set_up(index):
        def work(job, folder, on_frame):
            (folder / "00000.png").touch()
            raise TypeError("a bug")

        return work

    with pytest.raises(TypeError, match="a bug"):
        run_jobs(JOBS, set_up, out, SETTINGS)
    assert not masks(out)


def test_a_full_disk_ends_the_run_and_is_no_failure_of_the_job(run, out) -> None:
    def set_up(index):
        def work(job, folder, on_frame):
            raise OSError(errno.ENOSPC, "No space left on device")

        return work

    with pytest.raises(RunError, match=r"out is full .*make room, and the same command goes on"):
        run_jobs(JOBS, set_up, out, SETTINGS)
    assert set(run().done) == NAMES


def test_a_failure_that_a_full_disk_cannot_record_is_named(run, out, monkeypatch) -> None:
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def set_up(index):
        def work(job, folder, on_frame):
            patch.setattr(os, "fsync", full)
            raise DataError("frame 1", "is broken")

        return work

    said = (
        r"bear/002 failed \(DataError: frame 1 is broken\), which cannot be recorded in .*out \(\[Errno 28\] No space "
        r"left on device.*\); when that is mended, the same command goes on"
    )
    with monkeypatch.context() as patch, pytest.raises(RunError, match=said):
        run_jobs(JOBS, set_up, out, SETTINGS)
    assert not masks(out)
    assert set(run().done) == NAMES


def test_errors_of_the_set_up(out) -> None:
    def missing(index):
        raise CheckpointError("no such checkpoint")

    def torch_error(index):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run_jobs(JOBS, missing, out, SETTINGS)
    with pytest.raises(RunError, match="the network cannot be set up: CUDA out of memory"):
        run_jobs(JOBS, torch_error, out, SETTINGS)


# the output folder


def test_other_settings_are_refused_until_they_may_overwrite(run, out, orders) -> None:
    run()
    other = {"prompt": "bb", "model": {"seed": 1}}
    with pytest.raises(RunError) as raised:
        run(settings=other)
    changes = 'prompt was "gm" and is now "bb"; model.seed was 0 and is now 1'
    assert f"{changes}. Name another output folder, or pass --overwrite" in str(raised.value)
    with pytest.raises(RunError, match="threads was 1 and is now 2"):
        run(threads=2)
    with pytest.raises(RunError, match='dtype was not set and is now "float16"'):
        run(settings={**SETTINGS, "dtype": "float16"})
    assert masks(out) == WHOLE

    (out / "bear/notes.txt").write_text("mine")
    run_jobs(JOBS[:1], Drawing(orders), out, other, overwrite=True)
    assert set(masks(out)) == {"bear/notes.txt", *(name for name in WHOLE if name.startswith("bear/000"))}
    assert not (out / "cat").exists()
    assert json.loads((out / ".run/run.json").read_text())["settings"]["prompt"] == "bb"


def test_a_start_that_made_nothing_binds_nobody(run, out, orders) -> None:
    def missing(index):
        raise CheckpointError("no such checkpoint")

    with pytest.raises(CheckpointError):
        run_jobs(JOBS, missing, out, {"device": "cuda"})
    assert run().exit_status == 0


def test_a_folder_with_other_contents_is_left_alone(run, out, tmp_path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("two years")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not empty and was not made by an evaluation"):
            run(overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    with pytest.raises(RunError, match=r"thesis\.txt is a file; name a folder"):
        run_jobs(JOBS, Drawing(tmp_path), out / "thesis.txt", SETTINGS)


def test_nobody_overwrites_what_another_process_is_making(run, out) -> None:
    run()
    with RunStore(out).claim("dog/001") as mine:
        assert mine
        with pytest.raises(RunError, match="another process is making dog/001 there now; end it first"):
            run(overwrite=True)
    assert masks(out) == WHOLE


def test_a_damaged_record_is_named(run, out) -> None:
    run()
    for text in ("{", '{"frame": 1}', "[]"):
        (out / ".run/units/dog/001.json").write_text(text)
        with pytest.raises(RunError, match=r"units/dog/001\.json is damaged .*delete it, and its job is made again"):
            run()
    (out / ".run/run.json").write_text("{}")
    with pytest.raises(RunError, match=r"run\.json is damaged .*or pass --overwrite"):
        run()
    assert run(overwrite=True).exit_status == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "two jobs have one name"),
        (["../a"], r"'\.\./a' cannot name a job"),
        (["/a"], "'/a' cannot name a job"),
        ([".run"], r"'\.run' cannot name a job"),
        (["a", "a/b"], "job a/b would lie in the folder of job a"),
    ],
)
def test_names_that_would_get_into_each_others_way(out, orders, names, message) -> None:
    with pytest.raises(RunError, match=message):
        run_jobs([Job(name=name, frames=1) for name in names], Drawing(orders), out, SETTINGS)
    assert not out.exists()


# several runners


def test_runners_at_once_share_the_jobs_and_wait_for_each_other(run, out, orders) -> None:
    order(orders / "slow")
    order(orders / "broken/bear/000")
    outcomes: list[Outcome] = []
    runners = [threading.Thread(target=lambda: outcomes.append(run())) for _ in range(3)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert [outcome.exit_status for outcome in outcomes] == [1, 1, 1]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    counts = begun(orders)
    assert set(counts) == NAMES and all(counts[name] == 1 for name in NAMES - {"bear/000"})
    assert counts["bear/000"] <= 3  # a runner that starts later cannot know that the failure is new


def test_a_run_may_begin_while_another_runner_looks_at_the_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    listed = Path.iterdir

    def listed_a_moment_later(folder: Path) -> Iterator[Path]:
        (out / ".run").mkdir(exist_ok=True)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", listed_a_moment_later)
    RunStore(out).prepare()


def test_three_processes_make_what_one_makes_though_one_of_them_dies(run, out, orders) -> None:
    order(orders / "slow")
    order(orders / "deadly/cat/002")
    outcome = run(processes=3)
    assert masks(out) == WHOLE
    assert outcome.exit_status == 0
    assert outcome.lost == ["a process was ended by SIGKILL; was there too little memory?"]
    assert "warning: a process was ended by SIGKILL" in outcome.report()
    assert begun(orders) == {**dict.fromkeys(NAMES, 1), "cat/002": 2}
    who = {line.split()[-1] for line in (orders / "log").read_text().splitlines()}
    assert len(who) > 1 and str(os.getpid()) not in who


def test_what_no_process_survives_is_an_error(run, orders) -> None:
    for job in JOBS:
        order(orders / "deadly" / job.name).write_text("always")
    with pytest.raises(RunError, match="no process is left to make 9 of 9 jobs, such as bear/000: a process was ended"):
        run(processes=2)


def test_processes_are_checked(run, monkeypatch) -> None:
    with pytest.raises(RunError, match="processes must be 1 or more"):
        run(processes=0)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="1 under torchrun, which starts them itself; got 2"):
        run(processes=2)


# commands


def start(out: Path, orders: Path, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPO), str(REPO / "tests")])
    return subprocess.Popen(
        [sys.executable, str(REPO / "tests/runner_jobs.py"), str(out), str(orders), str(processes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def nobody_works(out: Path) -> bool:
    for job in JOBS:
        with RunStore(out).claim(job.name) as mine:
            if not mine:
                return False
    return True


def test_killed_twice_and_started_again(run, out, orders) -> None:
    order(orders / "slow")
    for done, processes in ((2, 2), (5, 1)):
        process = start(out, orders, processes)
        wait_until(lambda: len(list((out / ".run/units").rglob("*.json"))) >= done)  # noqa: B023
        process.kill()
        process.communicate()
        wait_until(lambda: nobody_works(out))  # its own processes notice that, and end
        assert len(list((out / ".run/units").rglob("*.json"))) < len(JOBS)
    (orders / "slow").unlink()
    outcome = run()
    assert masks(out) == WHOLE
    assert set(outcome.done) == NAMES


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_ends_all_processes_and_leaves_nothing_half_made(out, orders, number, processes) -> None:
    order(orders / "slow")
    process = start(out, orders, processes)
    wait_until(lambda: list(out.glob("*/.*.partial/*.png")))
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert nobody_works(out)
    assert not list(out.glob("*/.*.partial"))


def test_ranks_of_torchrun_share_the_jobs_and_only_rank_0_says_that_one_failed(out, orders) -> None:
    order(orders / "slow")
    order(orders / "broken/dog/002")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port()), "WORLD_SIZE": "2"}
    ranks = [start(out, orders, RANK=str(rank), LOCAL_RANK=str(rank), **address) for rank in (0, 1)]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 0], said
    assert "8 of 9 jobs made" in said[0][0] and "dog/002: DataError" in said[0][0]
    assert "9/9 jobs" in said[0][1]
    assert said[1][0] == "" and "jobs" not in said[1][1]
    assert begun(orders) == dict.fromkeys(NAMES, 1)
    setups = {line.split()[1] for line in (orders / "log").read_text().splitlines() if line.startswith("set-up")}
    assert setups == {"0", "1"}  # each with its own GPU

    (out / ".run/run.json").write_text("{}")
    address["MASTER_PORT"] = str(find_free_port())
    ranks = [start(out, orders, RANK=str(rank), LOCAL_RANK=str(rank), **address) for rank in (0, 1)]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert said[0][1].startswith("error: ") and "is damaged" in said[0][1]
    assert "error" not in said[1][1]
