from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("peer_id", "version", "pid", "uptime_seconds", "addrs", "announcing", "peers", "publications", "transfers", "documents", "ports", "topics", "dht", "relay", "bootstrap", "data_dir")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCING_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    DHT_FIELD_NUMBER: _ClassVar[int]
    RELAY_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_FIELD_NUMBER: _ClassVar[int]
    DATA_DIR_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    version: str
    pid: int
    uptime_seconds: float
    addrs: _containers.RepeatedScalarFieldContainer[str]
    announcing: _containers.RepeatedScalarFieldContainer[str]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    publications: _containers.RepeatedCompositeFieldContainer[Publication]
    transfers: _containers.RepeatedCompositeFieldContainer[Transfer]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    ports: _containers.RepeatedCompositeFieldContainer[Port]
    topics: _containers.RepeatedCompositeFieldContainer[Topic]
    dht: Dht
    relay: Relay
    bootstrap: _containers.RepeatedScalarFieldContainer[str]
    data_dir: str
    def __init__(self, peer_id: _Optional[str] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., addrs: _Optional[_Iterable[str]] = ..., announcing: _Optional[_Iterable[str]] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., publications: _Optional[_Iterable[_Union[Publication, _Mapping]]] = ..., transfers: _Optional[_Iterable[_Union[Transfer, _Mapping]]] = ..., documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., ports: _Optional[_Iterable[_Union[Port, _Mapping]]] = ..., topics: _Optional[_Iterable[_Union[Topic, _Mapping]]] = ..., dht: _Optional[_Union[Dht, _Mapping]] = ..., relay: _Optional[_Union[Relay, _Mapping]] = ..., bootstrap: _Optional[_Iterable[str]] = ..., data_dir: _Optional[str] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("peer_id", "agent", "path", "addr", "relay", "rtt_seconds", "age_seconds", "connections", "strategies", "next_attempt_seconds")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    RELAY_FIELD_NUMBER: _ClassVar[int]
    RTT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    STRATEGIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    agent: str
    path: str
    addr: str
    relay: str
    rtt_seconds: float
    age_seconds: float
    connections: _containers.RepeatedCompositeFieldContainer[Connection]
    strategies: _containers.RepeatedCompositeFieldContainer[Strategy]
    next_attempt_seconds: float
    def __init__(self, peer_id: _Optional[str] = ..., agent: _Optional[str] = ..., path: _Optional[str] = ..., addr: _Optional[str] = ..., relay: _Optional[str] = ..., rtt_seconds: _Optional[float] = ..., age_seconds: _Optional[float] = ..., connections: _Optional[_Iterable[_Union[Connection, _Mapping]]] = ..., strategies: _Optional[_Iterable[_Union[Strategy, _Mapping]]] = ..., next_attempt_seconds: _Optional[float] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("path", "addr", "direction", "age_seconds", "rtt_seconds", "streams", "cipher")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RTT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    CIPHER_FIELD_NUMBER: _ClassVar[int]
    path: str
    addr: str
    direction: str
    age_seconds: float
    rtt_seconds: float
    streams: int
    cipher: str
    def __init__(self, path: _Optional[str] = ..., addr: _Optional[str] = ..., direction: _Optional[str] = ..., age_seconds: _Optional[float] = ..., rtt_seconds: _Optional[float] = ..., streams: _Optional[int] = ..., cipher: _Optional[str] = ...) -> None: ...

class Strategy(_message.Message):
    __slots__ = ("name", "ok", "reason", "applicable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    APPLICABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    ok: bool
    reason: str
    applicable: bool
    def __init__(self, name: _Optional[str] = ..., ok: bool = ..., reason: _Optional[str] = ..., applicable: bool = ...) -> None: ...

class Publication(_message.Message):
    __slots__ = ("cid", "name", "files", "bytes", "ticket", "can_improve", "registry", "repo")
    CID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    CAN_IMPROVE_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    cid: str
    name: str
    files: int
    bytes: int
    ticket: str
    can_improve: _containers.RepeatedScalarFieldContainer[str]
    registry: str
    repo: str
    def __init__(self, cid: _Optional[str] = ..., name: _Optional[str] = ..., files: _Optional[int] = ..., bytes: _Optional[int] = ..., ticket: _Optional[str] = ..., can_improve: _Optional[_Iterable[str]] = ..., registry: _Optional[str] = ..., repo: _Optional[str] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("id", "kind", "name", "path", "phase", "bytes_done", "bytes_total", "bytes_per_second", "sources")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    name: str
    path: str
    phase: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    sources: int
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., path: _Optional[str] = ..., phase: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., sources: _Optional[int] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "name", "mode", "open", "peers")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    mode: str
    open: bool
    peers: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., mode: _Optional[str] = ..., open: bool = ..., peers: _Optional[int] = ...) -> None: ...

class Port(_message.Message):
    __slots__ = ("name", "target", "connections")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    target: str
    connections: int
    def __init__(self, name: _Optional[str] = ..., target: _Optional[str] = ..., connections: _Optional[int] = ...) -> None: ...

class Topic(_message.Message):
    __slots__ = ("name", "subscriptions", "peers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    subscriptions: int
    peers: int
    def __init__(self, name: _Optional[str] = ..., subscriptions: _Optional[int] = ..., peers: _Optional[int] = ...) -> None: ...

class Dht(_message.Message):
    __slots__ = ("mode", "peers", "values", "providers", "provided", "announced_to", "storage", "network_size", "network_size_error", "providing", "reprovide_due", "reprovide_lag_seconds", "crowded")
    MODE_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PROVIDERS_FIELD_NUMBER: _ClassVar[int]
    PROVIDED_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCED_TO_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SIZE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SIZE_ERROR_FIELD_NUMBER: _ClassVar[int]
    PROVIDING_FIELD_NUMBER: _ClassVar[int]
    REPROVIDE_DUE_FIELD_NUMBER: _ClassVar[int]
    REPROVIDE_LAG_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CROWDED_FIELD_NUMBER: _ClassVar[int]
    mode: str
    peers: int
    values: int
    providers: int
    provided: int
    announced_to: int
    storage: str
    network_size: float
    network_size_error: float
    providing: int
    reprovide_due: int
    reprovide_lag_seconds: float
    crowded: int
    def __init__(self, mode: _Optional[str] = ..., peers: _Optional[int] = ..., values: _Optional[int] = ..., providers: _Optional[int] = ..., provided: _Optional[int] = ..., announced_to: _Optional[int] = ..., storage: _Optional[str] = ..., network_size: _Optional[float] = ..., network_size_error: _Optional[float] = ..., providing: _Optional[int] = ..., reprovide_due: _Optional[int] = ..., reprovide_lag_seconds: _Optional[float] = ..., crowded: _Optional[int] = ...) -> None: ...

class Relay(_message.Message):
    __slots__ = ("reservations", "max_reservations", "circuits", "max_circuits")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    CIRCUITS_FIELD_NUMBER: _ClassVar[int]
    MAX_CIRCUITS_FIELD_NUMBER: _ClassVar[int]
    reservations: int
    max_reservations: int
    circuits: int
    max_circuits: int
    def __init__(self, reservations: _Optional[int] = ..., max_reservations: _Optional[int] = ..., circuits: _Optional[int] = ..., max_circuits: _Optional[int] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("event", "peer_id", "path", "addr", "reason", "time")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ADDR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    event: str
    peer_id: str
    path: str
    addr: str
    reason: str
    time: float
    def __init__(self, event: _Optional[str] = ..., peer_id: _Optional[str] = ..., path: _Optional[str] = ..., addr: _Optional[str] = ..., reason: _Optional[str] = ..., time: _Optional[float] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("last",)
    LAST_FIELD_NUMBER: _ClassVar[int]
    last: int
    def __init__(self, last: _Optional[int] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("time", "level", "logger", "message")
    TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    time: float
    level: str
    logger: str
    message: str
    def __init__(self, time: _Optional[float] = ..., level: _Optional[str] = ..., logger: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ConnectRequest(_message.Message):
    __slots__ = ("targets", "timeout_seconds")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[str]
    timeout_seconds: float
    def __init__(self, targets: _Optional[_Iterable[str]] = ..., timeout_seconds: _Optional[float] = ...) -> None: ...

class ConnectReply(_message.Message):
    __slots__ = ("peer_id", "path")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    path: str
    def __init__(self, peer_id: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class DisconnectRequest(_message.Message):
    __slots__ = ("peer_id",)
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    def __init__(self, peer_id: _Optional[str] = ...) -> None: ...

class DisconnectReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CallRequest(_message.Message):
    __slots__ = ("peer_id", "method", "arguments", "keywords")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    KEYWORDS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    method: str
    arguments: bytes
    keywords: bytes
    def __init__(self, peer_id: _Optional[str] = ..., method: _Optional[str] = ..., arguments: _Optional[bytes] = ..., keywords: _Optional[bytes] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: bytes
    def __init__(self, result: _Optional[bytes] = ...) -> None: ...

class ServeRequest(_message.Message):
    __slots__ = ("service", "methods", "allow")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    service: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    allow: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., allow: _Optional[_Iterable[str]] = ...) -> None: ...

class ServedCall(_message.Message):
    __slots__ = ("id", "method", "arguments", "keywords", "peer_id", "timeout_seconds", "cancelled")
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    KEYWORDS_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    id: int
    method: str
    arguments: bytes
    keywords: bytes
    peer_id: str
    timeout_seconds: float
    cancelled: bool
    def __init__(self, id: _Optional[int] = ..., method: _Optional[str] = ..., arguments: _Optional[bytes] = ..., keywords: _Optional[bytes] = ..., peer_id: _Optional[str] = ..., timeout_seconds: _Optional[float] = ..., cancelled: bool = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("id", "result", "code", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: int
    result: bytes
    code: int
    message: str
    def __init__(self, id: _Optional[int] = ..., result: _Optional[bytes] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class AnswerReply(_message.Message):
    __slots__ = ("wanted",)
    WANTED_FIELD_NUMBER: _ClassVar[int]
    wanted: bool
    def __init__(self, wanted: bool = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("path", "name", "follow_links", "sign", "registry", "bytes_per_second", "repo")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_LINKS_FIELD_NUMBER: _ClassVar[int]
    SIGN_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    follow_links: bool
    sign: bool
    registry: str
    bytes_per_second: float
    repo: str
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., follow_links: bool = ..., sign: bool = ..., registry: _Optional[str] = ..., bytes_per_second: _Optional[float] = ..., repo: _Optional[str] = ...) -> None: ...

class PublishProgress(_message.Message):
    __slots__ = ("bytes_done", "bytes_total", "publication")
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PUBLICATION_FIELD_NUMBER: _ClassVar[int]
    bytes_done: int
    bytes_total: int
    publication: Publication
    def __init__(self, bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., publication: _Optional[_Union[Publication, _Mapping]] = ...) -> None: ...

class UnpublishRequest(_message.Message):
    __slots__ = ("ref",)
    REF_FIELD_NUMBER: _ClassVar[int]
    ref: str
    def __init__(self, ref: _Optional[str] = ...) -> None: ...

class UnpublishReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("ref", "directory", "tensors", "replace_tensors", "delete_former", "delete_matching", "base", "no_share", "share_seconds", "bytes_per_second", "signed_by", "ranges")
    REF_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    REPLACE_TENSORS_FIELD_NUMBER: _ClassVar[int]
    DELETE_FORMER_FIELD_NUMBER: _ClassVar[int]
    DELETE_MATCHING_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    NO_SHARE_FIELD_NUMBER: _ClassVar[int]
    SHARE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ref: str
    directory: str
    tensors: str
    replace_tensors: bool
    delete_former: bool
    delete_matching: _containers.RepeatedScalarFieldContainer[str]
    base: _containers.RepeatedScalarFieldContainer[str]
    no_share: bool
    share_seconds: float
    bytes_per_second: float
    signed_by: str
    ranges: _containers.RepeatedCompositeFieldContainer[ByteRange]
    def __init__(self, ref: _Optional[str] = ..., directory: _Optional[str] = ..., tensors: _Optional[str] = ..., replace_tensors: bool = ..., delete_former: bool = ..., delete_matching: _Optional[_Iterable[str]] = ..., base: _Optional[_Iterable[str]] = ..., no_share: bool = ..., share_seconds: _Optional[float] = ..., bytes_per_second: _Optional[float] = ..., signed_by: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[ByteRange, _Mapping]]] = ...) -> None: ...

class ByteRange(_message.Message):
    __slots__ = ("path", "start", "stop")
    PATH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    path: str
    start: int
    stop: int
    def __init__(self, path: _Optional[str] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class FetchProgress(_message.Message):
    __slots__ = ("phase", "bytes_done", "bytes_total", "bytes_fetched", "bytes_per_second", "sources", "name", "files", "directories", "error", "seconds", "done")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    bytes_done: int
    bytes_total: int
    bytes_fetched: int
    bytes_per_second: float
    sources: int
    name: str
    files: int
    directories: int
    error: str
    seconds: float
    done: FetchDone
    def __init__(self, phase: _Optional[str] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., bytes_fetched: _Optional[int] = ..., bytes_per_second: _Optional[float] = ..., sources: _Optional[int] = ..., name: _Optional[str] = ..., files: _Optional[int] = ..., directories: _Optional[int] = ..., error: _Optional[str] = ..., seconds: _Optional[float] = ..., done: _Optional[_Union[FetchDone, _Mapping]] = ...) -> None: ...

class FetchDone(_message.Message):
    __slots__ = ("cid", "name", "paths", "bytes_total", "bytes_fetched", "seconds", "sources", "bytes_shared", "other_files", "former_files", "removed_files", "directory_cut")
    CID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    BYTES_SHARED_FIELD_NUMBER: _ClassVar[int]
    OTHER_FILES_FIELD_NUMBER: _ClassVar[int]
    FORMER_FILES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_CUT_FIELD_NUMBER: _ClassVar[int]
    cid: str
    name: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    bytes_total: int
    bytes_fetched: int
    seconds: float
    sources: _containers.RepeatedCompositeFieldContainer[FetchSource]
    bytes_shared: int
    other_files: _containers.RepeatedScalarFieldContainer[str]
    former_files: _containers.RepeatedScalarFieldContainer[str]
    removed_files: _containers.RepeatedScalarFieldContainer[str]
    directory_cut: bool
    def __init__(self, cid: _Optional[str] = ..., name: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., bytes_total: _Optional[int] = ..., bytes_fetched: _Optional[int] = ..., seconds: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[FetchSource, _Mapping]]] = ..., bytes_shared: _Optional[int] = ..., other_files: _Optional[_Iterable[str]] = ..., former_files: _Optional[_Iterable[str]] = ..., removed_files: _Optional[_Iterable[str]] = ..., directory_cut: bool = ...) -> None: ...

class FetchSource(_message.Message):
    __slots__ = ("peer_id", "bytes_fetched")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    BYTES_FETCHED_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    bytes_fetched: int
    def __init__(self, peer_id: _Optional[str] = ..., bytes_fetched: _Optional[int] = ...) -> None: ...

class DhtPutRequest(_message.Message):
    __slots__ = ("key", "value", "subkey", "ttl_seconds")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SUBKEY_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    subkey: str
    ttl_seconds: float
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., subkey: _Optional[str] = ..., ttl_seconds: _Optional[float] = ...) -> None: ...

class DhtPutReply(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: int
    def __init__(self, peers: _Optional[int] = ...) -> None: ...

class DhtGetRequest(_message.Message):
    __slots__ = ("key", "owner")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    key: str
    owner: str
    def __init__(self, key: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class DhtGetReply(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[DhtValue]
    def __init__(self, values: _Optional[_Iterable[_Union[DhtValue, _Mapping]]] = ...) -> None: ...

class DhtValue(_message.Message):
    __slots__ = ("value", "owner", "subkey", "sequence", "expires")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SUBKEY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    owner: str
    subkey: str
    sequence: int
    expires: float
    def __init__(self, value: _Optional[bytes] = ..., owner: _Optional[str] = ..., subkey: _Optional[str] = ..., sequence: _Optional[int] = ..., expires: _Optional[float] = ...) -> None: ...

class DhtProvideRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DhtProvideReply(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: int
    def __init__(self, peers: _Optional[int] = ...) -> None: ...

class DhtWithdrawRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DhtWithdrawReply(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: int
    def __init__(self, peers: _Optional[int] = ...) -> None: ...

class DhtFindProvidersRequest(_message.Message):
    __slots__ = ("name", "count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class FoundPeer(_message.Message):
    __slots__ = ("peer_id", "addrs")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    addrs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_id: _Optional[str] = ..., addrs: _Optional[_Iterable[str]] = ...) -> None: ...

class DhtFindPeerRequest(_message.Message):
    __slots__ = ("peer_id",)
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    def __init__(self, peer_id: _Optional[str] = ...) -> None: ...

class DhtFindPeerReply(_message.Message):
    __slots__ = ("peer",)
    PEER_FIELD_NUMBER: _ClassVar[int]
    peer: FoundPeer
    def __init__(self, peer: _Optional[_Union[FoundPeer, _Mapping]] = ...) -> None: ...

class TopicPublishRequest(_message.Message):
    __slots__ = ("topic", "data")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    topic: str
    data: bytes
    def __init__(self, topic: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class TopicPublishReply(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: int
    def __init__(self, peers: _Optional[int] = ...) -> None: ...

class TopicSubscribeRequest(_message.Message):
    __slots__ = ("topic",)
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic: str
    def __init__(self, topic: _Optional[str] = ...) -> None: ...

class TopicMessage(_message.Message):
    __slots__ = ("data", "source", "seqno", "via")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEQNO_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    source: str
    seqno: int
    via: str
    def __init__(self, data: _Optional[bytes] = ..., source: _Optional[str] = ..., seqno: _Optional[int] = ..., via: _Optional[str] = ...) -> None: ...

class CrdtCreateRequest(_message.Message):
    __slots__ = ("name", "mode")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    mode: str
    def __init__(self, name: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class CrdtOpenRequest(_message.Message):
    __slots__ = ("document", "capability", "timeout_seconds", "must_exist")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MUST_EXIST_FIELD_NUMBER: _ClassVar[int]
    document: str
    capability: bytes
    timeout_seconds: float
    must_exist: bool
    def __init__(self, document: _Optional[str] = ..., capability: _Optional[bytes] = ..., timeout_seconds: _Optional[float] = ..., must_exist: bool = ...) -> None: ...

class CrdtDocument(_message.Message):
    __slots__ = ("id", "name", "mode")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    mode: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., mode: _Optional[str] = ...) -> None: ...

class CrdtListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CrdtListReply(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ...) -> None: ...

class CrdtGetRequest(_message.Message):
    __slots__ = ("document", "name")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    document: str
    name: str
    def __init__(self, document: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class CrdtGetReply(_message.Message):
    __slots__ = ("registers",)
    REGISTERS_FIELD_NUMBER: _ClassVar[int]
    registers: _containers.RepeatedCompositeFieldContainer[CrdtRegister]
    def __init__(self, registers: _Optional[_Iterable[_Union[CrdtRegister, _Mapping]]] = ...) -> None: ...

class CrdtRegister(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class CrdtSetRequest(_message.Message):
    __slots__ = ("document", "name", "value")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    document: str
    name: str
    value: bytes
    def __init__(self, document: _Optional[str] = ..., name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class CrdtSetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CrdtWatchRequest(_message.Message):
    __slots__ = ("document", "prefix")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    document: str
    prefix: str
    def __init__(self, document: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class CrdtLogRequest(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: str
    def __init__(self, document: _Optional[str] = ...) -> None: ...

class CrdtEntry(_message.Message):
    __slots__ = ("id", "milliseconds", "peer_id", "session", "seq", "kind", "name", "size", "is_erased")
    ID_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    IS_ERASED_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    milliseconds: int
    peer_id: str
    session: bytes
    seq: int
    kind: str
    name: str
    size: int
    is_erased: bool
    def __init__(self, id: _Optional[bytes] = ..., milliseconds: _Optional[int] = ..., peer_id: _Optional[str] = ..., session: _Optional[bytes] = ..., seq: _Optional[int] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., size: _Optional[int] = ..., is_erased: bool = ...) -> None: ...

class CrdtEraseRequest(_message.Message):
    __slots__ = ("document", "entries")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    document: str
    entries: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, document: _Optional[str] = ..., entries: _Optional[_Iterable[str]] = ...) -> None: ...

class CrdtEraseReply(_message.Message):
    __slots__ = ("erased",)
    ERASED_FIELD_NUMBER: _ClassVar[int]
    erased: int
    def __init__(self, erased: _Optional[int] = ...) -> None: ...

class CrdtPruneRequest(_message.Message):
    __slots__ = ("document", "grace_seconds")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    GRACE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    document: str
    grace_seconds: float
    def __init__(self, document: _Optional[str] = ..., grace_seconds: _Optional[float] = ...) -> None: ...

class CrdtPruneReply(_message.Message):
    __slots__ = ("pruned", "why")
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    pruned: int
    why: str
    def __init__(self, pruned: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class ExposeRequest(_message.Message):
    __slots__ = ("ports", "to", "anyone", "idle_timeout_seconds")
    PORTS_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    ANYONE_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ports: _containers.RepeatedCompositeFieldContainer[ExposePort]
    to: _containers.RepeatedScalarFieldContainer[str]
    anyone: bool
    idle_timeout_seconds: float
    def __init__(self, ports: _Optional[_Iterable[_Union[ExposePort, _Mapping]]] = ..., to: _Optional[_Iterable[str]] = ..., anyone: bool = ..., idle_timeout_seconds: _Optional[float] = ...) -> None: ...

class ExposePort(_message.Message):
    __slots__ = ("target", "name")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    target: str
    name: str
    def __init__(self, target: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("peer", "ports", "key", "idle_timeout_seconds")
    PEER_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    ports: _containers.RepeatedCompositeFieldContainer[ForwardPort]
    key: str
    idle_timeout_seconds: float
    def __init__(self, peer: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[ForwardPort, _Mapping]]] = ..., key: _Optional[str] = ..., idle_timeout_seconds: _Optional[float] = ...) -> None: ...

class ForwardPort(_message.Message):
    __slots__ = ("port", "local")
    PORT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    port: str
    local: str
    def __init__(self, port: _Optional[str] = ..., local: _Optional[str] = ...) -> None: ...

class PortMessage(_message.Message):
    __slots__ = ("time", "event", "ports", "key", "id", "port", "peer_id", "local", "path", "reason", "bytes_to_peer", "bytes_from_peer", "seconds", "side")
    TIME_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_PEER_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEER_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    time: float
    event: str
    ports: _containers.RepeatedCompositeFieldContainer[ReadyPort]
    key: str
    id: int
    port: str
    peer_id: str
    local: str
    path: str
    reason: str
    bytes_to_peer: int
    bytes_from_peer: int
    seconds: float
    side: str
    def __init__(self, time: _Optional[float] = ..., event: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[ReadyPort, _Mapping]]] = ..., key: _Optional[str] = ..., id: _Optional[int] = ..., port: _Optional[str] = ..., peer_id: _Optional[str] = ..., local: _Optional[str] = ..., path: _Optional[str] = ..., reason: _Optional[str] = ..., bytes_to_peer: _Optional[int] = ..., bytes_from_peer: _Optional[int] = ..., seconds: _Optional[float] = ..., side: _Optional[str] = ...) -> None: ...

class ReadyPort(_message.Message):
    __slots__ = ("name", "place")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    place: str
    def __init__(self, name: _Optional[str] = ..., place: _Optional[str] = ...) -> None: ...
