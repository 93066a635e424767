from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Birthday(_message.Message):
    __slots__ = ("hello", "refusal", "ready", "met")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    MET_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    refusal: Refusal
    ready: Ready
    met: Met
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., met: _Optional[_Union[Met, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("token", "mapping", "filtering", "mapped")
    class Behaviour(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Hello.Behaviour]
        ENDPOINT_INDEPENDENT: _ClassVar[Hello.Behaviour]
        ADDRESS_DEPENDENT: _ClassVar[Hello.Behaviour]
        ADDRESS_AND_PORT_DEPENDENT: _ClassVar[Hello.Behaviour]
    UNKNOWN: Hello.Behaviour
    ENDPOINT_INDEPENDENT: Hello.Behaviour
    ADDRESS_DEPENDENT: Hello.Behaviour
    ADDRESS_AND_PORT_DEPENDENT: Hello.Behaviour
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    MAPPING_FIELD_NUMBER: _ClassVar[int]
    FILTERING_FIELD_NUMBER: _ClassVar[int]
    MAPPED_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    mapping: Hello.Behaviour
    filtering: Hello.Behaviour
    mapped: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, token: _Optional[bytes] = ..., mapping: _Optional[_Union[Hello.Behaviour, str]] = ..., filtering: _Optional[_Union[Hello.Behaviour, str]] = ..., mapped: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("ip", "port")
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    ip: bytes
    port: int
    def __init__(self, ip: _Optional[bytes] = ..., port: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "temporary")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEMPORARY_FIELD_NUMBER: _ClassVar[int]
    reason: bytes
    temporary: bool
    def __init__(self, reason: _Optional[bytes] = ..., temporary: bool = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("sockets",)
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    sockets: int
    def __init__(self, sockets: _Optional[int] = ...) -> None: ...

class Met(_message.Message):
    __slots__ = ("port",)
    PORT_FIELD_NUMBER: _ClassVar[int]
    port: int
    def __init__(self, port: _Optional[int] = ...) -> None: ...
