"""Ports that a router is asked to open: UPnP-IGD, NAT-PMP, PCP."""
