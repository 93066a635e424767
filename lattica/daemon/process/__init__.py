"""`Lattica(process=True)`: a node in a process of its own, which ends with the program.

The program has no node. It has :class:`lattica.daemon.process.blocking.ProcessLattica`, and a
socket pair to the other process, in which a :class:`~lattica.facades.blocking.Lattica` runs as it
would here. Two things go over it:

- *Calls*. What would be called here is called there, by its name, with the same arguments
  (:mod:`~lattica.daemon.process.remote`); what comes of it is either a value, which is copied
  (:mod:`~lattica.daemon.process.values`), or an object that stays there and is called in turn.
- *Streams*. For each connection that the program has streams on there is a second one, between the
  two processes, that looks like it (:mod:`~lattica.daemon.process.mirror`). So handlers, RPC and
  its stubs run in the program, on streams like any others.

Both processes are of one version and trust each other; what peers send is checked where it arrives.
"""
