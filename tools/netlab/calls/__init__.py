"""Calls under chaos: a counter's service is called while the network and the programs fail.

`python -m tools.netlab calls` counts every call three times, in files that outlive a SIGKILL: when
it is attempted, when it is executed, and what its caller was told.
"""
