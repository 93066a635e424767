"""RPC on the wire, pure: :mod:`~lattica.rpc.protocol.frames` and the two cores of the control
plane, :mod:`~lattica.rpc.protocol.messages` for the data plane. `docs/formats/rpc.md` describes
both.
"""
