"""The browser annotator: people click, propagate, correct and export the masks of objects in a video."""
