"""Forecasts what a step takes of a machine that need not be there, what fits, and what would."""
