"""The benchmark's own parts: names, statistics, JSON, environments, children, the slow link.

No environment is made and no implementation is run; the children here are scripts of a few lines.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.nets.nets import unused_port
from tools.bench import cases, runner, venvs
from tools.bench.__main__ import with_references
from tools.bench.children import BenchError, UnsupportedError, parse_event, start
from tools.bench.figures import stats
from tools.bench.links import delay_proxy, lossy_link
from tools.bench.programs import bench_child

FASTER = cases.Case("bulk", "fast", "MB/s", "higher", "")
SOONER = cases.Case("bulk", "soon", "ms", "lower", "")


# --- names ---


def test_the_names_that_others_read_are_there():
    names = {(c.bench, c.name): c.unit for w in cases.WORKLOADS for c in w.cases}
    expected = {
        ("bulk", "stream-1MiB"): "MB/s",
        ("bulk", "stream-256KiB"): "MB/s",
        ("bulk", "streams-100"): "MB/s",
        ("bulk", "streams-100-fairness"): "slowest/mean",
        ("bulk", "pingpong-beside-bulk-p50"): "ms",
        ("bulk", "handshakes"): "1/s",
        ("bulk", "idle-connection"): "KiB",
        ("quic", "stream-1MiB"): "MB/s",
        ("quic", "streams-100"): "MB/s",
        ("quic", "streams-100-fairness"): "slowest/mean",
        ("quic", "echo-128B-seq"): "1/s",
        ("quic", "echo-128B-c64"): "1/s",
        ("quic", "handshakes"): "1/s",
        ("quic", "streams-10000-rss"): "KiB",
        ("quic", "stream-lossy-1pct-50ms-quic"): "MB/s",
        ("quic", "stream-lossy-1pct-50ms-tcp"): "MB/s",
        ("relay", "stream-1MiB"): "MB/s",
        ("relay", "circuit-memory"): "KiB",
        ("relay", "circuits-20"): "MB/s",
        ("relay", "reserve-to-byte-p50"): "ms",
        ("relay", "circuits-500-added-p99"): "ms",
        ("relay", "local-api-added-p50"): "ms",
        **{
            ("rpc", f"{name}{suffix}"): unit
            for name, unit in (
                ("unary-128B-seq", "1/s"),
                ("unary-128B-c64", "1/s"),
                ("unary-256KiB-c32", "1/s"),
                ("stream-1MiB", "MB/s"),
            )
            for suffix in ("", "-quic", "-relay")
        },
        ("rpc", "small-beside-bulk-p99"): "ms",
        ("rpc", "small-beside-bulk-p99-quic"): "ms",
        ("rpc", "small-beside-bulk-load-relay"): "MB/s",
        ("rpc", "array-1GiB-rss-ratio"): "of its size",
        ("ports", "stream-1MiB"): "MB/s",
        ("content", "file-1GiB"): "MB/s",
        ("content", "publish-1GiB"): "MB/s",
    }
    assert expected.items() <= names.items()
    assert set(venvs.PEERS) == {
        *("grpcio", "py-libp2p", "hivemind", "libtorrent"),
        *("lattica-rs", "lattica-compat"),
    }
    assert set(cases.BENCHES) == {"bulk", "rpc", "quic", "relay", "ports", "pubsub", "content"}


def test_case_names_are_unique_in_a_bench_and_workloads_are_named_after_their_first():
    names = [(case.bench, case.name) for w in cases.WORKLOADS for case in w.cases]
    assert len(set(names)) == len(names)
    assert all(w.name.removeprefix(f"{w.bench}-") == w.cases[0].name for w in cases.WORKLOADS)
    assert all(case.bench == w.bench for w in cases.WORKLOADS for case in w.cases)


def test_children_know_the_names_of_the_special_cases():
    names = {w.name for w in cases.WORKLOADS}
    special = {bench_child.RSS_CASE, *bench_child.ECHO_SEQ, *bench_child.ECHO_C64}
    assert special <= names
    lossy = {w.name for w in cases.WORKLOADS if w.path == "lossy"}
    assert lossy == set(bench_child.LOSSY_CASES)


def test_select():
    assert cases.select("all") == cases.WORKLOADS
    assert {w.bench for w in cases.select("rpc")} == {"rpc"}
    assert [w.name for w in cases.select("bulk", ("streams-100-fairness",))] == ["streams-100"]
    with pytest.raises(ValueError, match="unknown bench 'quick'"):
        cases.select("quick")
    with pytest.raises(ValueError, match="unknown case 'dials'"):
        cases.select("rpc", ("dials",))


def test_every_peer_has_its_script():
    assert all((runner.PROGRAMS / p.script).exists() for p in every_program())


def every_program() -> list[venvs.Peer]:
    return [venvs.OURS, *venvs.PEERS.values(), *venvs.REFERENCES.values()]


def test_references_take_part_in_the_workloads_that_name_them():
    ours = runner.Program("lattica", Path(sys.executable), Path("x"))
    taking_part = {
        w.name: [(p.impl, p.variant) for p in with_references(w, [ours])] for w in cases.WORKLOADS
    }
    assert taking_part["stream-lossy-1pct-50ms-tcp"] == [
        ("lattica", ""),
        ("tcp-cubic", "cubic"),
        ("tcp-bbr", "bbr"),
    ]
    assert taking_part["stream-lossy-1pct-50ms-quic"] == [("lattica", "")]


# --- what children are told ---


def test_a_child_is_told_transport_and_host():
    workload = next(w for w in cases.select("quic") if w.path == "loopback")
    program = runner.Program("x", Path("python"), Path("x.py"), variant="v")
    site = lossy_link.Site("11.0.0.2", ("enter", "a"), ("enter", "b"))
    assert runner.child_command(program, workload, site)("server") == [
        "python",
        "x.py",
        "server",
        "--case=stream-1MiB",
        "--transport=quic",
        "--host=11.0.0.2",
        "--variant=v",
    ]


def test_a_peers_relay_is_between_peers_of_ours_and_its_calls_between_its_own(tmp_path):
    ours = runner.Program("lattica", Path("ours"), Path("ours.py"))
    peer = runner.Program("peer", Path("theirs"), Path("theirs.py"), between=ours)
    (relayed,) = cases.select("relay", ("circuits-20",))
    command = runner.child_command(peer, relayed, lossy_link.Site())
    assert command("relay")[:3] == ["theirs", "theirs.py", "relay"]
    assert command("server")[:3] == ["ours", "ours.py", "server"]
    assert command("client")[:3] == ["ours", "ours.py", "client"]
    (direct,) = cases.select("bulk", ("stream-1MiB",))
    assert runner.child_command(peer, direct, lossy_link.Site())("client")[0] == "theirs"
    (calls,) = cases.select("rpc", ("unary-128B-seq-relay",))
    assert runner.child_command(peer, calls, lossy_link.Site())("client")[0] == "theirs"
    without = runner.Program("peer", Path("theirs"), Path("theirs.py"))
    with pytest.raises(UnsupportedError, match="relay"):
        trio.run(runner.run_once, without, relayed, runner.Settings(), tmp_path)


@pytest.mark.parametrize("transport", ["tcp", "quic", "relay"])
def test_calls_are_the_same_work_over_each_transport(transport, monkeypatch):
    monkeypatch.syspath_prepend(str(runner.PROGRAMS))  # as where children run
    asyncio_calls = importlib.import_module("work.asyncio_calls")

    async def echo(message):
        return message

    peer = SimpleNamespace(echo=echo)
    name = "unary-128B-seq" if transport == "tcp" else f"unary-128B-seq-{transport}"
    job = bench_child.Job("client", f"rpc-{name}", "", 0.001, 0.05, transport)
    assert asyncio.run(asyncio_calls.run(peer, job))[name] > 0


@pytest.mark.parametrize(
    ("transport", "expected"),
    [("tcp", "/ip4/11.0.0.2/tcp/0"), ("quic", "/ip4/11.0.0.2/udp/0/quic-v1")],
)
def test_where_a_child_listens(transport, expected):
    job = bench_child.Job("server", "x", "", 1, 1, transport, "11.0.0.2")
    assert bench_child.multiaddr(job, "quic-v1") == expected


def test_growth_is_that_of_both_processes():
    before = {"client_rss": 1024.0, "server_rss": 4096.0}
    after = {"client_rss": 3072.0, "server_rss": 3072.0}
    assert bench_child.growth_kib(before, after) == (1.0, "client +2 KiB, server -1 KiB")


# --- the lossy link ---


@pytest.mark.parametrize(("sender", "receiver"), [("client", "server"), ("server", "client")])
def test_packets_are_lost_in_the_direction_of_the_data_alone(sender, receiver):
    scenario = lossy_link.scenario(sender)
    link = {host.name: host.link for host in scenario.hosts}
    assert link[receiver].is_transparent
    assert (link[sender].up.loss, link[sender].down.loss) == (0.01, 0)
    for direction in (link[sender].up, link[sender].down):
        assert direction.delay_s == 0.025
        assert direction.rate_bps == 200e6


def test_without_root_there_is_no_lossy_link(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in str(lossy_link.obstacle())


def test_plain_sockets_count_what_arrives(tmp_path):
    program = runner.Program(
        "tcp", Path(sys.executable), runner.PROGRAMS / "impl_tcp.py", variant="reno"
    )
    name = "stream-lossy-1pct-50ms-tcp"
    workload = cases.Workload(name, (cases.Case("quic", name, "MB/s", "higher", ""),))
    settings = runner.Settings(seconds=0.05)
    reading = trio.run(runner.run_once, program, workload, settings, tmp_path)
    assert reading.values[name] > 0
    assert "TCP reno" in reading.note


def test_an_unknown_congestion_control_is_not_supported(tmp_path):
    program = runner.Program(
        "tcp", Path(sys.executable), runner.PROGRAMS / "impl_tcp.py", variant="none-such"
    )
    name = "stream-lossy-1pct-50ms-tcp"
    workload = cases.Workload(name, (cases.Case("quic", name, "MB/s", "higher", ""),))
    with pytest.raises(UnsupportedError, match="none-such"):
        trio.run(runner.run_once, program, workload, runner.Settings(seconds=0.05), tmp_path)


# --- statistics ---


def test_the_figure_is_the_median():
    measured = stats.summarize(FASTER, "lattica", [5.0, 1000.0, 7.0], "note")
    assert measured.value == 7.0
    assert measured.samples == (5.0, 1000.0, 7.0)


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_measured_is_an_error(samples):
    with pytest.raises(ValueError, match="yielded"):
        stats.summarize(FASTER, "lattica", samples, "")


def test_ratio_and_direction():
    ours, peer = (stats.summarize(FASTER, i, [v], "") for i, v in (("lattica", 6), ("grpcio", 3)))
    assert stats.ratio(ours, peer) == 2
    assert stats.is_better(ours, peer)
    assert not stats.is_better(peer, ours)
    slow, soon = (stats.summarize(SOONER, i, [v], "") for i, v in (("lattica", 6), ("grpcio", 3)))
    assert not stats.is_better(slow, soon)
    assert stats.ratio(slow, stats.summarize(SOONER, "grpcio", [0], "")) is None


def test_json_line_has_the_fixed_fields():
    line = stats.json_line(stats.summarize(FASTER, "lattica", [1.0, 1234.5678, 2e6], "what"))
    assert "\n" not in line
    assert json.loads(line) == {
        "bench": "bulk",
        "case": "fast",
        "impl": "lattica",
        "value": 1235.0,
        "unit": "MB/s",
        "better": "higher",
        "samples": [1.0, 1235.0, 2000000.0],
        "note": "what",
    }


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_rounding_keeps_four_digits(value):
    assert stats.rounded(value) == pytest.approx(value, rel=1e-3)


def test_rounding_nothing():
    assert stats.rounded(0) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentile_is_a_sample(samples, fraction):
    assert bench_child.percentile(samples, fraction) in samples


def test_percentile_and_fairness():
    assert bench_child.percentile([float(n) for n in range(100)], 0.99) == 99
    assert bench_child.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert bench_child.fairness([5, 5, 5]) == 1
    assert bench_child.fairness([1, 3]) == 0.5
    with pytest.raises(ValueError, match="nothing was measured"):
        bench_child.percentile([], 0.5)


def test_a_rate_ends_at_its_count():
    rate = bench_child.Rate(60, most=3)
    while rate.running():
        rate.count += 1
    assert rate.count == 3
    assert rate.per_second() > 0


def test_by_case_keeps_the_order():
    a, b = (stats.summarize(c, "x", [1], "") for c in (SOONER, FASTER))
    assert list(stats.by_case([a, b])) == [SOONER, FASTER]


# --- readings ---

WORKLOAD = cases.Workload("fast", (FASTER, SOONER))


def test_a_result_becomes_a_reading():
    result = {"event": "result", "values": {"fast": 3, "soon": 0.5}, "note": "n", "bytes": 7}
    assert runner.to_reading(result, WORKLOAD) == runner.Reading({"fast": 3.0, "soon": 0.5}, "n")


@pytest.mark.parametrize(
    "values", [None, {}, {"fast": 1}, {"fast": "1", "soon": 2}, {"fast": True, "soon": 2}]
)
def test_an_incomplete_result_is_an_error(values):
    with pytest.raises(BenchError, match="without"):
        runner.to_reading({"values": values}, WORKLOAD)


def test_one_that_failed_has_no_measurement():
    taken = {
        "a": [runner.Reading({"fast": 1.0, "soon": 2.0}, "n")] * 2,
        "b": [runner.Reading({"fast": 1.0, "soon": 2.0}, "n")],
    }
    measured = runner.summarize_readings(WORKLOAD, taken, {"b"})
    assert [(m.case.name, m.impl) for m in measured] == [("fast", "a"), ("soon", "a")]


# --- environments ---


def make_builder(failures: int, calls: list[tuple[str, ...]]):
    def build(folder: Path, requirements: tuple[str, ...]) -> None:
        calls.append(requirements)
        folder.mkdir(exist_ok=True)
        if len(calls) <= failures:
            raise venvs.SetupError("index out of reach")

    return build


def test_an_environment_is_made_once_and_remade_when_its_requirements_change(tmp_path):
    calls: list[tuple[str, ...]] = []
    build = make_builder(0, calls)
    for requirements in (("a==1",), ("a==1",), ("a==2",)):
        python = venvs.ensure("x", requirements, lambda _: None, cache=tmp_path, build=build)
        assert python == tmp_path / "x" / "bin" / "python"
    assert calls == [("a==1",), ("a==2",)]


def test_installing_is_tried_again(tmp_path):
    calls: list[tuple[str, ...]] = []
    said: list[str] = []
    build = make_builder(2, calls)
    venvs.ensure("x", ("a",), said.append, cache=tmp_path, build=build, pause=0)
    assert len(calls) == 3
    assert any("trying again" in line for line in said)


def test_installing_in_vain_says_what_and_leaves_nothing(tmp_path):
    build = make_builder(99, [])
    with pytest.raises(venvs.SetupError, match=r"cannot install a for x(.|\n)*out of reach"):
        venvs.ensure("x", ("a",), lambda _: None, cache=tmp_path, build=build, pause=0)
    assert not (tmp_path / "x").exists()


# --- children ---


@pytest.mark.parametrize("line", [b"", b"hello", b"[1]", b'"x"', b'{"a": 1}', b'{"event": 1}'])
def test_what_libraries_print_is_no_event(line):
    assert parse_event(line) is None


def run_child(tmp_path: Path, code: str, use):
    """Run `code` as a child whose first lines import the child's side; hand it to `use`."""
    script = tmp_path / "child.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(runner.PROGRAMS)!r})\n{code}")

    async def main():
        with trio.fail_after(60):
            async with start("it", [sys.executable, str(script)], tmp_path) as child:
                return await use(child)

    return trio.run(main)


