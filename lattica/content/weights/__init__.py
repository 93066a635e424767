"""Weight channels: a trainer publishes versions of its weights, and others follow."""
