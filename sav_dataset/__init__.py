"""Tools for the SA-V data set: extraction of frames, pictures of its annotations, scores. See README.md."""
