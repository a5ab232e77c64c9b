"""Tools for the SA-V data set: extraction of frames, and pictures of its annotations. See README.md."""
