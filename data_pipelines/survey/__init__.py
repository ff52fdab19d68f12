"""Finds what lies under a folder, by layout, before anything is decoded: cases, label maps, and what is left out and why."""
