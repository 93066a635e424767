"""A scenario's links as a shell script with `tc netem`, for a real Linux router. Pure.

What the lab's shaper does, netem does too, where the kernel has it (module sch_netem); see
tc-netem(8). Where they differ:

* netem has one queue for what waits and what is on its way. Its limit counts packets: here as
  many full ones as the link's queue and its delay hold together.
* netem has one loss model at a time: random loss beside bursts is worked into both their states.
* netem sends each packet when its delay is over, so that jitter reorders; but with a rate it
  never lets one out before its predecessor (sch_netem.c, netem_enqueue). So a link whose jitter
  keeps the order and that has no rate gets one that nobody notices, and on a link with a rate
  `jitter_reorders` does nothing.
* A packet that is reordered goes out at once, past the rate as well as the delay.
* netem does not look at sizes: `largest` is left out (nftables has `meta length`).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tools.netlab.runs.faults import Step, steps
from tools.netlab.spec.fault import LinkChange, LinkDown
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host, Link

PACKET = 1514
MIN_LIMIT = 1000
DEAD = "loss random 100% limit 1000"
# Packets of 1,500 bytes take 120 ns.
UNNOTICED_RATE = 100_000_000_000
"""Bits a second."""


_NORMAL = "distribution normal"


@dataclass(frozen=True, slots=True)
class _NamedLink:
    name: str
    node: str
    link: Link


def arguments(spec: LinkSpec) -> str:
    """The options of `tc qdisc … netem` for one direction."""
    parts = []
    if spec.delay_s:
        parts.append(f"delay {_ms(spec.delay_s)}")
        if spec.jitter_s:
            parts[-1] += f" {_ms(spec.jitter_s)}"
            if spec.jitter_shape == "normal":
                parts[-1] += f" {_NORMAL}"
    if spec.burst is not None:
        bad = 1 - (1 - spec.burst.loss_bad) * (1 - spec.loss)
        good = 1 - (1 - spec.burst.loss_good) * (1 - spec.loss)
        numbers = (spec.burst.enter, spec.burst.leave, bad, good)
        parts.append("loss gemodel " + " ".join(map(_percent, numbers)))
    elif spec.loss:
        parts.append(f"loss random {_percent(spec.loss)}")
    if spec.reorder:
        parts.append(f"reorder {_percent(spec.reorder)}")
    if spec.duplicate:
        parts.append(f"duplicate {_percent(spec.duplicate)}")
    # When netem is changed it keeps a rate that is not spoken of; 0 is none.
    in_order = spec.jitter_s > 0 and not spec.jitter_reorders
    parts.append(f"rate {round(spec.rate_bps or (UNNOTICED_RATE if in_order else 0))}bit")
    parts.append(f"limit {_limit(spec)}")
    return " ".join(parts)


def script(scenario: Scenario) -> str:
    """The script. It explains itself when it is run without arguments."""
    links = list(_links(scenario))
    faults = [
        step for step in steps(scenario.faults) if isinstance(step.fault, LinkDown | LinkChange)
    ]
    return _TEMPLATE.format(
        scenario=scenario.name,
        about=_comment(scenario.about),
        list="\n".join(_list_line(link) for link in links) or "    :",
        names=" ".join(shlex.quote(link.name) for link in links),
        up="\n".join(_case(link.name, link.link.up) for link in links),
        down="\n".join(_case(link.name, link.link.down) for link in links),
        play="\n".join(_timeline(link, faults) for link in links),
    )


def _links(scenario: Scenario) -> Iterator[_NamedLink]:
    for node in scenario.nodes:
        yield _NamedLink(node.name, node.name, node.link)
        if isinstance(node, Host) and node.standby is not None:
            yield _NamedLink(f"{node.name}-standby", "", node.standby_link)


def _list_line(link: _NamedLink) -> str:
    up, down = arguments(link.link.up), arguments(link.link.down)
    lines = (f"{link.name}:", f"    up    {up}", f"    down  {down}")
    return "\n".join(f"    echo {shlex.quote(line)}" for line in lines)


def _case(name: str, spec: LinkSpec) -> str:
    return f'    {shlex.quote(name)}) set_netem "$2" {arguments(spec)} ;;'


def _timeline(link: _NamedLink, faults: list[Step]) -> str:
    """The commands of one link's faults, with the pauses between them."""
    lines = []
    now = 0.0
    before = {"$wan": arguments(link.link.up), "$lan": arguments(link.link.down)}
    for step in faults:
        fault = step.fault
        assert isinstance(fault, LinkDown | LinkChange)
        if fault.node != link.node:
            continue
        if step.t > now:
            lines.append(f"sleep {step.t - now:g}")
            now = step.t
        lines.append(f"echo {shlex.quote(f'{step.t:g} s: {step.text}')}")
        changed = fault.link if isinstance(fault, LinkChange) else None
        line = link.link if step.undo else changed
        ways = (DEAD, DEAD) if line is None else (arguments(line.up), arguments(line.down))
        for device, options in zip(("$wan", "$lan"), ways, strict=True):
            if _NORMAL in before[device] and _NORMAL not in options:
                lines.append(f'clear_netem "{device}"')  # or it would stick to the new delay
            lines.append(f'set_netem "{device}" {options}')
            before[device] = options
    body = "\n".join(f"        {line}" for line in lines) or "        :"
    return f"    {shlex.quote(link.name)})\n{body}\n        ;;"


