"""Every document is replicated with all who have it open: what is said, to whom, and when."""
