"""Traffic between versions: plans, rollouts and experiments, and the judge that decides on them."""
