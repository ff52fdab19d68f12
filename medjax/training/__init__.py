"""Looks at a model while it trains: validation, scores of samples."""
