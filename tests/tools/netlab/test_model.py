"""Scenarios as values: what is refused, and what is derived from them."""

from __future__ import annotations

from ipaddress import IPv4Interface
from itertools import combinations

import pytest

from tools.netlab.lab import nftables
from tools.netlab.lab.plan import in_userspace, make_plan
from tools.netlab.runs import chaos, faults, matrix
from tools.netlab.runs.mesh import Mesh, path_kind
from tools.netlab.runs.report import Outcome, Report
from tools.netlab.spec.fault import (
    FAULTS,
    AddressChange,
    Handover,
    Kill,
    LinkDown,
    NatReboot,
    Partition,
    Pause,
)
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.strict import SpecError
from tools.netlab.spec.topology import Host, Link, Relay, Router
from tools.netlab.spec.workload import CommandProgram, FetchProgram, NodeProgram, PublishProgram

HOME = Router("home")
ALICE = Host("alice", behind="home")
BOB = Host("bob")


def scenario(**more):
    return Scenario("test", **{"hosts": (ALICE, BOB), "routers": (HOME,), **more})


class TestChecks:
    @pytest.mark.parametrize(
        ("key", "make"),
        [
            ("name", lambda: Host("Upper")),
            ("name", lambda: Host("-x")),
            ("addresses", lambda: Host("x", addresses=0)),
            ("addresses", lambda: Host("x", behind="home", addresses=2)),
            ("ipv4", lambda: Host("x", ipv4=False, ipv6=False)),
            ("lan", lambda: Router("x", lan="192.168.1.1/24")),
            ("lan", lambda: Router("x", lan="192.168.1.0/30")),
            ("hosts", lambda: Scenario("test")),
            ("hosts", lambda: scenario(hosts=(ALICE, ALICE))),
            ("relays", lambda: scenario(relays=(Relay("internet"),))),
            ("hosts.alice.behind", lambda: scenario(routers=())),
            ("hosts.alice.standby", lambda: scenario(hosts=(Host("alice", standby="nowhere"),))),
            ("duration_s", lambda: scenario(duration_s=0)),
            ("argv", lambda: CommandProgram("x", "alice", ())),
            ("groups", lambda: Partition(0, (("bob",),))),
            ("groups", lambda: Partition(0, (("bob",), ("bob", "home")))),
        ],
    )
    def test_a_mistake_is_named(self, key, make):
        with pytest.raises(SpecError) as caught:
            make()
        assert caught.value.key == key

    def test_a_circle_of_routers_never_reaches_the_internet(self):
        ring = (Router("one", behind="two"), Router("two", behind="one"))
        with pytest.raises(SpecError, match="circle"):
            Scenario("test", hosts=(Host("x", behind="one"),), routers=ring)

    @pytest.mark.parametrize(
        "programs",
        [
            (NodeProgram("a", "nowhere"),),
            (NodeProgram("a", "alice"), NodeProgram("a", "bob")),
            (NodeProgram("a", "alice", connect=("b",)),),
            (FetchProgram("a", "alice", source="b"), NodeProgram("b", "bob")),
            (PublishProgram("a", "alice"), NodeProgram("b", "bob", connect=("a",))),
            (PublishProgram("a", "alice", relays=("b",)), NodeProgram("b", "bob")),
            (
                NodeProgram("a", "alice", connect=("b",)),
                NodeProgram("b", "bob", connect=("a",)),
            ),
        ],
    )
    def test_programs_that_cannot_run(self, programs):
        with pytest.raises(SpecError, match="program"):
            scenario(programs=programs)

    @pytest.mark.parametrize(
        "fault",
        [
            LinkDown(1, "nobody"),
            LinkDown(-1, "alice"),
            LinkDown(1, "alice", for_s=0),
            NatReboot(1, "alice"),
            AddressChange(1, "alice"),
            Handover(1, "alice"),
            Kill(1, "nothing"),
            # Not over before the scenario is, which takes 300 s.
            LinkDown(300, "alice"),
            LinkDown(290, "alice", for_s=10),
            Partition(1, (("alice",), ("bob",))),
        ],
    )
    def test_faults_that_cannot_be_done(self, fault):
        with pytest.raises(SpecError, match="faults"):
            scenario(faults=(fault,))

    def test_an_address_change_needs_a_nat_that_can(self):
        router = Router("home", nat=NAMES["one-to-one"])
        with pytest.raises(SpecError, match="translate"):
            scenario(routers=(router,), faults=(AddressChange(1, "home"),))

    def test_a_program_is_not_killed_while_it_is_dead(self):
        program = NodeProgram("p", "bob")
        with pytest.raises(SpecError, match="before the last fault") as caught:
            scenario(programs=(program,), faults=(Kill(2, "p"), Kill(1, "p", for_s=1.5)))
        assert caught.value.key == "faults[0].at_s"
        apart = (Pause(1.5, "p", 1), Kill(1, "p", for_s=1), Kill(2, "p"))
        assert scenario(programs=(program,), faults=apart).faults == apart

    def test_an_address_change_needs_an_address(self):
        with pytest.raises(SpecError, match="no IPv4 address"):
            scenario(hosts=(Host("new", ipv4=False),), faults=(AddressChange(1, "new"),))

    @pytest.mark.parametrize(
        ("argument", "reason"),
        [
            ("{addr:nothing}", "'nothing' is not in `after`"),
            ("{addr:late}", "'late' is not in `after`"),
            ("{ticket:early}", "'early' publishes nothing"),
        ],
    )
    def test_placeholders_that_name_no_program(self, argument, reason):
        programs = (
            CommandProgram("p", "alice", ("x", argument), after=("early",)),
            NodeProgram("early", "bob"),
            NodeProgram("late", "bob"),
        )
        with pytest.raises(SpecError, match=reason) as caught:
            scenario(programs=programs)
        assert caught.value.key == "programs.p.argv"

    def test_programs_come_after_those_they_need(self):
        made = scenario(
            relays=(Relay("relay"),),
            programs=(
                FetchProgram("get", "alice", source="share"),
                NodeProgram("late", "bob", connect=("early", "relay")),
                PublishProgram("share", "bob"),
                NodeProgram("early", "alice"),
            ),
        )
        names = [program.name for program in made.all_programs]
        assert names.index("share") < names.index("get")
        assert names.index("early") < names.index("late")
        assert names[0] == "relay"