IN_CHILD = "import bench_child as bc\nc = bc.Child()\n"


def test_a_child_reports_syncs_and_has_a_result(tmp_path):
    code = IN_CHILD + "print('noise')\nr = c.sync('a')\nc.result({'x': r['server_rss']}, 'n', 5)\n"

    async def use(child):
        assert (await child.event("sync"))["name"] == "a"
        await child.send({"server_rss": runner.resident_bytes(child.pid)})
        return await child.event("result")

    result = run_child(tmp_path, code, use)
    assert result["values"]["x"] > 1 << 20
    assert (result["note"], result["bytes"]) == ("n", 5)


def test_a_child_that_ends_early_is_an_error_with_its_last_words(tmp_path):
    async def use(child):
        await child.event("result")

    with pytest.raises(BenchError, match=r"it ended without a result\n    alas"):
        run_child(tmp_path, "sys.stderr.write('alas\\n')\n", use)


@pytest.mark.parametrize(
    ("error", "expected"),
    [("bc.Unsupported('no')", UnsupportedError), ("KeyError('no')", BenchError)],
)
def test_a_childs_exception_becomes_an_event(tmp_path, error, expected):
    code = (
        "import bench_child as bc\nsys.argv = ['x', 'client', '--case', 'y']\n"
        f"def main(child, job): raise {error}\nbc.run(main)\n"
    )

    async def use(child):
        await child.event("result")

    with pytest.raises(expected, match="no"):
        run_child(tmp_path, code, use)


