"""Parallax, the original `lattica`'s best-known user, unmodified on our drop-in.

`python -m tools.parallax CHECKOUT` runs its scheduler, two workers and its chat server from a
checkout of its sources, of which no file is changed: only torch, MLX, the hub of models and the
executor that would load one are others (`stubs/`). All of it is in a network lab: on one host, or
behind NATs between which only a relay connects. What is asked goes through Parallax's own HTTP.
"""
