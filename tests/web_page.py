"""The page of `examples/web` in a headless Chromium, and its modules, which tests call from Python."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from exported import REPO

WEB = REPO / "examples" / "web"
FILES = ("*.html", "*.css", "*.js", "package*.json")

SESSION = """async ({ manifest, frames, width, height, steps }) => {
  const { Tracker } = await import("/tracker.js");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const text = (array) => {
    const { buffer, byteOffset, byteLength } = array;
    const parts = Array.from(new Uint8Array(buffer, byteOffset, byteLength), (x) => String.fromCharCode(x));
    return btoa(parts.join(""));
  };
  const run = async (graph, feeds) => {
    const sent = Object.entries(feeds).map(([name, { data, dims }]) => [name, text(data), dims]);
    const outputs = await window.runGraph(graph, sent);
    return Object.fromEntries(outputs.map(([name, data]) => [name, new Float32Array(bytes(data).buffer)]));
  };
  const tracker = new Tracker(manifest, run);
  const results = [];
  const pack = (mask) => text(Uint8Array.from(mask, (x) => x > 0));
  const keep = (result) => result && results.push({ ...result, masks: result.masks.map(pack) });
  for (const [i, frame] of frames.entries()) {
    keep(await tracker.step({ data: bytes(frame), width, height }));
    for (const [at, method, objId, argument] of steps) {
      if (at === i) keep(await tracker[method](objId, method === "addMask" ? bytes(argument) : argument));
    }
  }
  return results;
}"""
"""Pushes frames to a `Tracker` whose graphs are run by `runGraph`, and prompts it."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder as any static server does; yields its URL, with a slash in the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def copy_page(folder: Path) -> Path:
    """Link the files of the page into a folder: not what a person has installed or exported beside them."""
    for pattern in FILES:
        for file in WEB.glob(pattern):
            (folder / file.name).symlink_to(file)
    return folder


def to_text(array: Any) -> str:
    """Encode the bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def from_text(text: str, dtype: str = "float32") -> Any:
    """Decode an array [N]."""
    return np.frombuffer(base64.b64decode(text), dtype)


def to_rgba(frame: Any) -> Any:
    """Append an opaque alpha channel to uint8 [H, W, 3]."""
    return np.concatenate([frame, np.full_like(frame[..., :1], 255)], axis=2)
