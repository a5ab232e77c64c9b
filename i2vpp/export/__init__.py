"""Export of the network for runtimes other than PyTorch: four graphs, their manifest and a tracker of one file."""
