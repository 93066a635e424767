"""TCP hole punching, coordinated by libp2p's DCUtR."""
