"""Formats of files that annotations are exported to and imported from.

A format is one module here, with a `Format` that is named in `registry.py` and nowhere else.
"""
