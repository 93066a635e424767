# mypy: ignore-errors
"""Instead of Parallax's executor: passes on what it gets, as a model of a few layers would.

It speaks with the rest of Parallax as the real one does: `forward`, `abort` and `refit` come from
the P2P server by ZMQ, `forward` and `abort` go back to it, weights come through the pipe.
"""

import hashlib
import json
import time
from typing import Any

import zmq
from parallax.p2p.proto import forward_pb2
from parallax.p2p.server import ServerState
from parallax.utils.shared_state import SharedState
from parallax.utils.utils import get_zmq_socket


def tell(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


class MLXExecutor:
    def __init__(self, **config: Any) -> None:
        self.is_head = config["start_layer"] == 0
        self.weights = config["conn"][0]
        self.state = SharedState(config["shared_state"])
        context = zmq.Context.instance()
        self.inbox = get_zmq_socket(context, zmq.PULL, config["recv_from_peer_addr"], False)
        self.outbox = get_zmq_socket(context, zmq.PUSH, config["send_to_peer_addr"], False)
        self.frontend = context.socket(zmq.REP)
        self.frontend.bind(config["executor_input_ipc_addr"])
        self.tensors: dict[str, Any] = {}
        self.pending: tuple[str, bytes, float] | None = None
        tell("executor", start_layer=config["start_layer"], end_layer=config["end_layer"])

    def run_loop(self) -> None:
        poller = zmq.Poller()
        for each in (self.inbox, self.frontend, self.weights):
            poller.register(each, zmq.POLLIN)
        self.state.set_status(ServerState.READY.value)
        while True:
            ready = dict(poller.poll())
            if self.frontend in ready:
                self.ask(json.loads(self.frontend.recv()))
            if self.weights.fileno() in ready:
                self.tensors = self.weights.recv()
            if self.inbox in ready:
                kind, *rest = self.inbox.recv_multipart()
                getattr(self, f"on_{kind.decode()}")(*rest)

    def ask(self, asked: dict[str, Any]) -> None:
        """What the frontend wants: one pass round the ring, or that a request be given up."""
        request = forward_pb2.Req(rid=asked["rid"], routing_table=asked["routing_table"])
        if asked["do"] == "abort":
            self.outbox.send_multipart(
                [b"abort", forward_pb2.AbortRequest(reqs=[request]).SerializeToString()]
            )
            self.frontend.send(b"{}")
            return
        request.hidden_states = b"\x5a" * asked["bytes"]
        digest = hashlib.sha1(request.hidden_states).digest()
        body = forward_pb2.ForwardRequest(reqs=[request]).SerializeToString()
        self.pending = (request.rid, digest, time.monotonic())
        self.outbox.send_multipart([b"forward", body])

    def on_forward(self, body: bytes) -> None:
        if not self.is_head or self.pending is None:
            self.outbox.send_multipart([b"forward", body])
            return
        (request,) = forward_pb2.ForwardRequest.FromString(body).reqs
        rid, digest, began = self.pending
        took = time.monotonic() - began
        self.pending = None
        is_same = request.rid == rid and hashlib.sha1(request.hidden_states).digest() == digest
        self.frontend.send(json.dumps({"seconds": took, "is_same": is_same}).encode())

    def on_abort(self, body: bytes) -> None:
        aborted = forward_pb2.AbortRequest.FromString(body)
        tell("aborted", rids=[each.rid for each in aborted.reqs])

    def on_refit(self, path: bytes, version: bytes) -> None:
        sums = {name: int(tensor.sum(dtype=float)) for name, tensor in self.tensors.items()}
        tell("refitted", version=int(version), sums=sums)

    def shutdown(self) -> None: ...
