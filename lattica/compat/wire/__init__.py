"""The original's own protocols on the wire, so that clusters of its nodes and of ours are one."""
