"""Reads and writes the formats that volumes are kept in, one a file."""
