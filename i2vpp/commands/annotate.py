"""`i2vpp annotate`: the annotator in the browser, from arguments to a running server."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import webbrowser
from contextlib import AbstractContextManager, nullcontext, suppress
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
    from i2vpp.annotate.web.server import Server
    from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor

DEFAULT_FOLDER = Path("outputs/annotations")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5000
TOKEN_VARIABLE = "I2VPP_TOKEN"
PRIVATE = 0o077  # permissions that new files and folders do not have: those of the group and of others
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

Other users of the same machine reach the address, too: --new-token, --token-file or I2VPP_TOKEN keep them out. With a
--host beyond this machine there is always a token; nothing is encrypted, so do that in networks that you trust.
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
    secret = where.add_mutually_exclusive_group()
    secret.add_argument(
        "--new-token",
        action="store_true",
        help="ask for a random token, which the printed address carries; so it is with another --host",
    )
    secret.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help=f"take the token from a file, or make both; without these options, from {TOKEN_VARIABLE}",
    )
    secret.add_argument("--token", help="the token itself; other users of the machine can read it in the process list")
    where.add_argument(
        "--threads",
        metavar="N",
        type=integer(1),
        help="CPU threads of the network (as many as cores are free at the start)",
    )
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
    os.umask(PRIVATE)  # folders that exist keep their modes
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
        from i2vpp.annotate.web.server import Address, Server, check_output  # noqa: PLC0415 - not everybody has them
    except ModuleNotFoundError as error:
        if error.name not in WEB_PACKAGES:
            raise
        raise I2VPPError(f"i2vpp annotate needs the package {error.name}: {how_to_install('web')}") from error
    from i2vpp.annotate.library import open_library, shown_name  # noqa: PLC0415
    from i2vpp.annotate.storage.labels import read_labels  # noqa: PLC0415
    from i2vpp.annotate.tracking.model import Model  # noqa: PLC0415
    from i2vpp.annotate.workspace import Workspace  # noqa: PLC0415

    library = open_library(video)
    if arguments.masks is not None and not arguments.masks.is_dir():
        raise I2VPPError(f"--masks: {arguments.masks} is not a folder")
    labels = [] if arguments.labels is None else read_labels(arguments.labels)
    check_output(arguments.output)
    token = _token(arguments)
    threads = arguments.threads or free_cores()
    weights = "untrained" if choice.checkpoint is None else choice.checkpoint.name
    model = Model(lambda: _build(choice, threads), checkpoint=weights)
    address = Address(host=arguments.host, port=arguments.port, token=token)
    workspace = Workspace(library, arguments.output, model, masks=arguments.masks, labels=labels)
    server = Server(workspace, address)
    print(f"{counted(len(library.videos), 'video')} in {video}; annotations are kept in {arguments.output}")
    if library.left_out:
        print(f"left out, as they lead out of the folder: {', '.join(map(shown_name, library.left_out))}")
    print(f"open {server.url} in a browser; Ctrl-C ends", flush=True)
    return server


def _build(choice: ModelChoice, threads: int) -> I2VPPVideoPredictor:
    import torch  # noqa: PLC0415 - takes seconds

    torch.set_num_threads(threads)
    return build_predictor(choice)


def free_cores() -> int:
    """Return how many of the cores that this process may use are free, by the load of the last minute; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has no load
        load = 0.0
    return max(1, cores - round(load))


def _token(arguments: argparse.Namespace) -> str | None:
    """Return the token that the user chose or asked for, None if neither."""
    from i2vpp.annotate.web.security import new_token  # noqa: PLC0415

    if arguments.token is not None:
        print(
            "--token: other users of this machine can read it in the process list; --token-file, --new-token and "
            f"{TOKEN_VARIABLE} keep it from them",
            file=sys.stderr,
        )
        return str(arguments.token)
    if arguments.new_token:
        return new_token()
    if arguments.token_file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    return _token_of(arguments.token_file, new_token())


def _token_of(file: Path, new: str) -> str:
    """Return the token in a file; a file that does not exist is made, with a new one."""
    try:
        with suppress(FileExistsError), file.open("x") as made:
            made.write(new + "\n")
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise I2VPPError(f"--token-file: cannot read {file}: {reason}") from error
