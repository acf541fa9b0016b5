"""`make install`, `make uninstall` and the manual pages."""

import os
import re
import shutil
import subprocess

import pytest

import appliance


def make(*args):
    done = subprocess.run(["make", *args], cwd=appliance.ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    if appliance.BUILD != appliance.ROOT + "/build":
        pytest.skip("make install is of the plain build")
    root = tmp_path_factory.mktemp("root")
    make("install", f"DESTDIR={root}", "PREFIX=/usr")
    return root


def test_what_is_installed(installed):
    assert {"usr/sbin/ordinald", "usr/bin/ordinal", "etc/ordinal/ordinal.conf", "usr/lib/systemd/system/ordinald.service",
            "usr/share/man/man8/ordinald.8", "usr/share/man/man1/ordinal.1", "usr/share/man/man5/ordinal.conf.5",
            "usr/share/ordinal/access.example", "usr/share/ordinal/profiles/small.conf", "usr/share/bash-completion/completions/ordinal"} <= files(installed)
    unit = (installed / "usr/lib/systemd/system/ordinald.service").read_text()
    assert "@" not in re.sub(r"@[a-z-]+", "", unit), "everything is filled in"
    assert "/usr/sbin/ordinald" in unit


def test_the_installed_configuration_is_kept_and_uninstall_leaves_only_it(installed):
    conf = installed / "etc/ordinal/ordinal.conf"
    assert subprocess.run([appliance.ORDINALD, "-c", conf, "--check"], check=False, capture_output=True).returncode == 0
    conf.write_text("CONFIG_SHARDS=1\n")
    make("install", f"DESTDIR={installed}", "PREFIX=/usr")
    assert conf.read_text() == "CONFIG_SHARDS=1\n"
    make("uninstall", f"DESTDIR={installed}", "PREFIX=/usr")
    assert files(installed) == {"etc/ordinal/ordinal.conf"}
    make("install", f"DESTDIR={installed}", "PREFIX=/usr")


def test_the_pages_name_every_key_and_every_command(installed):
    page = (installed / "usr/share/man/man5/ordinal.conf.5").read_text()
    dumped = subprocess.run([appliance.ORDINALD, "--dump-config"], capture_output=True, text=True, check=True).stdout
    kinds = set(re.findall(r"^CONFIG_(\w+)=(?![yn]$)", dumped, re.M))
    assert len(kinds) > 30 and all(f"CONFIG_{key}\n" in page for key in kinds)
    page = (installed / "usr/share/man/man1/ordinal.1").read_text()
    for command in re.findall(r"^  ([a-z]+)  ", appliance.tool("--help").stdout, re.M):
        assert f".SS ordinal {command}\n" in page


def test_the_pages_have_the_versions_date(installed):
    """They had none; and a date of the day on which they were made would make each build another one."""
    def date(**env):
        return subprocess.run([appliance.ROOT + "/tools/build/man_date.sh"], env={**os.environ, **env}, capture_output=True, text=True,
                              check=True).stdout.strip()
    pages = sorted((installed / "usr/share/man").rglob("*.[158]"))
    assert len(pages) >= 4
    for page in pages:
        heading = re.match(r'\.TH \S+ [158] "(\d{4}-\d\d-\d\d)" "Ordinal \d+\.\d+\.\d+" ', page.read_text())
        assert heading and heading[1] == date(), page
    assert date(SOURCE_DATE_EPOCH="1000000000") == "2001-09-09"


@pytest.mark.skipif(not shutil.which("man"), reason="man-db is not installed")
def test_the_pages_have_no_faults(installed):
    for page in sorted((installed / "usr/share/man").rglob("*.[158]")):
        done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", page], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr


def test_completion_offers_commands_and_options(installed):
    def offered(*words):
        script = (f"PATH={appliance.BUILD}:$PATH; . {installed}/usr/share/bash-completion/completions/ordinal; COMP_WORDS=({' '.join(words)});"
                  f"COMP_CWORD={len(words) - 1}; _ordinal; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert offered("ordinal", "ne") == ["next"]
    assert "--count" in offered("ordinal", "next", "--c")
    assert offered("ordinal", "next", "--protocol", "g") == ["grpc"]
    assert offered("ordinal", "stats", "t") == ["topology"] and "--json" in offered("ordinal", "stats", "--j")
    assert offered("ordinal", "load", "--tls") == ["--tls", "--tls-ca", "--tls-cert", "--tls-key", "--tls-name"]
    assert offered("ordinal", "publish", "--tok") == ["--token-file"]
