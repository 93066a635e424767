"""The directory that is fetched into: what lies there, what is in the way, what may go."""
