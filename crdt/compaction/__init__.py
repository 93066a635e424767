"""What of a document's history can go, and how one begins without it. Pure."""
