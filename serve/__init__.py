"""Headrace: a model-serving runtime. Python decides, Cython moves bytes."""

__version__ = "0.1.0"
