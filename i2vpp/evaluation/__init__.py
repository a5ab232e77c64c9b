"""How video segmentation is measured: what is prompted, where evaluations click, and how masks are scored."""
