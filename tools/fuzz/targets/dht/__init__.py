"""Targets of the DHT, of topics and of discovery."""
