"""Load: benches beside other servers, locust scenarios, and what both send."""
