"""Packets and what NATs do to them. Pure."""