def test_a_child_ends_with_its_stdin(tmp_path):
    code = IN_CHILD + "c.ready('{port}', 1)\nimport threading\nthreading.Event().wait()\n"

    async def use(child):
        await child.event("ready")
        return child.pid

    pid = run_child(tmp_path, code, use)
    assert not Path(f"/proc/{pid}").exists()


STARTS_ANOTHER = """
import subprocess
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
c.ready(str(other.pid), 1)
"""


async def gone(pid: int) -> None:
    """Wait until a process runs no more; one that nobody waits for is a zombie then."""
    status = Path(f"/proc/{pid}/stat")
    with trio.fail_after(60):
        while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
            await trio.sleep(0.01)


@pytest.mark.parametrize("then", ["threading.Event().wait()", "os._exit(3)", "deaf"])
def test_what_a_child_has_started_ends_with_it(tmp_path, monkeypatch, then):
    code = f"import os, threading, time\n{IN_CHILD}{STARTS_ANOTHER}{then}\n"
    if then == "deaf":
        monkeypatch.setattr("tools.bench.children.STOP_GRACE", 0.05)
        code = code.replace("c = bc", "bc.Child._watch_stdin = lambda _: None\nc = bc")
        code = code.replace("deaf\n", "time.sleep(600)\n")

    async def use(child):
        return int(str((await child.event("ready"))["addr"]))

    pid = run_child(tmp_path, code, use)
    trio.run(gone, pid)


