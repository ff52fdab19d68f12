"""Holds networks, one a file: Linen modules of plain attributes."""
