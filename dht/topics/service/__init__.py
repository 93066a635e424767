"""Topics on a node: streams, queues and those who publish and subscribe."""
