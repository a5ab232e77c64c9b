"""SA-V's PNG masks turned into one file per object."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import REPO
from data_files import HEIGHT, SQUARE, WIDTH, write_mask
from test_pvs.mask_info import read_mask_info
from tools import save_gt_mask

EMPTY = np.zeros_like(SQUARE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Make two videos: in the first, object 001 appears late and is then not annotated, 000 is there throughout."""
    data = tmp_path / "sav_test"
    masks = data / "Annotations_6fps"
    for frame in (0, 4, 8):
        write_mask(masks / "sav_1" / "000" / f"{frame:05d}.png", SQUARE, "L")
    write_mask(masks / "sav_1" / "001" / "00000.png", EMPTY)
    write_mask(masks / "sav_1" / "001" / "00004.png", ~SQUARE * 255, "L")
    write_mask(masks / "sav_2" / "003" / "00000.png", SQUARE)
    return data


def run(*arguments: object) -> int:
    return save_gt_mask.main([*map(str, arguments), "--processes", "1"])


def test_one_file_per_object_with_zero_masks_where_it_is_missing(data, capsys):
    assert run("--data", data) == 0
    output = data / "mask_info"
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert files == ["sav_1/000.npy", "sav_1/001.npy", "sav_2/003.npy"]
    found = read_mask_info(output / "sav_1" / "001.npy")
    assert list(found) == [0, 4, 8]
    for frame_idx, mask in ((0, EMPTY), (4, ~SQUARE), (8, EMPTY)):
        np.testing.assert_array_equal(found[frame_idx], mask)
    assert all(mask.sum() == SQUARE.sum() for mask in read_mask_info(output / "sav_1" / "000.npy").values())
    assert "3 objects written, 0 were there already" in capsys.readouterr().out


def test_a_second_run_goes_on_where_the_first_stopped(data, tmp_path, capsys):
    output = tmp_path / "out"
    (output / "sav_1").mkdir(parents=True)
    (output / "sav_1" / "000.npy").write_text("kept")
    for name in (".001.npy.partial", ".001.npy.17-0badcafe.tmp"):
        (output / "sav_1" / name).write_text("interrupted")
    assert run("--annotations", data / "Annotations_6fps", "--output", output) == 0
    assert (output / "sav_1" / "000.npy").read_text() == "kept"
    assert sorted(path.name for path in (output / "sav_1").iterdir()) == ["000.npy", "001.npy"]
    assert "2 objects written, 1 were there already" in capsys.readouterr().out


def test_objects_that_cannot_be_read_are_listed_and_the_others_done(data, capsys):
    masks = data / "Annotations_6fps"
    write_mask(masks / "sav_1" / "001" / "00004.png", np.ones((HEIGHT + 1, WIDTH)))
    (masks / "sav_2" / "003" / "00004.png").write_bytes(b"no picture")
    (masks / "sav_3" / "000").mkdir(parents=True)
    assert run("--data", data) == 1
    said = capsys.readouterr()
    assert "1 objects written" in said.out
    assert "error: not written: 3 objects" in said.err
    assert f"mask {masks}/sav_1/001/00004.png is 8 x 7 pixels, but its image" in said.err
    assert f"cannot read the mask {masks}/sav_2/003/00004.png" in said.err
    assert f"the folder {masks}/sav_3/000 holds no mask" in said.err
    assert not (data / "mask_info" / "sav_2" / "003.npy").exists()
    (masks / "sav_2" / "003" / "00004.png").unlink()
    assert run("--data", data) == 1
    assert "1 objects written, 1 were there already" in capsys.readouterr().out


def test_frames_need_numbers(data, capsys):
    write_mask(data / "Annotations_6fps" / "sav_2" / "003" / "first.png", SQUARE)
    assert run("--data", data) == 1
    assert "must be named by the frame's index, such as 00004.png; got first.png" in capsys.readouterr().err


def test_folders_that_are_not_there(tmp_path, capsys):
    assert run("--data", tmp_path) == 1
    assert f"error: the folder of annotations, {tmp_path}/Annotations_6fps, does not exist" in capsys.readouterr().err
    assert run("--annotations", tmp_path) == 1
    assert f"{tmp_path} holds no object; expected <video>/<object>/00000.png" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_stops_the_run(data, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert run("--data", data, "--output", tmp_path / "out") == 1
    assert f"{tmp_path}/out" in (said := capsys.readouterr().err)
    assert "start again when that is solved" in said


@pytest.mark.parametrize("arguments", [[], ["--data", "a", "--annotations", "b"], ["--data", "a", "--processes=0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        save_gt_mask.main(arguments)
    assert "error: " in capsys.readouterr().err


def test_as_a_script_under_its_published_name_with_processes(data, tmp_path):
    script = REPO / "tools" / "save_gt_mask_multiprocess.py"
    command = [sys.executable, str(script), "--data", str(data), "--num_processes", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "3 objects written" in done.stdout
    assert "3/3" in done.stderr
    np.testing.assert_array_equal(read_mask_info(data / "mask_info" / "sav_2" / "003.npy")[0], SQUARE)
