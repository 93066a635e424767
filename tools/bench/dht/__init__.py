"""Kademlia's cores in virtual time: thousands of nodes in one process, with churn and liars.

What runs is `lattica.dht.kademlia` as it is; streams, dials and time are simulated, and messages
are not encoded.
"""
