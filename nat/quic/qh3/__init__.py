"""qh3, the QUIC implementation underneath, as it is used here: the only place that imports it."""
