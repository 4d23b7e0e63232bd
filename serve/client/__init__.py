"""A small synchronous client of any Open Inference Protocol server: numpy arrays in, numpy arrays out, over HTTP."""

from serve.client.connection import ClientError
from serve.client.http import Client, InferResult

__all__ = ["Client", "ClientError", "InferResult"]
