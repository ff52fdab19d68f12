"""Finds the scans of each dataset and preprocesses them, one dataset a file."""
