"""Names that lead to content: said and signed by their owner, and changed by nobody else."""
