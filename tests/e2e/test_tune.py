"""ordinal-tune on a made-up machine: what it shows, and that --revert leaves what --apply found."""

import os
import subprocess

import pytest

import appliance

TUNE = os.path.join(appliance.ROOT, "tools", "tune", "ordinal-tune")
SYSCTLS = {"net/core/somaxconn": "4096", "net/core/netdev_max_backlog": "99999", "net/core/busy_poll": "50", "net/ipv4/tcp_max_syn_backlog": "128",
           "net/ipv4/tcp_rmem": "4096\t131072\t6291456", "net/ipv4/tcp_wmem": "4096\t16384\t4194304",
           "net/ipv4/tcp_mem": "1000000\t2000000\t3000000", "net/ipv4/tcp_slow_start_after_idle": "1",
           "net/ipv4/ip_local_port_range": "32768\t60999", "net/ipv4/ip_local_reserved_ports": "", "fs/nr_open": "1048576", "fs/file-max": "9223372036854775807",
           "kernel/io_uring_disabled": "2"}


@pytest.fixture
def machine(tmp_path):
    for key, value in SYSCTLS.items():
        f = tmp_path / "proc/sys" / key
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(value + "\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\n")
    for cpu in range(4):
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq").mkdir(parents=True)
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor").write_text("powersave\n")
    thp = tmp_path / "sys/kernel/mm/transparent_hugepage"
    thp.mkdir(parents=True)
    (thp / "enabled").write_text("[always] madvise never\n")
    (tmp_path / "etc").mkdir()
    return tmp_path


def tune(machine, *args, code=0):
    done = subprocess.run([TUNE, *args], capture_output=True, text=True, env=dict(os.environ, ORDINAL_TUNE_ROOT=str(machine)), check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def everything(machine):
    return {str(f.relative_to(machine)): f.read_text().split() for f in machine.rglob("*") if f.is_file()}


def test_it_shows_current_recommended_and_why(machine):
    shown = {line.split("  ")[0]: line for line in tune(machine).splitlines()}
    assert "4096" in shown["net.core.somaxconn"] and "16384" in shown["net.core.somaxconn"] and "burst" in shown["net.core.somaxconn"]
    assert " ok " in shown["net.core.netdev_max_backlog"], "more than recommended is left alone"
    assert " ok " in shown["fs.file-max"]
    assert " 0 " in shown["kernel.io_uring_disabled"]
    assert "madvise" in shown["transparent huge pages"] and "performance" in shown["frequency governor"]


def test_dry_run_changes_nothing(machine):
    before = everything(machine)
    said = tune(machine, "--dry-run")
    assert "net.core.somaxconn: 4096 -> 16384" in said and "netdev_max_backlog" not in said and "io_uring" not in said
    assert everything(machine) == before


def test_apply_and_revert_leave_it_as_found(machine):
    before = everything(machine)
    tune(machine, "--apply")
    applied = everything(machine)
    assert applied["proc/sys/net/core/somaxconn"] == ["16384"] and applied["proc/sys/net/ipv4/ip_local_port_range"] == ["15000", "64999"]
    assert applied["proc/sys/net/ipv4/tcp_wmem"] == ["4096", "16384", "16777216"]
    assert applied["proc/sys/kernel/io_uring_disabled"] == ["2"], "that is for the administrator"
    kept = (machine / "etc/sysctl.d/90-ordinal-tune.conf").read_text()
    assert "net.core.somaxconn = 16384\n" in kept
    assert "Nothing to change" in tune(machine, "--dry-run")
    # Applied again, after somebody has set one back: what was there first is still what --revert brings.
    (machine / "proc/sys/net/core/somaxconn").write_text("8192\n")
    tune(machine, "--apply")
    assert (machine / "etc/sysctl.d/90-ordinal-tune.conf").read_text().count("net.core.somaxconn") == 1
    tune(machine, "--revert")
    assert everything(machine) == before
    assert not (machine / "etc/ordinal").exists()
    assert "Nothing to revert" in tune(machine, "--revert")


def test_the_configuration_directory_of_the_package_stays(machine):
    (machine / "etc/ordinal").mkdir()
    (machine / "etc/ordinal/ordinal.conf").write_text("mine\n")
    tune(machine, "--apply")
    tune(machine, "--revert")
    assert (machine / "etc/ordinal/ordinal.conf").read_text() == "mine\n"


RESERVED = "proc/sys/net/ipv4/ip_local_reserved_ports"


@pytest.mark.parametrize("conf, before, after", [
    (None, "", "50051"), ('CONFIG_LISTEN="0.0.0.0:7000"\n', "", "7000"), ("CONFIG_LISTEN=[::1]:7001\n", "22,8000-8100", "22,8000-8100,7001"),
    ('CONFIG_LISTEN="127.0.0.1:7002"\n', "7000-7005,9000", "7000-7005,9000"), ('CONFIG_LISTEN="127.0.0.1:0"\n', "", ""),
    ('# CONFIG_LISTEN="127.0.0.1:1"\n', "5005,500510", "5005,500510,50051")])
def test_an_outgoing_connection_took_the_port(machine, conf, before, after):
    """The port is reserved, beside those that were reserved before."""
    (machine / "etc/ordinal").mkdir()
    if conf:
        (machine / "etc/ordinal/ordinal.conf").write_text(conf)
    (machine / RESERVED).write_text(before + "\n")
    found = everything(machine)
    tune(machine)
    tune(machine, "--apply")
    assert (machine / RESERVED).read_text() == after + "\n"
    kept = (machine / "etc/sysctl.d/90-ordinal-tune.conf").read_text()
    assert (f"net.ipv4.ip_local_reserved_ports = {after}\n" in kept) == (before != after)
    assert "Nothing to change" in tune(machine, "--dry-run")
    tune(machine, "--revert")
    assert everything(machine) == found


def test_the_package_reserves_the_port_and_changes_nothing_else():
    with open(os.path.join(appliance.ROOT, "systemd", "sysctl.conf"), encoding="utf-8") as f:
        settings = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    assert settings == ["net.ipv4.ip_local_reserved_ports = 50051"]


def test_wrong_usage(machine):
    tune(machine, "--now", code=2)
    tune(machine, "--apply", "--revert", code=2)


def test_this_machine_can_be_looked_at():
    done = subprocess.run([TUNE], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "net.core.somaxconn" in done.stdout and not done.stderr
