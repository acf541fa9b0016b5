"""Kconfig is the one list of options: what menuconfig writes, what the generator makes of it and what the daemon reads are the same."""

import os
import re
import shutil
import subprocess
import sys

import kconfiglib
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ORDINALD = os.path.join(os.environ.get("ORDINAL_BUILD", os.path.join(ROOT, "build")), "ordinald")
KCONFIG = os.path.join(ROOT, "Kconfig")
GEN = os.path.join(ROOT, "tools", "kconfig", "gen.py")


def settings(text):
    """Every setting of a file in Kconfig's syntax, with "is not set" as n."""
    found = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))
    found.update({key: "n" for key in re.findall(r"^# (CONFIG_\w+) is not set$", text, re.M)})
    return found


def dump(*args):
    return subprocess.run([ORDINALD, *args, "--dump-config"], check=True, capture_output=True, text=True).stdout


def gen(*args):
    return subprocess.run([sys.executable, GEN, *map(str, args)], capture_output=True, text=True)


def build_options(kconf):
    """This build's own, which a file cannot change."""
    defaults = settings(dump())
    for name in ("DEBUG", "LTO", "NATIVE_ARCH"):
        kconf.syms[name].set_value(2 if defaults["CONFIG_" + name] == "y" else 0)


def test_the_daemon_reads_what_menuconfig_writes(tmp_path):
    kconf = kconfiglib.Kconfig(KCONFIG, warn_to_stderr=False)
    build_options(kconf)
    for name in ("ID_ORDER_SHARDED", "LOG_LEVEL_WARN", "FEED_DURABILITY_WRITE"):
        kconf.syms[name].set_value(2)
    for name, value in (("SHARDS", "3"), ("LISTEN", "[::1]:7"), ("DATA_DIR", 'a "quoted" \\ path'), ("QUEUE_DEPTH", "64")):
        assert kconf.syms[name].set_value(value)
    kconf.syms["NUMA"].set_value(0)
    kconf.write_config(str(tmp_path / "config"))
    written = settings((tmp_path / "config").read_text())
    assert written["CONFIG_ID_ORDER"] == '"sharded"' and written["CONFIG_ID_ORDER_SHARDED"] == "y"
    assert settings(dump("-c", str(tmp_path / "config"))) == written


def test_menuconfig_reads_what_the_daemon_dumps(tmp_path):
    text = dump("-o", "ID_ORDER=sharded", "-o", "SHARDS=5", "-o", "NUMA=n", "-o", 'DATA_DIR=a "b" \\c')
    (tmp_path / "config").write_text(text)
    kconf = kconfiglib.Kconfig(KCONFIG, warn_to_stderr=False)
    kconf.load_config(str(tmp_path / "config"))
    assert kconf.warnings == []
    assert kconf.syms["ID_ORDER"].str_value == "sharded"
    assert kconf.syms["DATA_DIR"].str_value == 'a "b" \\c'
    kconf.write_config(str(tmp_path / "again"))
    assert settings((tmp_path / "again").read_text()) == settings(text)


def test_defconfig_is_the_daemons_defaults(tmp_path):
    assert gen("defconfig", KCONFIG, tmp_path / "config").returncode == 0
    runtime = lambda s: {k: v for k, v in s.items() if k[7:] not in ("DEBUG", "LTO", "NATIVE_ARCH")}
    assert runtime(settings((tmp_path / "config").read_text())) == runtime(settings(dump()))


