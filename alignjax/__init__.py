"""Constrained alignment of language models by optimal dualization, in JAX."""

__version__ = "0.1.0"
