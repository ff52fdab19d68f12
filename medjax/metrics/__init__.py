"""How good generated volumes are: arrays in, numbers out."""
