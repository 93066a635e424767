"""Configurations to begin with: files for `lattica config init`."""
