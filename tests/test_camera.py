"""`i2vpp track --camera`: a video file stands for the camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2vpp import cli
from i2vpp.errors import VideoError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session import camera
from i2vpp.session.camera import Camera, camera_input
from i2vpp.session.video import open_source
from i2vpp.utils.result_files import index_map
from media import moving_disc, number_of, numbered, read_all, write_video
from models import make_predictor


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor(dtype="float32")


def plug_in(monkeypatch: pytest.MonkeyPatch, video: Path) -> None:
    monkeypatch.setattr(camera, "camera_input", lambda device: (str(video), None))


@pytest.mark.parametrize(("device", "platform", "expected"), [
    (0, "linux", ("/dev/video0", "v4l2")),
    ("2", "linux", ("/dev/video2", "v4l2")),
    ("/dev/video9", "linux", ("/dev/video9", "v4l2")),
    (1, "darwin", ("1", "avfoundation")),
    ("FaceTime HD Camera", "darwin", ("FaceTime HD Camera", "avfoundation")),
    ("Integrated Camera", "win32", ("video=Integrated Camera", "dshow")),
])  # fmt: skip
def test_every_system_names_cameras_in_its_way(device: Any, platform: str, expected: tuple[str, str]) -> None:
    assert camera_input(device, platform) == expected


@pytest.mark.parametrize(("device", "platform", "message"), [
    (-1, "linux", "a camera is a number from 0 on, or a name; got -1"),
    ("-1", "linux", "a camera is a number from 0 on"),
    ("", "darwin", "a camera is a number from 0 on"),
    (1.5, "linux", "got 1.5"),
    (0, "win32", "on Windows"),
])  # fmt: skip
def test_what_is_no_camera(device: Any, platform: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        camera_input(device, platform)


def test_frames_come_with_their_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, write_video(tmp_path / "v.mp4", numbered(5), fps=10, pts=[0, 1, 2, 5, 6]))
    with Camera(0) as eye:
        assert (eye.height, eye.width) == (32, 64)
        seen = [(number_of(frame), eye.time) for frame in eye]
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert [time for _, time in seen] == pytest.approx([0, 0.1, 0.2, 0.5, 0.6])


def test_a_camera_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, tmp_path / "video7")
    with pytest.raises(VideoError, match=r"camera 7 \(.*video7\) cannot be opened: .*No such file"):
        Camera(7)
    monkeypatch.setattr(camera, "camera_input", lambda device: ("0", "no such format"))
    with pytest.raises(VideoError, match="is it connected, and may this program use it"):
        Camera(0)


def test_the_command_tracks_what_the_camera_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, predictor: I2VPPVideoPredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", moving_disc(6)[0], fps=10)
    plug_in(monkeypatch, video)
    monkeypatch.setattr(cli, "build_predictor", lambda choice: predictor)
    prompts = ["--box", "2,16,20,36", "--point", "40,10,2,2", "--max-frames", "4"]
    out = tmp_path / "out"
    assert cli.main(["track", "--camera", "0", "-o", str(out), *prompts, "--untrained", "--quiet"]) == 0
    frames = read_all(open_source(str(video)))
    with predictor.init_stream() as stream:
        expected = []
        for i, frame in enumerate(frames[:5]):
            result = stream.step(frame)
            if i == 0:
                result = stream.add_new_points_or_box(1, box=[2, 16, 20, 36])
            if i == 2:
                result = stream.add_new_points_or_box(2, points=[[40, 10]], labels=[1])
            expected.append(index_map(result))
    written = [np.array(Image.open(path)) for path in sorted((out / "masks").iterdir())]
    assert len(written) == 5 and all(np.array_equal(a, b) for a, b in zip(written, expected, strict=True))
    assert len(read_all(open_source(str(out / "overlay.mp4")))) == 5
    assert "wrote 5 frames of 2 objects" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--camera", "0", "v.mp4", "--point", "1,1"], "give a VIDEO or --camera, not both"),
    (["--point", "1,1"], "give a VIDEO or --camera"),
    (["--camera", "0", "--point", "1,1", "--both"], "a camera is tracked from its first frame on"),
    (["--camera", "0", "--point", "1,1", "--processes", "2"], "--processes is for several videos"),
])  # fmt: skip
def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert cli.main(["track", "-o", str(tmp_path / "out"), *arguments]) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err
