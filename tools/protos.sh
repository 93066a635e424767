#!/bin/sh
# Makes *_pb2.py and .pyi from the .proto files of the folders below. Only needed when one of them
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
root=$PWD
for folder in nat/pb dht/pb lattica/content/bitswap/pb lattica/daemon/api/pb; do
    package=lattica/${folder#lattica/}
    mkdir -p "$tree/$(dirname "$package")"
    cp -r "$folder" "$tree/$package"
    (cd "$tree" && "$root/$venv/bin/python" -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
        "$package"/*.proto)
    cp "$tree/$package"/*_pb2.py "$tree/$package"/*_pb2.pyi "$folder/"
done
