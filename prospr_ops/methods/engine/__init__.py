"""The parts of methods: problem, passes over batches, descent, replicas, checkpoints."""
