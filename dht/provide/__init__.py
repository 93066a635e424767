"""Providing many keys at once, region by region. Pure."""