class TestPlan:
    def test_a_nat_behind_a_nat(self):
        plan = make_plan(
            Scenario(
                "test",
                routers=(
                    Router("carrier", nat=NAMES["cgnat"]),
                    Router("home", nat=NAMES["linux-masquerade"], behind="carrier"),
                ),
                hosts=(Host("alice", behind="home"),),
            )
        )
        assert plan.ipv4["alice"].startswith("192.168.2.")
        assert plan.ipv4["home"].startswith("100.64.")
        assert plan.public_ip["alice"] == plan.public_ip["carrier"] == plan.ipv4["carrier"]
        wires = {wire.name: wire for wire in plan.wires}
        assert wires["carrier"].is_tun
        assert wires["carrier"].nat == NAMES["cgnat"]
        assert not wires["home"].is_tun
        assert wires["home"].bridged

    def test_carriers_of_carriers_have_networks_of_their_own(self):
        nat = NAMES["linux-masquerade"]
        routers = (
            Router("a", nat=nat),
            Router("b", nat=nat, behind="a"),
            Router("c", nat=nat, behind="b"),
        )
        plan = make_plan(Scenario("test", routers=routers, hosts=(Host("x", behind="c"),)))
        bridges = [plan.nodes[name].bridge or () for name in "abc"]
        lans = [IPv4Interface(addresses[0]).network for addresses in bridges]
        assert not any(one.overlaps(two) for one, two in combinations(lans, 2))
        assert plan.public_ip["x"] == plan.ipv4["a"]

    def test_a_firewall_behind_another_translates_nothing_either(self):
        firewall = NAMES["firewall"]
        routers = (Router("a", nat=firewall), Router("b", nat=firewall, behind="a"))
        plan = make_plan(Scenario("test", routers=routers, hosts=(Host("x", behind="b"),)))
        assert plan.public_ip["x"] == plan.ipv4["x"]

    @pytest.mark.parametrize(
        ("key", "inner", "hosts"),
        [
            ("routers.in.lan", Router("in", lan="100.64.7.0/24", behind="out"), ()),
            ("routers.in.nat", Router("in", nat=NAMES["one-to-one"], behind="out"), ()),
            ("routers.in.nat", Router("in", nat=NatSpec(upnp=True, hairpin=True)), ()),
            ("routers.in.backend", Router("in", nat=NAMES["cgnat"], backend="nftables"), ()),
            ("routers.in.behind", Router("in", nat=NAMES["firewall"], behind="cloud"), ()),
            (
                "hosts.h-4.standby",
                Router("in", lan="192.168.7.0/28"),
                tuple(Host(f"h-{n}", behind="out", standby="in") for n in range(14)),
            ),
        ],
    )
    def test_networks_that_cannot_be_are_named(self, key, inner, hosts):
        routers = (Router("out"), Router("cloud", nat=NAMES["one-to-one"]), inner)
        made = Scenario("test", routers=routers, hosts=(Host("x", behind="in"), *hosts))
        with pytest.raises(SpecError) as caught:
            make_plan(made)
        assert caught.value.key == key

    @pytest.mark.parametrize("argument", ["{ip:nobody}", "{ip:new}", "{ip6:alice}"])
    def test_placeholders_need_an_address(self, argument):
        hosts = (ALICE, BOB, Host("new", ipv4=False))
        program = CommandProgram("p", "bob", ("x", "{python} {ip:alice}", argument))
        with pytest.raises(SpecError, match="address") as caught:
            make_plan(scenario(hosts=hosts, programs=(program,)))
        assert caught.value.key == "programs.p.argv"

    def test_all_homes_have_the_same_network_inside(self):
        routers = tuple(Router(f"home-{n}") for n in range(3))
        hosts = tuple(Host(f"host-{n}", behind=f"home-{n}") for n in range(3))
        plan = make_plan(Scenario("test", routers=routers, hosts=hosts))
        assert len({plan.ipv4[host.name] for host in hosts}) == 1
        assert len({plan.public_ip[host.name] for host in hosts}) == 3

    def test_one_to_one_gives_each_host_an_address(self):
        hosts = tuple(Host(f"host-{n}", behind="cloud") for n in range(3))
        router = Router("cloud", nat=NAMES["one-to-one"])
        plan = make_plan(Scenario("test", routers=(router,), hosts=hosts))
        public = {plan.public_ip[host.name] for host in hosts}
        assert len(public) == 3
        assert plan.public_ip["cloud"] not in public

    def test_a_firewall_has_public_addresses_inside_that_the_core_can_route_to(self):
        router = Router("fw", nat=NAMES["firewall"])
        plan = make_plan(Scenario("test", routers=(router,), hosts=(Host("x", behind="fw"),)))
        assert plan.public_ip["x"] == plan.ipv4["x"]
        net = plan.ipv4["x"].rpartition(".")[0] + ".0/24"
        assert net in {route.to for route in plan.nodes["internet"].routes}

    def test_no_address_is_given_twice(self):
        made = chaos.mesh(3, 1, 30)
        plan = make_plan(made)
        outside = [
            address
            for node in plan.nodes.values()
            for uplink in node.uplinks
            for address in uplink.addresses
            if address.startswith("11.")
        ]
        assert len(outside) == len(set(outside))

    def test_ipv6_only_where_everything_above_has_it(self):
        plan = make_plan(
            Scenario(
                "test",
                ipv6=True,
                routers=(
                    Router("new", nat=NatSpec()),
                    Router("old", nat=NatSpec(ipv6="drop")),
                ),
                hosts=(
                    Host("a", behind="new"),
                    Host("b", behind="old"),
                    Host("c"),
                    Host("d", ipv6=False),
                    Host("e", ipv4=False),
                ),
            )
        )
        assert set(plan.ipv6) == {"a", "c", "e", "new"}
        assert "e" not in plan.ipv4

    def test_a_network_that_is_too_small_is_refused(self):
        hosts = tuple(Host(f"host-{n}", behind="home") for n in range(12))
        router = Router("home", lan="192.168.7.0/28")
        with pytest.raises(SpecError, match="no address left"):
            make_plan(Scenario("test", routers=(router,), hosts=hosts))

    def test_a_shaped_link_is_a_pair_of_tun_devices(self):
        slow = Link(LinkSpec(delay_s=0.1), LinkSpec())
        plan = make_plan(scenario(hosts=(Host("alice", behind="home", link=slow), BOB)))
        wires = {wire.name: wire for wire in plan.wires}
        assert wires["alice"].is_tun
        assert not wires["alice"].bridged
        assert not wires["bob"].is_tun


