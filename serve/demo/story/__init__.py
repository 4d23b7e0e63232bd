"""A model that meets a broken scanner: watched, retrained, gated, rolled out and promoted. `make demo-monitoring` tells it.

Everything happens through what an operator has: the command line, HTTP, the admin API, a webhook and a command.
"""
