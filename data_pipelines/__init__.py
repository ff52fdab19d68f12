"""From NIfTI and DICOM files to batches. Knows nothing of models and nothing of jax."""
