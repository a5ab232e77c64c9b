"""`i2vpp annotate`: the annotator in the browser, from arguments to a running server."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from i2vpp.errors import I2VPPError
from i2vpp.model_choice import ModelChoice, build_predictor
from i2vpp.utils.brief import counted
from i2vpp.utils.parser import integer
from i2vpp.utils.signals import Terminated, exit_status
from i2vpp.utils.suggest import how_to_install

if TYPE_CHECKING:
    from i2vpp.annotate.server import Server

DEFAULT_FOLDER = Path("outputs/annotations")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5000
WEB_PACKAGES = ("starlette", "uvicorn", "anyio", "h11")

TEXT = """\
Segment objects through videos in a browser: click, propagate, correct, export. VIDEO is a video file, a folder of
frames, or a folder of either; without it, the bundled clip. Everything is kept in OUT at once: opening the same video
with the same OUT goes on where it was.
"""

EXAMPLES = """\
examples:
  i2vpp annotate dog.mp4 -o outputs/dog
  i2vpp annotate videos/ -o outputs/annotations --checkpoint sam-i2vpp_32gpu --device cuda

on a server, with its port brought to your machine:
  ssh -L 5000:127.0.0.1:5000 user@server
  i2vpp annotate videos/ -o outputs/annotations --no-browser

Other users of the same machine reach the address, too: --token keeps them out. With a --host beyond this machine there
is always a token; nothing is encrypted, so do that in networks that you trust.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this command has."""
    parser.add_argument(
        "video", metavar="VIDEO", type=Path, nargs="?", help="video file, folder of frames, or of either"
    )
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, default=DEFAULT_FOLDER,
                        help="folder for annotations and exports (%(default)s)")  # fmt: skip
    parser.add_argument("--masks", metavar="DIR", type=Path, help="folder from which the page may import masks")
    parser.add_argument(
        "--labels", metavar="FILE.txt", type=Path, help="classes of objects: a name a line, #rrggbb after it if wanted"
    )
    where = parser.add_argument_group("server")
    where.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (%(default)s)")
    where.add_argument(
        "--port", type=integer(0, 65535), default=DEFAULT_PORT, help="0 for any that is free (%(default)s)"
    )
    where.add_argument("--token", help="what the address has to carry; a random one with another --host")
    where.add_argument("--no-browser", action="store_true", help="do not open a browser")


def run(arguments: argparse.Namespace, choice: ModelChoice) -> int:
    """Serve the annotator until Ctrl-C or SIGTERM and return the exit status, which is 143 after SIGTERM.

    Args:
        arguments: the options of `add_options`.
        choice: the network.

    Raises:
        I2VPPError: before the server starts: no video, a folder that cannot be written, a port in use.
    """
    status = 0
    with _video(arguments.video) as video:
        server = _server(arguments, choice, video)
        if not arguments.no_browser and server.is_local:
            webbrowser.open(server.url)
        try:
            server.run()
        except KeyboardInterrupt as stop:
            status = exit_status(stop) if isinstance(stop, Terminated) else 0
            print()
    print(f"stopped; annotations are in {arguments.output}", flush=True)
    if any(thread.name.startswith("i2vpp-") for thread in threading.enumerate()):
        # A step of the network or of a decoder cannot be interrupted; everything that is finished is stored already.
        sys.stderr.flush()
        os._exit(status)
    return status


def _video(path: Path | None) -> AbstractContextManager[Path]:
    """Return the video to open: by default the bundled clip, which may have to be unpacked."""
    if path is not None:
        return nullcontext(path)
    from i2vpp.commands.demo import CLIP  # noqa: PLC0415 - PyTorch takes seconds to import

    return as_file(files("i2vpp") / "assets" / CLIP)


def _server(arguments: argparse.Namespace, choice: ModelChoice, video: Path) -> Server:
    """Check everything, start to listen, and say where."""
    try:
        from i2vpp.annotate.server import Address, Server, check_output  # noqa: PLC0415 - not everybody has them
    except ModuleNotFoundError as error:
        if error.name not in WEB_PACKAGES:
            raise
        raise I2VPPError(f"i2vpp annotate needs the package {error.name}: {how_to_install('web')}") from error
    from i2vpp.annotate.labels import read_labels  # noqa: PLC0415
    from i2vpp.annotate.library import open_library  # noqa: PLC0415
    from i2vpp.annotate.model import Model  # noqa: PLC0415
    from i2vpp.annotate.workspace import Workspace  # noqa: PLC0415

    library = open_library(video)
    if arguments.masks is not None and not arguments.masks.is_dir():
        raise I2VPPError(f"--masks: {arguments.masks} is not a folder")
    labels = [] if arguments.labels is None else read_labels(arguments.labels)
    check_output(arguments.output)
    weights = "untrained" if choice.checkpoint is None else choice.checkpoint.name
    model = Model(lambda: build_predictor(choice), checkpoint=weights)
    address = Address(host=arguments.host, port=arguments.port, token=arguments.token)
    workspace = Workspace(library, arguments.output, model, masks=arguments.masks, labels=labels)
    server = Server(workspace, address)
    print(f"{counted(len(library.videos), 'video')} in {video}; annotations are kept in {arguments.output}")
    if library.left_out:
        print(f"left out, as they lead out of the folder: {', '.join(library.left_out)}")
    print(f"open {server.url} in a browser; Ctrl-C ends", flush=True)
    return server