class TestNftables:
    def test_the_kernel_takes_what_it_can_and_nothing_else(self):
        kernel = {name for name, spec in NAMES.items() if not nftables.obstacles(spec)}
        assert kernel == {
            "symmetric-random",
            "linux-masquerade",
            "one-to-one",
            "firewall",
            "tcp-443-only",
            "upnp",
        }

    def test_a_backend_that_cannot_is_refused_with_the_reason(self):
        with pytest.raises(SpecError, match="filters by connection"):
            in_userspace(Router("x", nat=NAMES["full-cone"], backend="nftables"))

    def test_port_control_needs_the_kernel(self):
        with pytest.raises(SpecError, match="port control"):
            in_userspace(Router("x", nat=NatSpec(upnp=True, hairpin=True)))

    def test_every_rule_that_is_made_can_be_undone(self):
        assert "dead-n3" in nftables.dead_link("n3")
        assert "delete table netdev dead-n3" in nftables.live_link("n3")
        groups = (["n0", "n1"], ["n2"])
        text = nftables.partition(groups)
        assert 'iifname { "n0", "n1" } oifname { "n2" } drop' in text
        assert 'iifname { "n2" } oifname { "n0", "n1" } drop' in text
        assert "table inet second" in nftables.partition(groups, "second")
        assert "delete table inet second" in nftables.no_partition("second")


