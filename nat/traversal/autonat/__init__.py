"""AutoNAT v2: which of this node's addresses strangers can reach."""
