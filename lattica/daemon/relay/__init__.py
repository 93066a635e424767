"""`lattica relay`: the relay that somebody runs for years."""
