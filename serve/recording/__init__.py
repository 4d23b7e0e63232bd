"""What becomes of recorded requests: Arrow batches, journals, sealed Parquet, queries. Needs the extra `records`."""
