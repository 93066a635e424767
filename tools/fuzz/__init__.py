"""Fuzzing of every decoder that reads bytes from strangers.

`python -m tools.fuzz` lists the targets, `python -m tools.fuzz yamux --seconds 60` runs one,
`python -m tools.fuzz all` runs all. A target takes bytes and feeds them to one decoder; only
the errors it names may come out, in bounded time and memory, and its time may not grow faster than
its input (`growth.py`). What else comes out is a crash:
it is made smaller, saved under `.cache/fuzz/`, and printed with the command that repeats it.

The engine is atheris (coverage-guided; extra `fuzz`) where it is installed, else seeded random
mutation of examples.
"""
