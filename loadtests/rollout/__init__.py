"""Rollouts on a running server, under load: what `make bench-rollout` measures. docs/results/rollout.md has the figures."""
