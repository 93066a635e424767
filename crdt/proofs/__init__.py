"""Proofs of what a document says, which need neither a node nor a replica to be verified. Pure:
nothing here imports trio.
"""
