"""The Python API of the original `lattica` (1.0.21), so that a program of its users runs unchanged.

`from lattica import Lattica, ConnectionHandler, rpc_method, rpc_stream, rpc_stream_iter`, and
`Lattica.builder().with_….build()` gives a node of this kind, which stands on
:class:`lattica.Lattica`. docs/guides/compat.md says what it does otherwise, and why.
"""

from lattica.compat.large_blocks import keep_large_blocks

keep_large_blocks()
