"""Measures how good generated volumes are: arrays in, numbers out."""
