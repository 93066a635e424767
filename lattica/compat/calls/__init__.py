"""Services of the original and calls of them: methods that are marked, arguments, and results."""
