"""py-libp2p on our swarm: the only place that imports it, and imported only when asked for."""
