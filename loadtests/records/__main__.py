"""Measure recording on running servers. usage: python -m loadtests.records [CASE ...] [--quick] [--out FOLDER]."""

import sys

from loadtests.cases import Suite
from loadtests.records.costs import cost_case
from loadtests.records.disks import disks_case
from loadtests.records.kills import kills_case

SUITE = Suite("records", "Measure recording on running servers.", (
    "# Recording on a running server",
    "",
    "Written by `make bench-records` (`python -m loadtests.records`): servers of its own, loaded by h2load, everything on one machine, the",
    "server on one core. How it measures: [measuring.md](../measuring.md); what is promised: [records.md](../records.md).",
), {"cost": cost_case, "kills": kills_case, "disks": disks_case})


if __name__ == "__main__":
    sys.exit(SUITE.run(sys.argv[1:]))
