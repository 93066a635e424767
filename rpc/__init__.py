"""Calls, streaming calls, tensors, the gRPC bridge and port forwarding will live here.

Nothing is built yet.
"""