def connected(peer, addr, direction="outbound", t=1.0):
    fields = {"peer_id": peer, "addr": addr, "direction": direction, "t": t}
    return {"event": "peer_connected", **fields}


class TestMesh:
    def mesh(self):
        mesh = Mesh()
        addrs = ["/ip4/192.168.1.10/tcp/4001/p2p/A", "/ip4/127.0.0.1/tcp/4001/p2p/A"]
        mesh.feed("a", {"event": "ready", "peer_id": "A", "addrs": addrs})
        mesh.feed("relay", {"event": "ready", "peer_id": "R", "addrs": []})
        return mesh

    def test_addresses_are_its_own_and_those_that_others_saw(self):
        mesh = self.mesh()
        mesh.feed("relay", connected("A", "/ip4/11.0.0.2/tcp/33000", "inbound"))
        assert mesh.addresses("a") == [
            "/ip4/192.168.1.10/tcp/4001/p2p/A",
            "/ip4/11.0.0.2/tcp/33000/p2p/A",
        ]
        assert mesh.addresses("nobody") == []

    def test_both_ends_must_agree(self):
        mesh = self.mesh()
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/tcp/1"))
        assert mesh.link("a", "relay") is not None
        assert mesh.link("relay", "a") is None
        assert not mesh.is_mutual("a", "relay")
        mesh.feed("relay", connected("A", "/ip4/11.0.0.2/tcp/2", "inbound"))
        assert mesh.is_mutual("a", "relay")
        mesh.forget("a")
        assert not mesh.is_mutual("a", "relay")
        assert mesh.complaints == []

    def test_a_race_that_only_its_other_end_saw_is_no_connection(self):
        mesh = self.mesh()
        mesh.feed("relay", connected("A", "/ip4/11.0.0.2/tcp/2", "inbound"))
        assert mesh.link("a", "relay") is None
        mesh.feed("relay", {"event": "peer_disconnected", "peer_id": "A", "reason": ""})
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/udp/1/quic-v1/noise"))
        link = mesh.link("a", "relay")
        assert link is not None
        assert link.kind == "direct-quic"

    def test_contradictions_are_noticed(self):
        mesh = self.mesh()
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/tcp/1"))
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/tcp/1"))
        mesh.feed("relay", {"event": "peer_disconnected", "peer_id": "A", "reason": ""})
        assert len(mesh.complaints) == 2

    def test_the_first_path_of_each_kind_counts(self):
        mesh = self.mesh()
        mesh.feed("a", connected("R", "/ip4/1.1.1.1/tcp/1/p2p/X/p2p-circuit", t=1.0))
        mesh.feed("a", {"event": "peer_disconnected", "peer_id": "R", "reason": ""})
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/tcp/1", t=2.0))
        mesh.feed("relay", connected("A", "/ip4/11.0.0.2/tcp/1", "inbound", t=1.9))
        assert mesh.first_paths("a", "relay") == {"relayed": 1.0, "direct-tcp": 1.9}

    def test_a_path_that_is_replaced_is_seen(self):
        mesh = self.mesh()
        circuit = "/ip4/1.1.1.1/tcp/1/p2p/X/p2p-circuit"
        mesh.feed("a", connected("R", circuit, t=1.0))
        changed = {"event": "path_changed", "peer_id": "R", "previous": "relayed"}
        addr = "/ip4/11.0.0.1/udp/1/quic-v1/noise"
        mesh.feed("a", {**changed, "path": "direct-quic", "addr": addr, "t": 1.4})
        assert mesh.first_paths("a", "relay") == {"relayed": 1.0, "direct-quic": 1.4}
        link = mesh.link("a", "relay")
        assert link is not None
        assert (link.kind, link.addr) == ("direct-quic", addr)
        mesh.feed("a", {**changed, "path": "relayed", "addr": circuit, "t": 9.0})
        link = mesh.link("a", "relay")
        assert link is not None
        assert link.kind == "relayed"
        assert {path.kind: path.t for path in mesh.used_paths()} == {
            "relayed": 9.0,
            "direct-quic": 1.4,
        }
        assert mesh.complaints == []
        mesh.feed("relay", {**changed, "peer_id": "A", "path": "relayed", "addr": circuit})
        assert len(mesh.complaints) == 1

    def test_relays_may_say_nothing_of_their_connections(self):
        mesh = Mesh({"relay"})
        mesh.feed("a", {"event": "ready", "peer_id": "A", "addrs": []})
        mesh.feed("relay", {"event": "ready", "peer_id": "R", "addrs": ["/ip4/1.1.1.1/tcp/1"]})
        assert not mesh.is_mutual("a", "relay")
        mesh.feed("a", connected("R", "/ip4/11.0.0.1/tcp/1"))
        assert mesh.link("relay", "a") is not None
        assert mesh.is_mutual("a", "relay")
        assert mesh.is_mutual("relay", "a")
        mesh.feed("relay", connected("B", "/ip4/11.0.0.9/tcp/1"))
        assert not mesh.is_mutual("a", "relay")

    def test_who_can_be_reached_through_a_relay(self):
        mesh = Mesh()
        mesh.feed("a", {"event": "ready", "peer_id": "A", "addrs": []})
        mesh.feed("relay", {"event": "ready", "peer_id": "R", "addrs": ["/ip4/1.1.1.1/tcp/1"]})
        assert mesh.relayed_addresses("a", ["relay", "nobody"]) == [
            "/ip4/1.1.1.1/tcp/1/p2p/R/p2p-circuit/p2p/A"
        ]
        assert mesh.relayed_addresses("nobody", ["relay"]) == []
        assert not mesh.has_reservation("a", "relay")
        mesh.feed("relay", {"event": "reservation_made", "peer_id": "A"})
        assert mesh.has_reservation("a", "relay")
        assert not mesh.has_reservation("a", "nobody")
        mesh.feed("relay", {"event": "reservation_ended", "peer_id": "A", "reason": ""})
        assert not mesh.has_reservation("a", "relay")
        new = ["/ip4/11.0.0.5/tcp/4001/p2p/A", "/ip4/11.0.0.5/udp/1/quic-v1/noise"]
        mesh.feed("a", {"event": "addresses_changed", "addrs": new})
        assert mesh.addresses("a") == [new[0], new[1] + "/p2p/A"]

    @pytest.mark.parametrize(
        ("addr", "kind"),
        [
            ("/ip4/1.2.3.4/tcp/1", "direct-tcp"),
            ("/ip4/1.2.3.4/tcp/1/ws", "direct-ws"),
            ("/ip4/1.2.3.4/udp/1/quic-v1", "direct-quic"),
            ("/ip4/1.2.3.4/tcp/1/p2p/X/p2p-circuit", "relayed"),
        ],
    )
    def test_kinds_of_paths(self, addr, kind):
        assert path_kind(addr) == kind


