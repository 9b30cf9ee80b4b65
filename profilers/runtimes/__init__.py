"""Runtimes: load a model and run it, one file each, behind one small interface."""
