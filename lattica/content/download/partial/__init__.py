"""The unfinished files of a fetch: written, taken up again, read back, and given their names."""
