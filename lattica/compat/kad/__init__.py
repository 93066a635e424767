"""The original's Kademlia: its records and providers, under the name of its network."""
