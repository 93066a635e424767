"""A node lends buffers to its peers, and reads theirs: the driver of :mod:`lattica.rpc.leases`."""
