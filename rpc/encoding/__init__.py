"""From Python values to bytes and back: a msgpack skeleton, and large buffers beside it as they
lie.

:mod:`~lattica.rpc.encoding.encoder` and :mod:`~lattica.rpc.encoding.decoder` are the two
directions, :mod:`~lattica.rpc.encoding.arrays` what numpy and torch need,
:mod:`~lattica.rpc.encoding.registry` the types that a receiver knows by name,
:mod:`~lattica.rpc.encoding.annotations` what a value must be by its annotation,
:mod:`~lattica.rpc.encoding.memory` where received buffers lie. The format is in
`docs/formats/rpc.md`. There is no pickle, and no name from the network leads to an import.
"""
