"""Benches: our server beside others on the same core in the same run, by the measuring rules of docs/measuring.md."""
