"""For projects of Scenic (google-research/scenic, Apache-2.0).

variables   a CLIP of ours as the variables of Scenic's, and back; needs no Scenic
module      any of our networks behind `init` and `apply`; needs no Scenic
model       a `SegmentationModel` that Scenic's trainers take
"""
