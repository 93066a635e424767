"""Kademlia: messages, the table of peers, and lookups. Pure: time and randomness are passed in.

Sources: Maymounkov and Mazières, "Kademlia: A Peer-to-peer Information System Based on the XOR
Metric" (2002); libp2p's https://github.com/libp2p/specs/blob/master/kad-dht/README.md; Baumgart and
Mies, "S/Kademlia: A Practicable Approach Towards Secure Key-Based Routing" (2007).
"""
