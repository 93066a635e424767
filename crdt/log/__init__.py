"""The log of a document: what is admitted, in which order, and what is kept on disk."""
