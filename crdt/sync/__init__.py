"""What replicas tell each other: what each lacks, who is there. Pure; `crdt.store` drives it."""
