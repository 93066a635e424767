"""Telling the peers nearest to keys who provides them: one key at once, many region by region."""