def test_what_a_child_has_started_ends_when_its_runner_was_killed(tmp_path):
    """Then nobody is left but the child, which sees its standard input end."""
    script = tmp_path / "child.py"
    path = f"import sys\nsys.path.insert(0, {str(runner.PROGRAMS)!r})\n"
    script.write_text(f"{path}{IN_CHILD}{STARTS_ANOTHER}\nother.wait()\n")
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        pid = int(json.loads(child.stdout.readline())["addr"])
        child.stdin.close()
        trio.run(gone, pid)


def test_sending_to_a_child_that_has_gone_is_an_error(tmp_path):
    async def use(child):
        with pytest.raises(BenchError, match="ended without a result"):
            await child.event("ready")
        await child.send({})

    code = "import os\nos.close(0)\nos._exit(0)\n"
    with pytest.raises(BenchError, match="ended early"):
        run_child(tmp_path, code, use)


def test_a_deaf_child_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.bench.children.STOP_GRACE", 0.05)

    async def use(child):
        return child.pid

    pid = run_child(tmp_path, "import time\ntime.sleep(60)\n", use)
    assert not Path(f"/proc/{pid}").exists()


def test_children_do_not_see_what_changes_their_code(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LATTICA_LISTEN", "x")
    names = "[n for n in os.environ if n in ('PYTHONPATH', 'LATTICA_LISTEN')]"
    code = f"import os\n{IN_CHILD}c.result({{'x': len({names})}}, '')\n"

    async def use(child):
        return await child.event("result")

    assert run_child(tmp_path, code, use)["values"] == {"x": 0}


def test_rounds_take_turns_and_a_failure_ends_ones_part(monkeypatch, tmp_path):
    runs: list[str] = []

    async def run_once(program, workload, settings, proxy_python):
        runs.append(program.impl)
        if program.impl == "b":
            raise UnsupportedError("cannot")
        if program.impl == "c" and runs.count("c") == 2:
            raise BenchError("broke")
        return runner.Reading({"fast": float(len(runs)), "soon": 1.0}, "n")

    monkeypatch.setattr(runner, "run_once", run_once)
    programs = [runner.Program(name, tmp_path, tmp_path) for name in "abc"]
    measured, failures = trio.run(
        runner.run_workload,
        WORKLOAD,
        programs,
        runner.Settings(repeats=3),
        tmp_path,
        lambda _: None,
    )
    assert runs == ["a", "b", "c", "a", "c", "a"]
    assert [(m.impl, m.value) for m in measured] == [("a", 4.0), ("a", 1.0)]
    assert [(f.impl, f.unsupported) for f in failures] == [("b", True), ("c", False)]


# --- the slow link ---


def test_the_link_serialises_then_delays():
    link = delay_proxy.Link(delay=1.0, rate=10.0)
    assert link.offer(20, now=100.0) == 103.0
    assert link.offer(10, now=100.0) == 104.0  # behind the first
    assert link.room_at(limit=10) == 102.0
    assert link.offer(10, now=200.0) == 202.0  # idle time is not saved up


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 5)), max_size=30))
def test_the_link_keeps_order_and_rate(offers):
    link = delay_proxy.Link(delay=0.5, rate=50.0)
    now = last = 0.0
    for size, pause in offers:
        now += pause
        due = link.offer(size, now)
        assert due >= max(last, now + 0.5 + size / 50.0) - 1e-9
        last = due


