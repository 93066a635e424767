"""Topics of many nodes, simulated in virtual time by the real routers."""
