from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransportCipher(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_CIPHER_UNSPECIFIED: _ClassVar[TransportCipher]
    AES_256_GCM: _ClassVar[TransportCipher]
TRANSPORT_CIPHER_UNSPECIFIED: TransportCipher
AES_256_GCM: TransportCipher

class NoiseHandshakePayload(_message.Message):
    __slots__ = ("identity_key", "identity_sig", "extensions")
    IDENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SIG_FIELD_NUMBER: _ClassVar[int]
    EXTENSIONS_FIELD_NUMBER: _ClassVar[int]
    identity_key: bytes
    identity_sig: bytes
    extensions: NoiseExtensions
    def __init__(self, identity_key: _Optional[bytes] = ..., identity_sig: _Optional[bytes] = ..., extensions: _Optional[_Union[NoiseExtensions, _Mapping]] = ...) -> None: ...

class NoiseExtensions(_message.Message):
    __slots__ = ("transport_ciphers", "instance")
    TRANSPORT_CIPHERS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    transport_ciphers: _containers.RepeatedScalarFieldContainer[TransportCipher]
    instance: bytes
    def __init__(self, transport_ciphers: _Optional[_Iterable[_Union[TransportCipher, str]]] = ..., instance: _Optional[bytes] = ...) -> None: ...
