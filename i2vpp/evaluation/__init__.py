"""How video segmentation is measured: what is prompted, where a careful person clicks, and how masks are scored."""
