"""Many who have, or are getting, the same content: who has what of it, and who is asked for it."""
