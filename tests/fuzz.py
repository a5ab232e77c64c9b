"""Mutations of good inputs, and a judge of what becomes of them; `test_fuzz.py` says of which.

All is drawn from the name of a target and the number of an input: the same inputs in every run, and any one of them can
be made again alone. An input ends well if it is accepted, or refused in one line by an `I2VPPError` or by a command's
exit status; a traceback, another exception, a message of several lines, or more time or memory than a small input may
take are findings.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from i2vpp.errors import I2VPPError

SECONDS = 20.0
"""For one input; all are tiny. A machine that does much else must not make findings."""

MEMORY = 3 * 2**30
LONGEST_MESSAGE = 1500
ENDINGS = (0, 1, 2)

NASTY_NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, 255, 256, 65536, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**400, -(10**400),
    0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, True, False,
]  # fmt: skip
NASTY_TEXTS = [
    "", " ", "x", "1", "-1", "1e999", "nan", "null", "two\nlines", "tab\t", "\0", "\x1b[31m", "\ud800", "ü" * 3, "漢字",
    "../x", "..\\x", "/", "C:\\x", "~", "%s{0}", "=", "#", "9" * 5000, "x" * 3000, "[" * 500, "--help", "*", "&a [*a]",
    "!!python/object/apply:os.system [ls]", "2020-01-01", "0x10", "1_000", "yes", ".inf", "{", "}", ":", "${x}", "a,b",
]  # fmt: skip
NASTY_VALUES: list[Any] = [
    None, [], {}, [[]], [None], {"": None}, {"x": {}}, [[[[[[]]]]]], [1, 2], [1, 2, 3, 4], *NASTY_NUMBERS, *NASTY_TEXTS,
]  # fmt: skip


def rounds() -> int:
    """How many times as many inputs as usual are tried: `I2VPP_FUZZ=20 pytest tests/test_fuzz.py` goes on a hunt."""
    return int(os.environ.get("I2VPP_FUZZ", "1"))


def draws(target: str, number: int) -> random.Random:
    """Return the source of all that is drawn for an input."""
    return random.Random(f"{target} {number}")


# ---- mutations


def mutated_bytes(draw: random.Random, data: bytes) -> bytes:
    """Damage a file as disks, networks and cables do: flipped, zeroed, lost, doubled or exchanged stretches, an end."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        if not data:
            return data
        at = draw.randrange(len(data))
        length = min(draw.choice((1, 1, 2, 8, 64, 512)), len(data) - at)
        kind = draw.randrange(7)
        if kind == 0:
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + bytes(length) + data[at + length :]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[: at + length] + data[at:]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data = data[:at] + draw.randbytes(length) + data[at + length :]
        else:
            other = draw.randrange(len(data))
            data = data[:at] + data[other : other + length] + data[at + length :]
    return data


