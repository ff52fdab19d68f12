"""Draws volumes: the compiled sampler, where sampling starts from, files of samples."""
