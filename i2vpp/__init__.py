"""Promptable video segmentation with SAM-I2V++: click, box or mask any object, get its mask on every frame.

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
"""
