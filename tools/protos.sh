#!/bin/sh
# Makes *_pb2.py and .pyi from the .proto files of nat/pb and dht/pb. Only needed when one of them
# has changed.
#
# The generator must not be newer than the oldest protobuf runtime that pyproject.toml allows:
# grpcio-tools 1.74 writes for 6.31.1.
set -eu
cd "$(dirname "$0")/.."

venv=.cache/protos
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q "grpcio-tools==1.74.*" "protobuf==6.31.1" "setuptools<81"
# The folder nat/ is imported as lattica.nat, and its files are known by that name; so for dht/.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
for floor in nat dht; do
    mkdir -p "$tree/lattica/$floor"
    cp -r "$floor/pb" "$tree/lattica/$floor/pb"
done
root=$PWD
cd "$tree"
for floor in nat dht; do
    "$root/$venv/bin/python" -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
        lattica/$floor/pb/*.proto
    cp lattica/$floor/pb/*_pb2.py lattica/$floor/pb/*_pb2.pyi "$root/$floor/pb/"
done