def mutated_value(draw: random.Random, value: Any) -> Any:
    """Change one to three places of a JSON value: other values, keys that are missing, doubled or unknown."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice(NASTY_VALUES)
        owner, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, list):
            owner.insert(key, copy.deepcopy(owner[key]))
        elif kind == 1:
            owner[draw.choice(NASTY_TEXTS)] = owner[key]
        elif kind == 2:
            owner[key] = [owner[key]]
        elif kind == 3:
            other, place = draw.choice(places)
            with contextlib.suppress(LookupError, TypeError):  # it lay in what has just been changed
                owner[key] = copy.deepcopy(other[place])
        else:
            owner[key] = draw.choice(NASTY_VALUES)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def mutated_json(draw: random.Random, value: Any) -> bytes:
    """Return a JSON file whose values or whose text is wrong."""
    kind = draw.randrange(8)
    if kind == 0:
        return mutated_bytes(draw, json.dumps(value).encode())
    if kind == 1:
        return draw.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"", b"\xef\xbb\xbf" + json.dumps(value).encode(), b"\xff\xfe")
        )
    text = json.dumps(mutated_value(draw, value), ensure_ascii=draw.random() < 0.5)
    return text.encode("utf-8", errors="surrogatepass")


def mutated_text(draw: random.Random, text: str) -> bytes:
    """Return a text file, such as YAML or a list, with lines and words that are wrong."""
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(lines))
        kind = draw.randrange(6)
        if kind == 0:
            lines.insert(at, lines[draw.randrange(len(lines))])
        elif kind == 1:
            lines[at] = draw.choice((" ", "    ", "\t", "- ", "? ")) + lines[at]
        elif kind == 2:
            lines[at] = lines[at].lstrip()
        elif kind == 3 and len(lines) > 1:
            del lines[at]
        else:
            head, colon, _ = lines[at].partition(":")
            value = draw.choice((*NASTY_TEXTS, *map(str, NASTY_NUMBERS[:-8])))
            lines[at] = f"{head}{colon} {value}" if draw.random() < 0.8 else f"{value}: 1"
    data = "\n".join(lines).encode("utf-8", errors="surrogatepass")
    return mutated_bytes(draw, data) if draw.random() < 0.15 else data


def mutated_arguments(draw: random.Random, arguments: Sequence[str]) -> list[str]:
    """Return a command line with words that are missing, doubled, in other places, or other than they should be."""
    words = list(arguments)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(len(words))
        kind = draw.randrange(5)
        if kind == 0 and len(words) > 1:
            del words[at]
        elif kind == 1:
            words.insert(at, words[draw.randrange(len(words))])
        elif kind == 2:
            words[at] = words[at][: draw.randrange(len(words[at]) + 1)]
        elif kind == 3:
            parts = words[at].split(",")
            parts[draw.randrange(len(parts))] = draw.choice((*NASTY_TEXTS, *map(repr, NASTY_NUMBERS)))[:4000]
            words[at] = ",".join(parts)
        else:
            words[at] = draw.choice(NASTY_TEXTS)
    return [word.replace("\0", "")[:400] for word in words]  # no system hands over a command line with one


# ---- the judge


class _TooLongError(BaseException):
    """No `Exception`: nothing that is tried may take it for a mistake in its input."""


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Allow so many seconds, and on Linux so much more memory."""

    def stop(_: int, __: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with _memory_limit():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def judge(call: Callable[[], Any]) -> str | None:
    """Call what is tried, in the main thread; return what is wrong with what came of it, or None.

    Args:
        call: a library call; or a command, which returns its exit status and says on stderr what is wrong.
    """
    said = io.StringIO()
    try:
        with _limits(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = call()
    except I2VPPError as error:
        return _problem_of(str(error))
    except SystemExit as end:
        status = end.code
    except _TooLongError:
        return f"takes more than {SECONDS:g} s"
    except BaseException as error:  # noqa: BLE001 - this is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        first = [*str(error).splitlines(), ""][0]
        return f"{type(error).__name__}: {first[:200]} ({Path(where.filename).name}:{where.lineno})"
    return _problem_of_command(status, said.getvalue()) if isinstance(status, int) else None


def _problem_of(message: str) -> str | None:
    if not message.strip():
        return "an error without words"
    if len(message.splitlines()) > 1:
        return f"a message of several lines: {message[:300]!r}"
    return f"a message of {len(message)} characters: {message[:200]!r}" if len(message) > LONGEST_MESSAGE else None


def _problem_of_command(status: int, said: str) -> str | None:
    if "Traceback" in said:
        return f"a traceback on stderr: {said[-500:]!r}"
    if status not in ENDINGS:
        return f"exit status {status}"
    if status == 0:
        return None
    complaints = [line for line in said.splitlines() if line.startswith("error: ") or ": error: " in line]
    if said.startswith("usage: ") and ": error: " in said:
        return None  # argparse's own words, with what was given as it was given
    last = [line for line in said.splitlines() if line.strip()][-1:]
    if len(complaints) != 1 or complaints != last:
        return f"exit status {status} without one line of error in the end: {said[-500:]!r}"
    return _problem_of(complaints[0])


def findings(target: str, count: int, attempt: Callable[[random.Random], Callable[[], Any]]) -> list[str]:
    """Try a number of inputs of a target; return what is wrong, each with the number of its input.

    Args:
        target: name of what is tried; inputs depend on it and on their number.
        count: of inputs.
        attempt: makes an input and returns what is to be called with it.
    """
    found = []
    for number in range(count * rounds()):
        call = attempt(draws(target, number))
        if problem := judge(call):
            found.append(f"{target} {number}: {problem}")
    return found
