"""Measures how fast the parts of a run are, beside what the machine could do at most."""
