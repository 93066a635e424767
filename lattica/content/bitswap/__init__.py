"""Bitswap 1.2: single blocks to and from the original lattica, Kubo, Helia and others.

Source: https://specs.ipfs.tech/bitswap-protocol/
"""