def test_the_proxy_carries_bytes_and_ends_both_ways():
    payload = bytes(range(256)) * 4096

    async def answer(reader, writer):
        data = await reader.read(-1)
        writer.write(data[::-1])
        writer.write_eof()
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        target = server.sockets[0].getsockname()
        listener = delay_proxy.listen()
        port = listener.getsockname()[1]
        counters = delay_proxy.Counters()
        proxy = asyncio.create_task(delay_proxy.serve(listener, target, 0.001, 1e9, counters))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload)
        writer.write_eof()
        received = await reader.read(-1)
        writer.close()
        proxy.cancel()
        await asyncio.gather(proxy, return_exceptions=True)
        listener.close()
        server.close()
        return received, counters

    received, counters = asyncio.run(asyncio.wait_for(main(), 30))
    assert received == payload[::-1]
    assert (counters.up, counters.down) == (len(payload), len(payload))


def test_the_proxy_refuses_when_its_target_is_gone():
    gone = "127.0.0.1", unused_port()

    async def main():
        listener = delay_proxy.listen()
        address = listener.getsockname()
        proxy = asyncio.create_task(
            delay_proxy.serve(listener, gone, 0.001, 1e9, delay_proxy.Counters())
        )
        reader, writer = await asyncio.open_connection(*address)
        received = await reader.read(-1)
        writer.close()
        proxy.cancel()
        await asyncio.gather(proxy, return_exceptions=True)
        listener.close()
        return received

    assert asyncio.run(asyncio.wait_for(main(), 30)) == b""
