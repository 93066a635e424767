"""What `impl_lattica.py` does in each bench."""
