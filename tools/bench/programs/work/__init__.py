"""The work that children of several implementations do alike. `bench_child` is beside it."""
