"""Measure: runtimes, the isolated measuring process, accuracy, the profile store."""
