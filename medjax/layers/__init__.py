"""Holds what networks are made of. The only floor that knows how a convolution is lowered and where W voxels are folded."""
