"""Holds the samplers, one solver a file, the loop that runs any of them, and the options that choose one."""
