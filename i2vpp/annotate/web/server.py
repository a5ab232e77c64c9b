"""The server process: from a folder to an address that a browser opens."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from i2vpp.annotate.web.app import make_app
from i2vpp.annotate.web.security import bad_token, guard_for, is_local
from i2vpp.annotate.workspace import Workspace
from i2vpp.errors import I2VPPError

GRACE_SECONDS = 1  # for answers on their way when the server is told to end
BACKLOG = 128


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen.

    Args:
        host: name or address; beyond this machine a token is asked for.
        port: 0 for any that is free.
        token: what a browser has to show; None: nothing here, a random one beyond this machine.
    """

    host: str = "127.0.0.1"
    port: int = 5000
    token: str | None = None


class Server:
    """A server that listens already; `run` answers until Ctrl-C.

    Args:
        workspace: the videos.
        address: host and port to listen on.

    Raises:
        I2VPPError: the address or the token cannot be used.
    """

    def __init__(self, workspace: Workspace, address: Address) -> None:
        if address.token is not None and (problem := bad_token(address.token)):
            raise I2VPPError(f"{problem}; choose another one, or have one made by --new-token")
        self.workspace = workspace
        self._socket = _listen(address.host, address.port)
        self.port: int = self._socket.getsockname()[1]
        self._host = address.host
        self._guard = guard_for(address.host, address.token)
        config = uvicorn.Config(
            make_app(workspace, self._guard),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._server = _Uvicorn(config, on_exit=workspace.events.close)

    @property
    def url(self) -> str:
        """What to open in a browser, with the token if there is one."""
        return f"http://{self._shown_host()}:{self.port}/" + (
            f"?token={self._guard.token}" if self._guard.token else ""
        )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_local(self._host)

    @property
    def started(self) -> bool:
        """Whether `run` answers requests."""
        return self._server.started

    def run(self) -> None:
        """Answer requests; ends by Ctrl-C (as KeyboardInterrupt), SIGTERM or `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Have `run` end; from any thread."""
        self._server.should_exit = True

    def _shown_host(self) -> str:
        if self._host in ("0.0.0.0", "::"):
            return socket.gethostname()
        return f"[{self._host}]" if ":" in self._host else self._host


class _Uvicorn(uvicorn.Server):
    """Ends the streams of events before it shuts down: uvicorn waits for answers that are not complete."""

    def __init__(self, config: uvicorn.Config, *, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)


def check_output(folder: Path) -> None:
    """Make the output folder; raise I2VPPError unless files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".i2vpp-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise I2VPPError(
            f"annotations cannot be written to {folder}: {error.strerror}; choose another folder with --output"
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)[0]
        # With the protocol, found[2]: without it, asyncio does not set TCP_NODELAY, and answers take 40 ms longer.
        listening = socket.socket(*found[:3])
        try:
            if os.name == "posix":  # on Windows this option would let two servers share a port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(found[4])
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise I2VPPError(
                f"port {port} of {host} is in use, perhaps by another annotator; choose another one with --port, "
                "or --port 0 for any that is free"
            ) from error
        raise I2VPPError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
