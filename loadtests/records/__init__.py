"""What recording costs and what it loses, on running servers. `python -m loadtests.records`."""
