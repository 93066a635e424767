"""The bottom floor: from a peer's key to open streams.

Transports, the secure channel, the multiplexer, and the swarm that dials, accepts and keeps
connections. Imports nothing of the floors above.
"""

from lattica.nat.base.installation import check_package

check_package()
