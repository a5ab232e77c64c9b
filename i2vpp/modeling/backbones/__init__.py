"""From a frame and its two predecessors to one feature map."""
