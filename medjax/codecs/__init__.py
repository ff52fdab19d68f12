"""Lies between volumes and what diffusion sees: each codec is a frozen dataclass with pure methods (codec.py)."""
