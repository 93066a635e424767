"""Rendezvous: peers leave their records at a meeting point, by namespace, and find each other's.

Source: https://github.com/libp2p/specs/blob/master/rendezvous/README.md; go and rust speak it.
"""
