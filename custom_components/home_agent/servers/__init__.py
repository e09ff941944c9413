"""Model servers: what differs on the wire lives in this package, nowhere else."""