class TestMatrix:
    def outcome(self, name, ok, links=None):
        return Outcome(name, name, "node", ok, "why", 1.0, {"links": links or {}})

    def report(self, *outcomes):
        return Report("matrix", outcomes, (), (), 1.0)

    def test_all_ordered_pairs_in_batches(self):
        pairs = matrix.pairs(("x", "y", "z"))
        assert len(pairs) == 9

    def test_pairs_that_take_long_have_labs_of_their_own(self):
        pairs = matrix.pairs(matrix.TYPES)
        batches = matrix.batches(pairs)
        assert sorted(pair for batch in batches for pair in batch) == sorted(pairs)
        assert all(len(batch) <= matrix.BATCH for batch in batches)
        assert all(len({matrix.wait_s(pair) for pair in batch}) == 1 for batch in batches)

    def test_every_pair_has_nats_of_its_own(self):
        made = matrix.scenario_for(matrix.pairs(("open", "cgnat")), delay_s=0.02)
        assert [router.name for router in made.routers] == ["nat-b1", "nat-a2", "nat-a3", "nat-b3"]
        make_plan(made)
        lines = [router.link for router in made.routers]
        lines += [host.link for host in made.all_hosts if host.behind == "internet"]
        assert {(line.up.delay_s, line.down.delay_s) for line in lines} == {(0.01, 0.01)}

    def test_a_connected_pair(self):
        links = {"a0": {"relayed": 0.2, "direct-tcp": 0.5}}
        report = self.report(
            self.outcome("relay", True),
            self.outcome("relay-2", True),
            self.outcome("a0", True),
            self.outcome("b0", True, links),
        )
        assert matrix.verdict(("open", "cgnat"), 0, report).as_json() == {
            "a": "open",
            "b": "cgnat",
            "connected": True,
            "path": "direct-tcp",
            "direct_s": 0.5,
            "relayed_s": 0.2,
            "reason": None,
            "expected": "direct",
        }

    def test_a_pair_that_nothing_connects(self):
        report = self.report(
            self.outcome("relay", True),
            self.outcome("relay-2", True),
            self.outcome("a0", True),
            self.outcome("b0", False),
        )
        result = matrix.verdict(("symmetric-random", "port-restricted"), 0, report)
        assert (result.connected, result.path, result.direct_s) == (False, None, None)
        assert result.reason == "b: why"
        assert result.expected == "birthday"

    def test_the_summary_counts_against_theory(self):
        results = [
            matrix.PairResult("a", "b", True, "direct-tcp", 1.5, 0.5, expected="direct"),
            matrix.PairResult("a", "c", True, "relayed", None, 0.3, expected="direct"),
            matrix.PairResult("c", "c", True, "direct-quic", 9.0, 0.4, expected="birthday"),
            matrix.PairResult("d", "d", True, "relayed", None, 0.2, expected="relayed"),
            matrix.PairResult("e", "d", False, None, None, None, "why", "relayed"),
        ]
        found = matrix.summary(results)
        assert found["pairs"] == 5
        assert found["connected"] == 80.0
        assert found["direct_of_direct"] == 50.0
        assert found["direct_of_birthday"] == 100.0
        assert found["relayed_s"] == {"count": 4, "median": 0.35, "p95": 0.5}
        assert found["relayed_to_direct_s"] == {"count": 1, "median": 1.0, "p95": 1.0}
        assert [(miss["a"], miss["b"]) for miss in found["misses"]] == [("a", "c"), ("e", "d")]
        empty = matrix.summary([])
        assert empty["connected"] is None
        for one in (found, empty):
            matrix.summary_table(one)

    def test_types_are_known(self):
        assert set(matrix.TYPES) <= set(matrix.ALL_TYPES)
        assert len(matrix.TYPES) >= 10


