"""What a service is: :mod:`~lattica.rpc.service.definition` reads it off a plain annotated class,
:mod:`~lattica.rpc.service.context` is what its handlers may know about a call.
"""
