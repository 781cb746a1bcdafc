"""Kernels of any number of examples, block by block."""
