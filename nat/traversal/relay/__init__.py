"""libp2p circuit relay v2: a connection through a third peer that both can reach."""
