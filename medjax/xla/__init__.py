"""Reads what XLA compiles: programs, their cost, profiles, and the machines they are compiled for."""
