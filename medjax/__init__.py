"""Trains and samples diffusion models of 3D medical volumes, from one CPU core to a TPU pod."""
