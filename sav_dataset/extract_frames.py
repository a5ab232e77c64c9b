#!/usr/bin/env python3
"""Extract the frames of SA-V's training videos, so that training need not decode mp4.

    python -m sav_dataset.extract_frames data/sav_train data/sav_frames --every 4

Writes `<output>/<video>/00000.jpg`, ... for each mp4 file at any depth; files are named by the frame's index in the
video. A folder appears when it is complete, and a video whose folder is there is passed over: start it again after an
interruption. Videos that cannot be decoded are listed at the end, and the exit status is 1.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from i2vpp.errors import I2VPPError, VideoError
from i2vpp.session.video_file.decoder import VideoFile
from i2vpp.utils.parser import Parser, integer
from sav_dataset.parallel import convert_all

PARTIAL = ".partial-"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to extract.

    Args:
        video: mp4 file.
        output: folder that gets the folder of frames.
        every: extract frames 0, `every`, 2 `every`, ...
        quality: of the JPEG files, 1 to 100.
    """

    video: Path
    output: Path
    every: int
    quality: int

    @property
    def folder(self) -> Path:
        """Where the frames go."""
        return self.output / self.video.stem


def extract(job: Job) -> str | None:
    """Extract the frames of a video; return what is wrong with it, or None.

    Raises:
        OSError: the frames cannot be written.
    """
    partial = job.output / f"{PARTIAL}{job.folder.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        source = VideoFile(str(job.video.absolute()), str(job.video))
        for i in count(0, job.every):
            try:
                frame = source[i]
            except IndexError:
                break
            Image.fromarray(frame).save(partial / f"{i:05d}.jpg", quality=job.quality)
        if not i:
            return f"{job.video} holds no frame"
        partial.rename(job.folder)
    except VideoError as error:
        return str(error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return None


def find_jobs(videos: Path, output: Path, *, every: int, quality: int) -> list[Job]:
    """List the videos to extract, in the order of their names.

    Args:
        videos: folder of mp4 files at any depth, or one of them.
        output: folder that gets a folder of frames for each video.
        every: extract frames 0, `every`, 2 `every`, ...
        quality: of the JPEG files, 1 to 100.

    Returns:
        A job for each video, also for those whose folder of frames is there.
    """
    files = [videos] if videos.is_file() else sorted(videos.rglob("*.mp4"))
    return [Job(video=file, output=output, every=every, quality=quality) for file in files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(
        prog="python -m sav_dataset.extract_frames", description="Extract the frames of SA-V's training videos."
    )
    parser.add_argument("videos", type=Path, help="folder of mp4 files, at any depth, or one of them")
    parser.add_argument("output", type=Path, help="folder that gets one folder of frames per video")
    add = parser.add_argument
    add("--every", type=integer(1), default=1, metavar="N", help="every Nth frame; 4: annotated ones (all)")
    add("--quality", type=integer(1, 100), default=95, metavar="N", help="of the JPEG files, 1 to 100 (%(default)s)")
    add("--processes", type=integer(1), default=os.cpu_count() or 1, metavar="N", help="one per core (%(default)s)")
    parser.add_aliases({"--workers": "--processes"})
    args = parser.parse_args(arguments)
    jobs = find_jobs(args.videos, args.output, every=args.every, quality=args.quality)
    if not jobs:
        parser.error(f"no mp4 file in {args.videos}")
    if twice := _twice(jobs):
        parser.error(f"{twice[0].video} and {twice[1].video} would share one folder; rename one, or extract them apart")
    todo = [job for job in jobs if not job.folder.exists()]
    try:
        problems = convert_all(extract, todo, processes=args.processes, unit="video")
    except (I2VPPError, OSError) as error:
        print(f"stopped: {error}; start again when that is solved, finished videos are kept", file=sys.stderr)
        return 1
    print(f"{len(todo) - len(problems)} videos extracted to {args.output}, {len(jobs) - len(todo)} were there already")
    for problem in problems:
        print(f"not extracted: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _twice(jobs: Sequence[Job]) -> tuple[Job, Job] | None:
    first: dict[Path, Job] = {}
    for job in jobs:
        if (other := first.setdefault(job.folder, job)) is not job:
            return other, job
    return None


if __name__ == "__main__":
    sys.exit(main())
