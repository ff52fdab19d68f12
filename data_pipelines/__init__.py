"""Turns NIfTI and DICOM files into batches. Knows nothing of models and nothing of jax."""
