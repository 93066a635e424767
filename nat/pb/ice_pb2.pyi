from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Message(_message.Message):
    __slots__ = ("type", "ufrag", "password", "candidates", "reason")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNUSED: _ClassVar[Message.Type]
        OFFER: _ClassVar[Message.Type]
        ANSWER: _ClassVar[Message.Type]
        START: _ClassVar[Message.Type]
        REFUSAL: _ClassVar[Message.Type]
    UNUSED: Message.Type
    OFFER: Message.Type
    ANSWER: Message.Type
    START: Message.Type
    REFUSAL: Message.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    UFRAG_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    type: Message.Type
    ufrag: bytes
    password: bytes
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    reason: bytes
    def __init__(self, type: _Optional[_Union[Message.Type, str]] = ..., ufrag: _Optional[bytes] = ..., password: _Optional[bytes] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., reason: _Optional[bytes] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("type", "ip", "port", "priority", "foundation")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNUSED: _ClassVar[Candidate.Type]
        HOST: _ClassVar[Candidate.Type]
        SERVER_REFLEXIVE: _ClassVar[Candidate.Type]
        PEER_REFLEXIVE: _ClassVar[Candidate.Type]
    UNUSED: Candidate.Type
    HOST: Candidate.Type
    SERVER_REFLEXIVE: Candidate.Type
    PEER_REFLEXIVE: Candidate.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FOUNDATION_FIELD_NUMBER: _ClassVar[int]
    type: Candidate.Type
    ip: bytes
    port: int
    priority: int
    foundation: bytes
    def __init__(self, type: _Optional[_Union[Candidate.Type, str]] = ..., ip: _Optional[bytes] = ..., port: _Optional[int] = ..., priority: _Optional[int] = ..., foundation: _Optional[bytes] = ...) -> None: ...
