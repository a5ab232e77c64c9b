"""Hints for words that are not known, the nearest valid one, and for packages that are missing, how to install them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

SYNONYMS = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "metal": "mps",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "float": "float32",
    "single": "float32",
    "full": "float32",
    "double": "float32",
    "float64": "float32",
    "test": "eval",
    "val": "eval",
    "infer": "eval",
    "inference": "eval",
    "predict": "eval",
    "mask": "gm",
    "box": "bb",
    "click": "1c",
    "clicks": "3c",
}
"""Valid words by other words for the same thing, which are not similar in spelling."""


def did_you_mean(word: object, allowed: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return the end of an error message about an unknown word.

    Args:
        word: what the user wrote; upper and lower case are alike.
        allowed: the valid words.
        cutoff: how similar a word must be to be suggested, between 0 and 1.

    Returns:
        `did you mean 'cuda'?` where a valid word is similar or means the same, otherwise `allowed: cpu, cuda, mps`.
    """
    words = list(allowed)
    near = nearest_word(word, words, cutoff=cutoff)
    return f"allowed: {', '.join(words)}" if near is None else f"did you mean {near!r}?"


def nearest_word(word: object, allowed: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Return the valid word that is meant by, or most similar to, an unknown one; None if there is none near.

    Args:
        word: what the user wrote; upper and lower case are alike.
        allowed: the valid words.
        cutoff: how similar a word must be, between 0 and 1.
    """
    words = {name.lower(): name for name in allowed}
    text = str(word).lower()
    meant = SYNONYMS.get(text)
    near = [meant] if meant in words else get_close_matches(text, words, 1, cutoff)
    return words[near[0]] if near else None


def how_to_install(extra: str) -> str:
    """Return what to type for an extra of pyproject.toml; i2vpp is on no package index, but installed from a clone."""
    return f'pip install ".[{extra}]" in a clone of i2vpp'
