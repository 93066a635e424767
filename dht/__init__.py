"""Kademlia, records, providers, rendezvous and local discovery will live here.

Nothing is built yet.
"""
