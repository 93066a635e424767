"""A directory of blocks and references that is content's own: pinned, bounded, and cleaned."""
