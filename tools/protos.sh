#!/bin/sh
# Makes nat/pb/*_pb2.py and .pyi from nat/pb/*.proto. Only needed when a .proto has changed.
#
# The generator must not be newer than the oldest protobuf runtime that pyproject.toml allows:
# grpcio-tools 1.74 writes for 6.31.1.
set -eu
cd "$(dirname "$0")/.."

venv=.cache/protos
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install -q "grpcio-tools==1.74.*" "protobuf==6.31.1" "setuptools<81"
# The folder nat/ is imported as lattica.nat, and its files are known by that name.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/lattica/nat"
cp -r nat/pb "$tree/lattica/nat/pb"
cd "$tree"
"$OLDPWD/$venv/bin/python" -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
    lattica/nat/pb/*.proto
cp lattica/nat/pb/*_pb2.py lattica/nat/pb/*_pb2.pyi "$OLDPWD/nat/pb/"
