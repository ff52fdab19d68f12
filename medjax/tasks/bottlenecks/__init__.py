"""Holds what lies between an autoencoder's encoder and decoder, one kind a file: bottleneck.py says what one is."""
