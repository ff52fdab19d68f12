"""Compares sets of volumes: how good, how varied and how new they are, for a page and for people."""
