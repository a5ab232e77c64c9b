"""What `tools/benchmark.py` measures with, and the tables made of it."""
