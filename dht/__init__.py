"""How peers, values and content are found without a centre.

:mod:`lattica.dht.kademlia` is the pure part of the table, of lookups and of messages. No node uses
it yet: records, providers and what drives all that are still to be built.
"""
