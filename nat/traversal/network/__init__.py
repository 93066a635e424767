"""What this machine knows of its own network, and when that changes."""
