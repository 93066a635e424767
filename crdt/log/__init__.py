"""The log of a document: what is admitted, and in which order. Pure, but for what is in `disk`."""
