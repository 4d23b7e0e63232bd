"""How the judge behaves in simulated rollouts: how often it is wrong, and how fast it is right."""
