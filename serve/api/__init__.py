"""Slow-path protocol handlers: everything that is not an inference, and the admin API."""
