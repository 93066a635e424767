"""Attacks by one hostile host on a node of our own, on loopback, beside an honest peer.

`python -m tools.attack` lists them, `python -m tools.attack yamux-resets --json` runs one, and
`python -m tools.attack all` runs all. Three processes take part: the victim
(:mod:`tools.attack.victim`), an honest peer that echoes every 20 ms over TCP and over QUIC
(:mod:`tools.attack.honest`), and the enemy (:mod:`tools.attack.enemy`), which comes from a network
of its own, 127.66.0.0/24. What is reported is what the honest peer noticed, and what it cost the
victim. An attack is a module in `attacks/` and a line in `table.py`.
"""
