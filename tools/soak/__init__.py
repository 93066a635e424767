"""A soak: a small mesh works for half an hour while nodes come and go, and must not grow.

Hosts behind NATs, two relays, and programs that publish and fetch, call each other, speak on a
topic and write to a document, in the network lab (:mod:`tools.netlab`).
"""
