"""The side that wants files: from a ticket to verified bytes on disk."""
