"""Answering what other peers ask: :mod:`~lattica.dht.server.core` decides, and is pure."""
