"""What the user may choose of an export. Nothing here imports PyTorch, so that the command can parse its options."""

FORMATS = ("onnx", "torch-export")
PRECISIONS = ("fp32", "fp16", "int8")
OPSETS = range(18, 24)
"""Versions of ONNX's standard operators that the graphs can be written in; the first is what PyTorch writes."""
