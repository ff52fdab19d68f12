"""Converts state dicts of the published PyTorch implementations to parameters and back."""
