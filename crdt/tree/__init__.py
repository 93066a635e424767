"""The ordered tree over the resolved state: one root for equal states, proofs of what is there and
what is not. Pure: it imports neither trio nor a node.
"""
