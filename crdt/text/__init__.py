"""Text and lists: edits in a form of our own, checked here, and merged by Yjs (pycrdt)."""
