"""`lattica node`: a member of the mesh that runs all the time.

| module | what is in it |
|---|---|
| :mod:`~lattica.daemon.node.config` | what it serves, and where it is asked: table `[node]` |
| :mod:`~lattica.daemon.node.member` | what it serves, and what of it is under way |
| :mod:`~lattica.daemon.node.transfers` | hashings and fetches that are under way, pure |
| :mod:`~lattica.daemon.node.log_lines` | the last lines of its log, for who asks |
| :mod:`~lattica.daemon.node.running` | all of it, from start to end |
"""