def test_the_commands_of_the_readme_find_their_configuration(tmp_path):
    """Where only `make all` had run there was no .config, and what the README says next failed."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        lines = [line.split("#")[0].strip() for line in f if line.startswith("    ")]
    uses = [i for i, line in enumerate(lines) if "-c .config" in line]
    assert uses and "make defconfig" in lines[:uses[0]]
    for name in ("Makefile", "Kconfig"):
        shutil.copy(os.path.join(ROOT, name), tmp_path)
    shutil.copytree(os.path.join(ROOT, "tools", "kconfig"), tmp_path / "tools" / "kconfig")
    subprocess.run(["make", "defconfig"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    checked = [line for line in lines if line.endswith("-c .config --check")]
    assert checked
    for line in checked:
        done = subprocess.run([ORDINALD, *line.split()[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "ordinald: the configuration is valid\n"), done.stderr


def test_the_installed_configuration_loads_and_keeps_what_was_chosen(tmp_path):
    (tmp_path / "config").write_text('CONFIG_ID_ORDER="sharded"\nCONFIG_SHARDS=9\n# CONFIG_NUMA is not set\n')
    made = gen("conf", KCONFIG, tmp_path / "config")
    assert made.returncode == 0, made.stderr
    (tmp_path / "ordinal.conf").write_text(made.stdout)
    loaded = settings(dump("-c", str(tmp_path / "ordinal.conf")))
    assert loaded == settings(dump("-c", str(tmp_path / "config")))
    assert loaded["CONFIG_ID_ORDER"] == '"sharded"' and loaded["CONFIG_SHARDS"] == "9" and loaded["CONFIG_NUMA"] == "n"


@pytest.mark.parametrize("text, why", [
    ('CONFIG_ID_ORDER="strict"\nCONFIG_ID_ORDER_SHARDED=y\n', "contradicts"),
    ('CONFIG_ID_ORDER="loose"\n', "one of strict, sharded"),
    ("CONFIG_SHARD=1\n", "SHARD"),
    ("CONFIG_SHARDS=1000\n", "SHARDS"),
])
def test_the_build_refuses_a_doubtful_config(tmp_path, text, why):
    (tmp_path / "config").write_text(text)
    made = gen("build", KCONFIG, tmp_path / "config", "1.2.3", tmp_path / "gen")
    assert made.returncode != 0
    assert why in made.stderr
    assert not (tmp_path / "gen").exists()


def test_a_runtime_value_is_not_compiled_in_and_a_build_option_is(tmp_path):
    out = tmp_path / "gen"
    assert gen("build", KCONFIG, tmp_path / "none", "1.2.3", out).returncode == 0
    before = {f: (out / f).read_text() for f in os.listdir(out)}
    assert "#define CONFIG_DEBUG 0" in before["config_gen.h"] and '"1.2.3"' in before["config_gen.h"]
    (tmp_path / "config").write_text("CONFIG_SHARDS=9\n")
    assert gen("build", KCONFIG, tmp_path / "config", "1.2.3", out).returncode == 0
    assert before == {f: (out / f).read_text() for f in os.listdir(out)}
    (tmp_path / "config").write_text("CONFIG_DEBUG=y\n")
    assert gen("build", KCONFIG, tmp_path / "config", "1.2.3", out).returncode == 0
    assert "#define CONFIG_DEBUG 1" in (out / "config_gen.h").read_text()
    assert "CONFIG_DEBUG := y" in (out / "config.mk").read_text()


@pytest.mark.parametrize("override, why", [
    ("SHARDS=65", "from 0 to 64"),
    ("LISTN=x", "did you mean CONFIG_LISTEN?"),
    ("QUEUE_DEPTH=1000", "512 or 1024"),
])
def test_check_refuses_with_a_sentence(override, why):
    done = subprocess.run([ORDINALD, "--check", "-o", override], capture_output=True, text=True)
    assert done.returncode != 0
    assert why in done.stderr


def test_check_takes_what_is_right():
    assert subprocess.run([ORDINALD, "--check", "-o", "CONFIG_ID_ORDER=\"sharded\""], capture_output=True).returncode == 0


def test_whatever_can_be_chosen_is_explained():
    """The four levels of the log had no help."""
    bare = [node.prompt[0] for node in kconfiglib.Kconfig(KCONFIG).node_iter()
            if node.prompt and isinstance(node.item, (kconfiglib.Symbol, kconfiglib.Choice)) and not node.help]
    assert bare == []
