"""Roll out on running servers. usage: python -m loadtests.rollout [CASE ...] [--quick] [--out FOLDER]."""

import sys

from loadtests.cases import Suite
from loadtests.rollout.canaries import canaries_case
from loadtests.rollout.changes import changes_case
from loadtests.rollout.costs import cost_case
from loadtests.rollout.kills import kills_case
from loadtests.rollout.same import same_case
from loadtests.rollout.shadows import shadow_case
from loadtests.rollout.splits import split_case

SUITE = Suite("rollout", "Roll out on running servers.", (
    "# Rollouts on a running server",
    "",
    "Written by `make bench-rollout` (`python -m loadtests.rollout`): servers of its own, with load from wrk, h2load and a client that",
    "notes when it sent and got each answer, all on one machine. How it measures: [measuring.md](../measuring.md).",
), {
    "split": split_case, "canaries": canaries_case, "same": same_case, "kills": kills_case,
    "changes": changes_case, "cost": cost_case, "shadow": shadow_case,
})


if __name__ == "__main__":
    sys.exit(SUITE.run(sys.argv[1:]))
