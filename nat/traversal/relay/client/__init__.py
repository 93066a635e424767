"""The side that is reachable through relays."""
