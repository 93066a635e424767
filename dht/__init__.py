"""How peers, values and content are found without a centre.

:mod:`lattica.dht.dht` is what a node has as `node.dht`. Below, :mod:`lattica.dht.upkeep` joins the
network and keeps it fresh, :mod:`lattica.dht.client` asks others, and :mod:`lattica.dht.server`
answers them from :mod:`lattica.dht.store`; :mod:`lattica.dht.records` says what can be stored, and
:mod:`lattica.dht.kademlia` has messages, the table and lookups.
"""
