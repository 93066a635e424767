"""Who writes: signatures checked strictly, and the session keys that identities vouch for."""
