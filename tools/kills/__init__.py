"""Kills a publisher and a fetcher at random, again and again, and compares the bytes."""
