"""How replicas find out what each other lacks: pure. The driver is `lattica.crdt.store`."""
