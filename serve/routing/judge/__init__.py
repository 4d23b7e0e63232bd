"""The judge: pure functions from counts to verdicts, valid however often they are asked."""
