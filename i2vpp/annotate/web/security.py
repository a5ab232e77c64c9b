"""Which requests the server answers: checks of host, origin, token and size before they reach the application."""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 4 * 2**20
MAX_UPLOAD = 8 * 2**30
UPLOADS = "/api/uploads/"
MIN_TOKEN = 12
COOKIE = "i2vpp-token"
TOKEN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")
READING = ("GET", "HEAD")
WITH_BODY = ("POST", "PUT", "PATCH")
METHODS = (*READING, *WITH_BODY, "DELETE")

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is let in.

    Args:
        names: host names by which pages may call the server, in lower case, beside loopback addresses.
        any_address: whether they may call it by any IP address. An attacker's page can point its own name to this
            machine (DNS rebinding), but it cannot make the browser send an address it was not loaded from.
        token: what a browser has to show; None: nothing.
    """

    names: frozenset[str] = frozenset()
    any_address: bool = False
    token: str | None = None

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server; the port may differ, as behind `ssh -L`."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


def guard_for(host: str, token: str | None) -> Guard:
    """Return the guard of a server.

    Args:
        host: host name or address that the server listens on.
        token: chosen by the user. Where other machines can reach the host, None becomes a random one.
    """
    if is_local(host):
        return Guard(token=token)
    own = {socket.gethostname(), socket.getfqdn(), host}
    return Guard(
        names=frozenset(name.lower() for name in own),
        any_address=True,
        token=token or new_token(),
    )


def new_token() -> str:
    """Return a random token."""
    return secrets.token_urlsafe(24)


def is_local(host: str) -> bool:
    """Whether a host to listen on is a loopback address, which no other machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Refused(Exception):
    """A request that is not let in.

    Args:
        status: HTTP status.
        reason: message for the browser.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Gate:
    """Middleware: refuses what the guard does not let in, limits bodies, and adds headers to all answers.

    Args:
        app: what requests go on to.
        guard: what is let in.
        max_body: bytes.
        max_upload: bytes of an uploaded file.
    """

    def __init__(self, app: ASGIApp, *, guard: Guard, max_body: int = MAX_BODY, max_upload: int = MAX_UPLOAD) -> None:
        self._app = app
        self._guard = guard
        self._max_body = max_body
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        extra = dict(HEADERS)
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in extra.items())]
            await send(message)

        try:
            headers = _headers(scope)
            self._check(scope, headers, extra)
            await self._app(
                scope,
                self._limited(receive, headers, self._max_upload if _is_upload(scope) else self._max_body),
                send_with_headers,
            )
        except Refused as refused:
            if started:
                raise
            await _answer(send_with_headers, refused)

    def _check(self, scope: Scope, headers: dict[str, str], extra: dict[str, str]) -> None:
        if scope["method"] not in METHODS:
            raise Refused(405, "this method is not allowed")
        if not self._guard.knows_host(headers.get("host", "")):
            raise Refused(421, "this server does not go by that name; open the address it printed when it started")
        self._check_origin(scope, headers)
        if self._guard.token is not None:
            self._check_token(scope, headers, extra)
        if scope["method"] in WITH_BODY:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            # Both kinds make a browser ask before it sends them for another site, and no such question is answered.
            if kind != ("application/octet-stream" if _is_upload(scope) else "application/json"):
                raise Refused(415, "this needs Content-Type: application/json, or application/octet-stream for uploads")

    def _check_origin(self, scope: Scope, headers: dict[str, str]) -> None:
        """Refuse what a page of another site asks for. Programs other than browsers send neither header."""
        is_page = scope["method"] in READING and scope["path"] == "/"
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None and site not in ("same-origin", "none") and not is_page:
            raise Refused(403, "requests from pages of other sites are refused")
        if origin is not None and (scope["method"] not in READING or scope["path"] != "/"):
            try:
                authority = urlsplit(origin).netloc
            except ValueError:
                authority = ""
            if not authority or authority.lower() != headers.get("host", "").lower():
                raise Refused(403, "requests from pages of other sites are refused")

    def _check_token(self, scope: Scope, headers: dict[str, str], extra: dict[str, str]) -> None:
        token = self._guard.token
        assert token is not None
        name = cookie_name(scope)
        if _same(_cookie(headers.get("cookie", ""), name), token):
            return
        if scope["path"] == "/" and scope["method"] in READING:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
            if _same(given[-1], token):
                extra["set-cookie"] = f"{name}={token}; HttpOnly; SameSite=Strict; Path=/"
                return
        raise Refused(401, "this server asks for its token: open the address that it printed when it started")

    def _limited(self, receive: Receive, headers: dict[str, str], most: int) -> Receive:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12 or int(length) > most:
            raise Refused(413, f"the request is too large: at most {most} bytes are allowed")
        seen = 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise Refused(413, f"the request is too large: at most {most} bytes are allowed")
            return message

        return receive_limited


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "PUT" and str(scope["path"]).startswith(UPLOADS)


def cookie_name(scope: Scope) -> str:
    """Return the name of the token's cookie: browsers share cookies between the ports of a host."""
    server = scope.get("server")
    return f"{COOKIE}-{server[1]}" if server else COOKIE


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers. Those that are checked must not come twice: a proxy might use the other value of the two."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "content-length", "content-type", "sec-fetch-site"):
            raise Refused(400, f"the header {name} comes twice")
        found[name] = value.decode("latin-1") if name not in found else f"{found[name]}; {value.decode('latin-1')}"
    return found


def _cookie(header: str, name: str) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(header)
    except CookieError:
        return ""
    return cookies[name].value if name in cookies else ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


async def _answer(send: Send, refused: Refused) -> None:
    body = json.dumps({"error": refused.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bad_token(token: str) -> str | None:
    """Say what is wrong with a token that a user chose; None if nothing."""
    if len(token) < MIN_TOKEN:
        return f"a token needs at least {MIN_TOKEN} characters"
    strange = sorted(set(token) - TOKEN_CHARACTERS)
    return f"a token consists of letters, digits and -_.~; it has {strange[0]!r}" if strange else None
