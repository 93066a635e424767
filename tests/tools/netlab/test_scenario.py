"""Scenario files: what they say, and errors with file, key and reason."""

from __future__ import annotations

import textwrap

import pytest
from typer.testing import CliRunner

from tools.netlab.__main__ import app
from tools.netlab.lab.plan import make_plan
from tools.netlab.spec import scenario as scenarios
from tools.netlab.spec.fault import LinkChange, Partition
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.scenario import ScenarioError, find, load, parse, shipped
from tools.netlab.spec.strict import SpecError
from tools.netlab.spec.workload import CommandProgram, NodeProgram

DOCUMENTED = "\n".join(
    line.removeprefix("    ")
    for line in (scenarios.__doc__ or "").splitlines()
    if line.startswith("    ")
)


class TestShipped:
    @pytest.mark.parametrize("name", shipped())
    def test_parses_and_can_be_built(self, name):
        scenario = load(shipped()[name])
        assert scenario.name == name
        assert scenario.about
        assert scenario.programs
        make_plan(scenario)

    def test_all_that_was_promised(self):
        assert set(shipped()) >= {
            "home-to-home",
            "office-firewall",
            "cgnat-to-cgnat",
            "symmetric-to-cone",
            "mobile-handover",
            "lossy-satellite",
            "relay-failover",
            "partition-16",
            "three-sites",
        }

    def test_sixteen_nodes_are_sixteen(self):
        scenario = load(shipped()["partition-16"])
        assert len(scenario.all_programs) == 16
        (fault,) = scenario.faults
        assert isinstance(fault, Partition)
        assert [len(group) for group in fault.groups] == [8, 8]

    def test_three_sites_have_eight_workers_each(self):
        scenario = load(shipped()["three-sites"])
        for site in ("dc", "campus", "office"):
            workers = [host for host in scenario.hosts if host.name.startswith(f"{site}-gpu-")]
            assert len(workers) == 8


class TestParse:
    def test_the_documented_example(self):
        scenario = parse(DOCUMENTED, "other")
        assert scenario.name == "two-homes"
        assert [host.name for host in scenario.hosts] == ["alice-1", "alice-2", "alice-3"]
        (home,) = scenario.routers
        assert home.nat == NAMES["port-restricted"]
        assert home.link.up.rate_bps == 10e6
        assert home.link.down.rate_bps == 50e6
        programs = {program.name: program for program in scenario.programs}
        assert programs["peer-2"].host == "alice-2"
        assert isinstance(programs["peer-2"], NodeProgram)
        assert programs["peer-2"].connect == ("relay",)

    def test_the_file_gives_the_name(self):
        assert parse("[hosts.a]", "given").name == "given"

    def test_a_nat_like_another(self):
        text = """
            [hosts.a]
            [routers.r]
            nat = { like = "cgnat", udp_timeout_s = 7 }
        """
        (router,) = parse(textwrap.dedent(text), "x").routers
        assert router.nat.udp_timeout_s == 7
        assert router.nat.ports_per_host == NAMES["cgnat"].ports_per_host

    def test_a_link_that_is_the_same_both_ways_and_a_fault_that_changes_it(self):
        text = """
            [links.slow]
            both = { rate_bps = 1e6 }
            [hosts.a]
            link = "slow"
            standby_link = { up = { delay_s = 0.1 } }
            [[faults]]
            kind = "link-change"
            at_s = 1
            node = "a"
            link = "slow"
        """
        scenario = parse(textwrap.dedent(text), "x")
        assert scenario.hosts[0].link.up == scenario.hosts[0].link.down
        assert scenario.hosts[0].standby_link.up.delay_s == 0.1
        (fault,) = scenario.faults
        assert isinstance(fault, LinkChange)
        assert fault.link == scenario.hosts[0].link

    def test_a_counted_name_in_a_list_means_all(self):
        text = """
            [hosts.a]
            count = 2
            [hosts.b]
            [programs.p]
            kind = "node"
            host = "a"
            [programs.q]
            kind = "node"
            host = "b"
            connect = ["p"]
            [[faults]]
            kind = "partition"
            at_s = 1
            groups = [["a"], ["b"]]
        """
        scenario = parse(textwrap.dedent(text), "x")
        assert scenario.programs[-1].needs == ("p-1", "p-2")
        (fault,) = scenario.faults
        assert isinstance(fault, Partition)
        assert fault.groups == (("a-1", "a-2"), ("b",))

    def test_a_command_may_stay_up(self):
        text = "[hosts.a]\n[programs.p]\nkind='command'\nhost='a'\nargv=['x']\nexit_code='none'"
        (program,) = parse(text, "x").programs
        assert program == CommandProgram("p", "a", ("x",), exit_code=None)

    def test_a_program_with_an_environment(self):
        text = """
            [hosts.a]
            [programs.p]
            kind = "command"
            host = "a"
            argv = ["{python}", "-V"]
            env = { LANG = "C" }
        """
        (program,) = parse(textwrap.dedent(text), "x").programs
        assert isinstance(program, CommandProgram)
        assert program.env == (("LANG", "C"),)