def _limit(spec: LinkSpec) -> int:
    if spec.rate_bps is None:
        # Enough for a gigabit over the whole delay.
        return max(MIN_LIMIT, math.ceil(spec.delay_s * 125e6 / PACKET))
    waiting = spec.queue_limit_bytes + (spec.delay_s + spec.jitter_s) * spec.rate_bps / 8
    return max(2, math.ceil(waiting / PACKET))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:g}ms"


def _percent(share: float) -> str:
    return f"{round(share * 100, 6):g}%"


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.strip().splitlines()) or "#"


_TEMPLATE = """\
#!/bin/sh
# The links of the scenario "{scenario}", for tc netem on a Linux router.
# Written by `python -m tools.netlab netem {scenario}`.
{about}
set -eu

usage() {{
    cat <<'END'
usage: sh THIS apply LINK WAN [LAN]   make the router's line like LINK
       sh THIS play  LINK WAN [LAN]   the same, and then the scenario's faults of that link
       sh THIS clear WAN [LAN]        undo it
       sh THIS list                   show the links

WAN is the device towards the internet: what leaves there is the link's "up" direction.
LAN is the device towards the hosts: what leaves there is "down". Without it (on a host, which
has one device) "down" is done to what arrives at WAN, through an ifb device.
Needs root, tc (package iproute2) and the kernel modules sch_netem and, without LAN, ifb.
END
    exit 2
}}

list() {{
{list}
}}

# set_netem DEVICE OPTIONS…: replaces what was there, without a moment between.
set_netem() {{
    device=$1
    shift
    tc qdisc replace dev "$device" root handle 1: netem "$@"
}}

# A netem that is replaced keeps the distribution of its jitter; one that is made anew does not.
clear_netem() {{
    tc qdisc del dev "$1" root 2>/dev/null || :
}}

up_of() {{
    case $1 in
{up}
    *) echo "there is no link $1; there are: {names}" >&2; exit 2 ;;
    esac
}}

down_of() {{
    case $1 in
{down}
    *) echo "there is no link $1; there are: {names}" >&2; exit 2 ;;
    esac
}}

ifb_of() {{
    # A name of at most 15 characters.
    printf 'ifb-%.11s' "$1"
}}

# Sends what arrives at the device through an ifb device, where it can be shaped.
make_ifb() {{
    ifb=$(ifb_of "$1")
    ip link show dev "$ifb" >/dev/null 2>&1 || ip link add "$ifb" type ifb
    ip link set "$ifb" up
    tc qdisc replace dev "$1" ingress
    tc filter replace dev "$1" parent ffff: protocol all prio 1 handle 1 matchall \\
        action mirred egress redirect dev "$ifb"
}}

play() {{
    case $1 in
{play}
    esac
}}

[ $# -ge 1 ] || usage
command=$1
shift
case $command in
list)
    list
    ;;
apply | play)
    [ $# -ge 2 ] || usage
    link=$1
    wan=$2
    if [ $# -ge 3 ]; then
        lan=$3
    else
        make_ifb "$wan"
        lan=$(ifb_of "$wan")
    fi
    clear_netem "$wan"
    clear_netem "$lan"
    up_of "$link" "$wan"
    down_of "$link" "$lan"
    [ "$command" = apply ] || play "$link"
    ;;
clear)
    [ $# -ge 1 ] || usage
    for device; do
        clear_netem "$device"
        tc qdisc del dev "$device" ingress 2>/dev/null || :
        ip link del "$(ifb_of "$device")" 2>/dev/null || :
    done
    ;;
*)
    usage
    ;;
esac
"""
