"""The exceptions that users of i2vpp may want to catch."""

import re
import unicodedata

_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of surrogate pairs, ends of lines and paragraphs

LONGEST_WORD = 600
"""Characters of a name in a message; longer than the paths of most people."""

_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class I2VPPError(Exception):
    """Base of all errors raised on purpose for bad input; every argument is a line of the message, most have one.

    Names of files and values that messages quote may hold anything: what would end the line, or steer a terminal, is
    written as in a Python string, and overlong names lack their middle.
    """

    def __str__(self) -> str:
        return "\n".join(_one_line(str(line)) for line in self.args)


def shorten_words(text: str) -> str:
    """Return a message in which overlong words, such as names of files, lack their middle and say their length."""

    def shortened(word: re.Match[str]) -> str:
        whole = word.group()
        return f"{whole[: LONGEST_WORD // 3]}... ({len(whole)} characters) ...{whole[-LONGEST_WORD // 3 :]}"

    return _LONG_WORD.sub(shortened, text)


def _one_line(text: str) -> str:
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _UNSEEN else c for c in shorten_words(text))


class ConfigError(I2VPPError, ValueError):
    """A config file, key or value that does not fit the schema."""


class CheckpointError(I2VPPError, ValueError):
    """A checkpoint that is missing, unreadable or does not fit the network."""


class DataError(I2VPPError):
    """A file or an item of a dataset is missing, broken or does not fit; the message names the file."""


class NoDataError(I2VPPError):
    """Nothing is left to read or to train on; the message says what was looked for, where, and how much was skipped."""


class RunError(I2VPPError, RuntimeError):
    """A training or evaluation run cannot start or go on; the message says what happened and what to do."""


class VideoError(I2VPPError, ValueError):
    """A video source that cannot be opened or decoded."""


class FrameDecodeError(VideoError):
    """A frame in the middle of a readable video cannot be decoded; results of earlier frames stay valid."""


class PromptError(I2VPPError, ValueError):
    """A prompt that makes no sense: wrong shapes, outside the frame, unknown object or frame."""


class SessionError(I2VPPError, RuntimeError):
    """A session used out of order, for example after it was closed."""


class CompilationError(I2VPPError, RuntimeError):
    """The network cannot be compiled on this machine."""


class ExportError(I2VPPError, RuntimeError):
    """The network cannot be exported in the way that was asked for."""


class I2VPPWarning(UserWarning):
    """Something that the user should know, and that stops nothing; base of all warnings of this project."""


class UntrainedWarning(I2VPPWarning):
    """A predictor was built without a checkpoint: its weights are random and its masks mean nothing."""