class TestErrors:
    @pytest.mark.parametrize(
        ("key", "text"),
        [
            ("surprise", "surprise = 1"),
            ("duration_s", "duration_s = 'long'"),
            ("hosts", "hosts = 3"),
            ("hosts.a", "[hosts]\na = 3"),
            ("hosts.a.colour", "[hosts.a]\ncolour = 'red'"),
            ("hosts.a.count", "[hosts.a]\ncount = 0"),
            ("hosts.a.count", "[hosts.a]\ncount = true"),
            ("hosts.a.link", "[hosts.a]\nlink = 'fast'"),
            ("hosts.a.link", "[hosts.a]\nlink = 7"),
            ("hosts.a.link.up", "[hosts.a]\nlink = { both = {}, up = {} }"),
            ("links.slow.up.delay_s", "[links.slow]\nup = { delay_s = -1 }\n[hosts.a]"),
            ("routers.r.nat", "[hosts.a]\n[routers.r]\nnat = 'strict'"),
            ("routers.r.nat", "[hosts.a]\n[routers.r]\nnat = { like = 'strict' }"),
            ("routers.r.nat.mapping", "[hosts.a]\n[routers.r]\nnat = { mapping = 'x' }"),
            ("routers.r.lan", "[hosts.a]\n[routers.r]\nlan = '10.0.0.0/99'"),
            ("relays.r.listen", "[relays.r]\nlisten = []"),
            ("programs.p.kind", "[hosts.a]\n[programs.p]\nhost = 'a'"),
            ("programs.p.kind", "[hosts.a]\n[programs.p]\nkind = 'dance'"),
            ("programs.p.host", "[hosts.a]\n[programs.p]\nkind = 'node'"),
            ("programs.p.env", "[hosts.a]\n[programs.p]\nkind='node'\nhost='a'\nenv=['x']"),
            ("programs.p.connect", "[hosts.a]\n[programs.p]\nkind='node'\nhost='a'\nconnect='x'"),
            ("faults", "faults = 'many'"),
            ("faults[0]", "faults = [1]"),
            ("faults[0].kind", "[hosts.a]\n[[faults]]\nat_s = 1"),
            ("faults[0].node", "[hosts.a]\n[[faults]]\nkind='link-down'\nat_s=1"),
            ("faults[0].node", "[hosts.a]\n[[faults]]\nkind='link-down'\nat_s=1\nnode='b'"),
            ("faults[0].groups[1]", "[hosts.a]\n[[faults]]\nkind='partition'\nat_s=1\n"
             "groups=[['a'],'b']"),
        ],
    )  # fmt: skip
    def test_the_key_is_named(self, key, text):
        with pytest.raises(SpecError) as caught:
            parse(text, "x")
        assert caught.value.key == key
        assert caught.value.reason

    def test_a_file_with_a_mistake(self, tmp_path):
        file = tmp_path / "bad.toml"
        file.write_text("[hosts.a]\nbehind = 'nowhere'")
        with pytest.raises(ScenarioError) as caught:
            load(file)
        assert str(caught.value) == f"{file}: hosts.a.behind: there is no router 'nowhere'"

    @pytest.mark.parametrize(
        ("key", "text"),
        [
            ("routers.r.nat", "[routers.q]\n[routers.r]\nbehind='q'\nnat='one-to-one'\n[hosts.a]"),
            ("routers.r.nat", "[routers.r]\nnat={hairpin=true, upnp=true}\n[hosts.a]"),
            ("programs.p.argv", "[hosts.a]\n[programs.p]\nkind='command'\nhost='a'\n"
             "argv=['{ip:b}']"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_built_is_refused_by_every_command(self, tmp_path, key, text):
        file = tmp_path / "bad.toml"
        file.write_text(text)
        with pytest.raises(ScenarioError) as caught:
            load(file)
        assert str(caught.value).startswith(f"{file}: {key}: ")
        for command in ("run", "netem", "draw"):
            result = CliRunner().invoke(app, [command, str(file)])
            assert result.exit_code == 2
            assert f"{file}: {key}: " in result.output

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"[hosts.a", "is not TOML"), (b"\xff\xfe", "is not UTF-8"), (None, "No such file")],
    )
    def test_a_file_that_cannot_be_read(self, tmp_path, content, reason):
        file = tmp_path / "bad.toml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ScenarioError, match=reason) as caught:
            load(file)
        assert caught.value.file == file

    def test_a_name_that_is_unknown_gets_the_known_ones(self):
        with pytest.raises(ScenarioError, match="home-to-home"):
            find("home-to-hoem")
