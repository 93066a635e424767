#!/bin/sh
# ruff on the checkout; mypy and import-linter on the built wheel.
#
# Why the wheel: folders such as nat/ are imported as lattica.nat, and static checkers do not
# follow that mapping in a checkout. The wheel is built from a copy (a stale build/ folder would
# ship deleted modules), unpacked into .cache/lint/tree, and tools/ and tests/ are laid beside it,
# so that one mypy run sees everything under its import name.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
python=$root/.venv/bin/python
cache=$root/.cache/lint
tree=$cache/tree

"$python" -m ruff check .
"$python" -m ruff format --check .

# Nothing changed since the last success: nothing to do. The installed packages count too.
state=$( {
    "$python" -m pip freeze --exclude-editable
    find pyproject.toml setup.py README.md tools/lint.sh lattica nat crdt rpc dht tools tests \
        -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
} | sha256sum)
if [ "$state" = "$(cat "$cache/passed" 2>/dev/null)" ]; then
    echo "mypy, import-linter: unchanged since the last success"
    exit 0
fi

rm -rf "$cache/source" "$cache/wheel" "$tree"
mkdir -p "$cache/source" "$tree"
cp -R pyproject.toml setup.py README.md LICENSE-APACHE LICENSE-MIT lattica nat crdt rpc dht "$cache/source"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --wheel-dir "$cache/wheel" "$cache/source"
"$python" -m zipfile -e "$cache"/wheel/lattica_stack-*.whl "$tree"
cp -R tools tests "$tree"

# py-libp2p brings in trio-typing, stubs for the trio of 2020, which mypy would prefer to trio's
# own annotations. What is on MYPYPATH it prefers to both.
mkdir -p "$cache/own-types"
ln -sfn "$("$python" -c 'import trio; print(trio.__path__[0])')" "$cache/own-types/trio"

# Findings are shown under the checkout's paths.
cd "$tree"
status=0
MYPYPATH=$cache/own-types "$python" -m mypy --config-file "$root/pyproject.toml" --cache-dir "$cache/mypy" \
    --python-executable "$python" -p lattica -p tools -p tests >"$cache/mypy.log" || status=$?
sed -E 's#^lattica/(nat|crdt|rpc|dht)/#\1/#' "$cache/mypy.log"

PYTHONPATH=$tree "$root/.venv/bin/lint-imports" --no-logo --config "$root/pyproject.toml" \
    --cache-dir "$cache/import-linter" || status=$?

[ "$status" = 0 ] && printf '%s\n' "$state" >"$cache/passed"
exit "$status"
