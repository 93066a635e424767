"""Who is in a topic, all of them and not only those who are connected: joins and leaves as events.

Members say so in a topic beside it, at intervals that grow with their number.
"""
