"""From files to training clips: sources list annotated videos, a plan orders the draws, samplers cut clips."""
