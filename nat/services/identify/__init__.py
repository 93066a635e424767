"""libp2p identify and identify-push: who a peer is, and at which address it sees us."""
