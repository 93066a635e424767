"""A small internet in network namespaces: NATs, bad links, faults; see README.md in this folder."""
