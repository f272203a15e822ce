"""What the methods are made of: a problem, passes over batches, descent, replicas, checkpoints."""
