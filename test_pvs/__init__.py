"""Evaluation runs: inference over whole datasets, split over processes and machines, restartable."""
