"""A start for a network without pretrained weights: its image encoder learns to say what a larger one says."""
