"""What a service is: :mod:`~lattica.rpc.services.definition` reads it off a plain annotated class,
:mod:`~lattica.rpc.services.context` is what its handlers may know about a call.
"""
