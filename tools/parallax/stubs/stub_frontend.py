# mypy: ignore-errors
"""Instead of `vllm-rs frontend`: answers chat completions with words that it counts.

`max_tokens` words; before each, where `ring_bytes` is given, a pass round the ring with so much.
"""

import argparse
import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import zmq

PAUSE = 0.004
"""Seconds between words."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_stream = bool(body.get("stream"))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if is_stream else "application/json")
        self.end_headers()
        words = []
        try:
            for number in range(body["max_tokens"]):
                word = {"number": number, **self.ring(body)}
                words.append(word)
                if is_stream:
                    self.wfile.write(f"data: {json.dumps(word)}\n\n".encode())
                    self.wfile.flush()
                    time.sleep(PAUSE)
            self.wfile.write(b"data: [DONE]\n\n" if is_stream else json.dumps(words).encode())
        except OSError:
            print(json.dumps({"event": "stopped", "after": len(words)}), flush=True)
            self.ask(body, do="abort")

    def ring(self, body: dict[str, Any]) -> Any:
        if not body.get("ring_bytes"):
            return {}
        return self.ask(body, do="ring", bytes=body["ring_bytes"])

    def ask(self, body: dict[str, Any], **what: Any) -> Any:
        with zmq.Context.instance().socket(zmq.REQ) as executor:
            executor.connect(arguments.input_address)
            route = body["vllm_xargs"]["parallax_routing_table"]
            executor.send_json({"rid": body["request_id"], "routing_table": route, **what})
            return executor.recv_json()

    def log_message(self, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True


parser = argparse.ArgumentParser()
parser.add_argument("frontend")
parser.add_argument("--listen-fd", type=int)
parser.add_argument("--input-address")
arguments, _ = parser.parse_known_args()
server = Server(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=arguments.listen_fd)
server.server_activate()
server.serve_forever()
