"""A small synchronous client of any Open Inference Protocol server: numpy arrays in, numpy arrays out, over HTTP."""

from serve.client.http import Client, ClientError, InferResult

__all__ = ["Client", "ClientError", "InferResult"]
