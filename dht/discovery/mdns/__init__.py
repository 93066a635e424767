"""Peers on the local network, by multicast DNS."""
