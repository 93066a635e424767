"""What every cluster keeps in documents: which models there are, who is there, what is to be done.

They take a document as trio has it or as threads do, and keep nothing of their own.
"""
