"""gRPC between peers, with health checking and reflection: `python examples/rpc_grpc.py`.

Needs grpcio, grpcio-health-checking and grpcio-reflection. Servicer and stubs are as protoc makes
them, and know nothing of the mesh.
"""

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from lattica import Lattica
from lattica.rpc.grpc_bridge import grpc_caller, grpc_channel, serve_grpc


class Health(health.HealthServicer):
    def Check(self, request, context):
        print("asked by", grpc_caller(context))
        return super().Check(request, context)


with Lattica() as there, Lattica() as here:
    # On one machine:
    server = grpc.server(ThreadPoolExecutor(8))
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    reflection.enable_server_reflection((health.SERVICE_NAME,), server)
    exposed = serve_grpc(there, server)  # and give the other one `exposed.key`
    server.start()

    # On another:
    with grpc_channel(here, there.addrs, key=exposed.key) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        services = ProtoReflectionDescriptorDatabase(channel).get_services()
        assert health.SERVICE_NAME in services
        print("serving:", *services)

    server.stop(grace=1).wait()
