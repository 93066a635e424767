"""Plain data as the original sends it: pickles, of which only what describes data is read.

Nothing is unpickled: the reader knows the opcodes that make plain values, and refuses every other.
"""
