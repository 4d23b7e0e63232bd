"""What must outlive a worker: documents with compare-and-set, the audit chain, and who is told of changes."""