class TestFaults:
    def test_ends_come_in_the_order_of_time(self):
        plan = faults.steps((LinkDown(5, "x", for_s=2), Kill(1, "y", for_s=6), NatReboot(7, "z")))
        assert [(step.t, step.undo) for step in plan] == [
            (1, False),
            (5, False),
            (7, True),
            (7, True),
            (7, False),
        ]

    def test_chaos_has_every_kind_but_what_makes_no_sense_there(self):
        found = {type(fault) for seed in range(20) for fault in chaos.mesh(seed, 3, 9).faults}
        # Nobody in the mesh has a second attachment.
        assert found == set(FAULTS.values()) - {Handover}

    def test_chaos_is_a_function_of_its_seed(self):
        assert chaos.mesh(5, 2, 6) == chaos.mesh(5, 2, 6)
        assert chaos.mesh(5, 2, 6) != chaos.mesh(6, 2, 6)

    @pytest.mark.parametrize("seed", range(20))
    def test_chaos_heals_before_it_is_judged(self, seed):
        made = chaos.mesh(seed, 3, 9)
        make_plan(made)
        end = max(step.t for step in faults.steps(made.faults))
        (newcomer,) = [p for p in made.programs if p.name == "newcomer"]
        assert end + chaos.QUIET <= newcomer.at_s
        assert all(faults.describe(fault) for fault in made.faults)
