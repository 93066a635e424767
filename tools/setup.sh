#!/bin/sh
# Makes .venv with Lattica (editable) and all that its tests and tools need, from a stock Debian
# with python3 and make. Run by the Makefile whenever pyproject.toml or this file changed.
#
# System packages: Python's venv module; libgmp10, which py-libp2p's fastecdsa loads, and a C
# compiler with the headers of Python and GMP, since the version that py-libp2p pins comes as source
# only; and what `wanted` names, for the tests and the network lab alone. As root on a system with
# apt-get what is missing is installed, otherwise it is named.
#
# PYTHON=/path/to/python3.x picks the interpreter.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    for line; do printf 'setup:   %s\n' "$line" >&2; done
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

pick_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python of version 3.11 or newer"
        return
    fi
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11; do
        if new_enough "$PYTHON"; then return; fi
    done
    found=$(python3 -V 2>&1) || found="no python3"
    die "Lattica needs Python 3.11 or newer, and this system has: $found" \
        "Install one (Debian 12 and later: apt-get install python3), or name one:" \
        "make PYTHON=/path/to/python3.12 ..."
}

has_gmp() { "$PYTHON" -c 'import ctypes; ctypes.CDLL("libgmp.so.10")' 2>/dev/null; }
has_venv() { "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; }
has_tool() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }
has_fastecdsa() { .venv/bin/python -c 'import fastecdsa.curvemath' 2>/dev/null; }
has_compiler() {
    headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    printf '#include <Python.h>\n#include <gmp.h>\n' \
        | "${CC:-cc}" -I"$headers" -E - >/dev/null 2>&1
}

# Programs that the tests and the network lab run, each with Debian's packages that have it.
wanted="ip:iproute2 nft:nftables ping:iputils-ping tcpdump:tcpdump setpriv:util-linux
    miniupnpd:miniupnpd,miniupnpd-nftables turnserver:coturn nginx:nginx-light
    cc:gcc,libc6-dev"

apt_install() { apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null; }

install_packages() {
    say "installing system packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || say "apt-get update failed; trying with the lists at hand"
    # Tests start their own daemons. Of the packages, coturn and nginx would start one each, now and
    # at boot.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    # One by one if not at once, so that what is merely wanted cannot stop what is needed.
    apt_install "$@" 2>/dev/null || for package; do
        apt_install "$package" || say "apt-get could not install $package"
    done
    for package; do
        case $package in
            coturn | nginx-light)
                ! has_tool systemctl || systemctl --quiet disable --now "${package%-light}" 2>/dev/null || : ;;
        esac
    done
}

pick_python
version=$("$PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
build_packages="gcc libc6-dev libgmp-dev $version-dev"

missing=
has_gmp || missing="$missing libgmp10"
has_venv || missing="$missing $version-venv"
has_fastecdsa || has_compiler || missing="$missing $build_packages"
for each in $wanted; do
    has_tool "${each%%:*}" || missing="$missing $(echo "${each#*:}" | tr , ' ')"
done

if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && has_tool apt-get; then
    # shellcheck disable=SC2086  # one word each
    install_packages $missing
fi

has_gmp || die "libgmp.so.10 is missing, which py-libp2p needs. Install it as root:" \
    "apt-get install libgmp10      (Fedora: dnf install gmp; Alpine: apk add gmp)"
has_venv || die "$PYTHON cannot make virtual environments. As root:" \
    "apt-get install $version-venv"
for each in $wanted; do
    has_tool "${each%%:*}" \
        || say "note: no '${each%%:*}' (Debian: ${each#*:}), so some tests will be skipped"
done

if ! new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "creating .venv with $("$PYTHON" -V 2>&1)"
    rm -rf .venv
    "$PYTHON" -m venv .venv
fi
say "installing Lattica and its tools into .venv (a few minutes on a new machine)"
# A person's own settings of pip may forbid an environment, or ask for the home directory instead.
if ! PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 \
    .venv/bin/python -m pip install -qq --disable-pip-version-check -e '.[dev,libp2p]' </dev/null; then
    has_fastecdsa || has_compiler || die \
        "pip failed, probably because fastecdsa (for py-libp2p) must be compiled. As root:" \
        "apt-get install $build_packages"
    die "pip failed; its messages above say why"
fi
touch .venv/.ready
say "ready"
