"""The package on a real, booted systemd: installed, called, reloaded, killed, stopped in its tracks, restarted under load, upgraded, removed, purged.

`make check-service` makes what this needs. The tests are steps of one life, in order. Without root, systemd-nspawn, the Debian tree or the
package they are skipped, with the reason.
"""

import glob
import os
import re
import shutil
import subprocess

import pytest

import appliance
from container import Container

TREE = f"{appliance.BUILD}/service/tree"
CONF = "/etc/ordinal/ordinal.conf"


def debs():
    return sorted(glob.glob(f"{appliance.BUILD}/ordinal_*.deb"))


def missing():
    if os.geteuid() != 0:
        return "only root can boot a container"
    if not shutil.which("systemd-nspawn") or not shutil.which("dpkg-deb"):
        return "systemd-nspawn or dpkg-deb is not installed"
    if not os.path.exists(f"{TREE}/etc/ordinal-tests") or not debs():
        return "`make check-service` makes the Debian tree and the package first"
    with open(f"{TREE}/etc/ordinal-tests", encoding="ascii") as f:
        if not f.read().startswith("systemd-sysv,"):
            return "the Debian tree has what the package is to bring: `make check-service` makes it again"
    if os.path.getmtime(debs()[-1]) < os.path.getmtime(appliance.ORDINALD):
        return "the package is older than the build: `make check-service` makes it again"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    c = Container(TREE, tmp_path_factory.mktemp("machine"))
    yield c
    c.close()


def show(machine, *properties):
    out = machine.run("systemctl", "show", "ordinald", *(f"-p{p}" for p in properties)).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


def is_running(machine):
    return show(machine, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def main_pid(machine):
    return int(show(machine, "MainPID")["MainPID"])


def as_member(machine, *command, check=True):
    return machine.run("setpriv", "--reuid=member", "--regid=member", "--init-groups", *command, check=check)


def next_id(machine):
    return int(as_member(machine, "ordinal", "next").stdout)


def set_options(machine, **options):
    machine.put(CONF, "".join(f"CONFIG_{k}={v}\n" for k, v in options.items()))


def said_since(machine, mark):
    return machine.run("journalctl", "-u", "ordinald", "--no-pager", "-o", "cat", f"--after-cursor={mark}").stdout


def mark(machine):
    return re.search(r"-- cursor: (.*)", machine.run("journalctl", "-n", "0", "--show-cursor", "--no-pager").stdout)[1]


def is_installed(machine, package):
    return machine.run("dpkg-query", "-W", "-f", "${db:Status-Status}", package, check=False).stdout == "installed"


def test_install(machine):
    """`apt install ./ordinal_*.deb`, which finds what the package depends on among Debian's."""
    said = subprocess.run(["dpkg-deb", "-f", debs()[-1], "Depends"], check=True, capture_output=True, text=True).stdout
    depends = [d.split()[0] for d in said.split(",")]
    missing = [d for d in depends if not is_installed(machine, d)]
    assert missing, "the tree was to have only systemd"
    machine.put_file(debs()[-1], "/root/ordinal.deb")
    machine.run("apt-get", "install", "-y", "--no-install-recommends", "-o", "APT::Sandbox::User=root", "/root/ordinal.deb")
    print(f"apt installed {', '.join(d for d in missing if is_installed(machine, d))} with it")
    assert all(is_installed(machine, d) for d in depends) and is_running(machine)
    assert machine.run("systemctl", "is-enabled", "ordinald").stdout.strip() == "enabled"
    state = show(machine, "StatusText", "User")
    assert "Listening on 127.0.0.1:50051" in state["StatusText"] and state["User"] == "ordinal"
    assert machine.run("stat", "-c", "%U %a", "/var/lib/ordinal").stdout == "ordinal 700\n"


def test_a_member_of_the_group_gets_ids_and_figures(machine):
    machine.run("useradd", "-m", "-G", "ordinal", "member")
    machine.run("useradd", "-m", "stranger")
    assert next_id(machine) == 1 and next_id(machine) == 2
    assert "Ids" in as_member(machine, "ordinal", "stats").stdout
    done = machine.run("setpriv", "--reuid=stranger", "--regid=stranger", "--init-groups", "ordinal", "stats", check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr


def test_the_unit_is_hardened(machine):
    out = machine.run("systemd-analyze", "security", "--no-pager", "ordinald.service", check=False).stdout
    figure = float(re.search(r"Overall exposure level.*: ([0-9.]+)", out)[1])
    print(f"systemd-analyze security: {figure}")
    assert figure <= 1.3, out
    assert machine.run("systemd-analyze", "verify", "--man=no", "ordinald.service", check=False).stderr == ""


def test_reload_changes_what_can_be_changed_and_names_the_rest(machine):
    pid, here = main_pid(machine), mark(machine)
    set_options(machine, IDLE_TIMEOUT_MS=60000, WINDOW_MIN=1001)
    machine.run("systemctl", "reload", "ordinald")
    machine.wait(lambda: "Reloaded" in said_since(machine, here), "the reload")
    said = said_since(machine, here)
    assert "IDLE_TIMEOUT_MS is 60000 now" in said and "WINDOW_MIN" in said and "restart is needed" in said
    assert main_pid(machine) == pid and is_running(machine)
    assert "changed IDLE_TIMEOUT_MS" in show(machine, "StatusText")["StatusText"]


def test_a_wrong_configuration_at_reload_changes_nothing(machine):
    pid, here = main_pid(machine), mark(machine)
    set_options(machine, IDLE_TIMEOUT_MS="soon")
    machine.run("systemctl", "reload", "ordinald")
    machine.wait(lambda: "reload refused" in said_since(machine, here), "the refusal")
    machine.wait(lambda: is_running(machine), "the service to run")
    assert "IDLE_TIMEOUT_MS takes a whole number" in show(machine, "StatusText")["StatusText"]
    assert main_pid(machine) == pid
    set_options(machine)
    machine.run("systemctl", "reload", "ordinald")


def test_killed_it_is_back(machine):
    before, pid = next_id(machine), main_pid(machine)
    machine.run("kill", "-KILL", pid)
    machine.wait(lambda: main_pid(machine) not in (0, pid) and is_running(machine), "systemd to restart it")
    assert int(show(machine, "NRestarts")["NRestarts"]) == 1
    assert next_id(machine) > before


def drop_in(machine, text):
    machine.run("mkdir", "-p", "/etc/systemd/system/ordinald.service.d")
    machine.put("/etc/systemd/system/ordinald.service.d/test.conf", text)
    machine.run("systemctl", "daemon-reload")


def restarted_by_watchdog(machine, pid):
    machine.wait(lambda: main_pid(machine) not in (0, pid) and is_running(machine), "the watchdog")


def test_stopped_in_its_tracks_the_watchdog_restarts_it(machine):
    drop_in(machine, "[Service]\nWatchdogSec=3\n")
    machine.run("systemctl", "restart", "ordinald")
    before, pid, here = next_id(machine), main_pid(machine), mark(machine)
    machine.run("kill", "-STOP", pid)
    restarted_by_watchdog(machine, pid)
    assert "Watchdog timeout" in said_since(machine, here)
    assert next_id(machine) > before


STOP_A_THREAD = r"""
import ctypes, os, signal, sys, time
tid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT = 0x4206, 0x4207
assert libc.ptrace(SEIZE, tid, None, None) == 0, os.strerror(ctypes.get_errno())
assert libc.ptrace(INTERRUPT, tid, None, None) == 0, os.strerror(ctypes.get_errno())
print("stopped", flush=True)
sys.stdin.read()
"""


def test_one_shard_stopped_the_watchdog_restarts_it(machine):
    """The main thread lives, and does not vouch for a shard that makes no progress."""
    before, pid, here = next_id(machine), main_pid(machine), mark(machine)
    out = machine.run("sh", "-c", f"cd /proc/{pid}/task; grep -l shard/0 */comm").stdout
    tid = out.split("/")[0]
    tracer = subprocess.Popen(machine.command("python3", "-c", STOP_A_THREAD, tid), stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert tracer.stdout.readline() == "stopped\n"
        machine.wait(lambda: "Watchdog timeout" in said_since(machine, here), "the watchdog")
    finally:
        tracer.communicate("", timeout=60)
    restarted_by_watchdog(machine, pid)
    assert next_id(machine) > before
    machine.run("rm", "-r", "/etc/systemd/system/ordinald.service.d")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", "ordinald")


CALLERS = r"""
import socket, struct, sys, threading
HEADER = struct.Struct("<BBHIII")
ids, refused, unanswered, ended = [], 0, 0, False
def get(s):
    head = b""
    while len(head) < HEADER.size:
        p = s.recv(HEADER.size - len(head))
        if not p:
            return None, b""
        head += p
    _, kind, _, length, call, _ = HEADER.unpack(head)
    body = b""
    while len(body) < length:
        p = s.recv(length - len(body))
        if not p:
            return None, b""
        body += p
    return kind & 15, body
def one():
    global refused, unanswered
    while not ended:
        try:
            with socket.create_connection(("127.0.0.1", 50051), timeout=60) as s:
                s.sendall(HEADER.pack(0x81, 1 | 0x10, 1, 0, 1, 0))
                kind, body = get(s)
                while kind == 7:
                    kind, body = get(s)
        except ConnectionRefusedError:
            refused += 1
            continue
        except OSError:
            kind = None
        if kind == 2 and body[0] == 8:
            v = shift = 0
            for b in body[1:]:
                v |= (b & 127) << shift
                shift += 7
                if b < 128:
                    break
            ids.append(v)
        else:
            unanswered += 1
threads = [threading.Thread(target=one) for _ in range(3)]
for t in threads:
    t.start()
sys.stdin.read()
ended = True
for t in threads:
    t.join()
print(len(ids), len(ids) - len(set(ids)), refused, unanswered)
"""


def test_restarts_under_a_stream_of_connections_refuse_nobody(machine):
    times = 200 if os.environ.get("ORDINAL_HEAVY") == "1" else 10
    drop_in(machine, "[Service]\nRestartSec=1\n")
    callers = subprocess.Popen(machine.command("python3", "-c", CALLERS), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(times):
        machine.run("systemctl", "restart", "ordinald")
    out, _ = callers.communicate("", timeout=120)
    calls, repeated, refused, unanswered = map(int, out.split())
    print(f"{times} restarts: {calls} connections and calls, {refused} refused, {unanswered} unanswered, {repeated} IDs repeated")
    assert calls > 10 * times and (refused, unanswered, repeated) == (0, 0, 0)
    assert int(show(machine, "NFileDescriptorStore")["NFileDescriptorStore"]) >= 1
    machine.run("rm", "-r", "/etc/systemd/system/ordinald.service.d")
    machine.run("systemctl", "daemon-reload")


def test_socket_activation(machine):
    machine.run("systemctl", "stop", "ordinald")
    machine.run("systemctl", "start", "ordinald.socket")
    assert show(machine, "ActiveState")["ActiveState"] == "inactive"
    assert next_id(machine) > 2
    machine.wait(lambda: is_running(machine), "systemd to have read that it is ready, which may be after its first answer")
    machine.run("systemctl", "stop", "ordinald.socket", "ordinald")
    machine.run("systemctl", "start", "ordinald")


def test_a_configuration_that_is_wrong_at_start_stays_stopped_and_says_why(machine):
    machine.run("systemctl", "stop", "ordinald")
    here = mark(machine)
    set_options(machine, QUEUE_DEPTH=1000)
    assert machine.run("systemctl", "start", "ordinald", check=False).returncode != 0
    state = show(machine, "ActiveState", "NRestarts", "ExecMainStatus")
    assert state["ActiveState"] == "failed" and state["ExecMainStatus"] == "2"
    assert "power of two" in said_since(machine, here)
    set_options(machine)
    machine.run("systemctl", "reset-failed", "ordinald")
    machine.run("systemctl", "start", "ordinald")


MOUNT = "[Mount]\nWhat=/var/disk\nWhere=/srv/ordinal\nType=none\nOptions=bind\n"
ON_DISK = "[Unit]\n{}\n[Service]\nRestartSec=1\nReadWritePaths=/srv/ordinal\n"


def refused_to_start(machine, words):
    here = mark(machine)
    machine.run("systemctl", "start", "ordinald", check=False)
    machine.wait(lambda: words in said_since(machine, here), f'"{words}"')
    machine.run("systemctl", "stop", "ordinald")
    machine.run("systemctl", "reset-failed", "ordinald", check=False)


def test_a_disk_that_is_not_mounted_is_no_first_start(machine):
    """DATA_DIR on a disk of its own. Whether the unit names the mount or not: without the disk, nobody gets an ID a second time."""
    before = next_id(machine)
    machine.run("systemctl", "stop", "ordinald")
    machine.run("sh", "-c", "mkdir -p /var/disk /srv/ordinal && chown ordinal: /var/disk /srv/ordinal")
    machine.put("/etc/systemd/system/srv-ordinal.mount", MOUNT)
    drop_in(machine, ON_DISK.format("RequiresMountsFor=/srv/ordinal"))
    set_options(machine, DATA_DIR='"/srv/ordinal/data"')
    # The data has not been moved there yet.
    refused_to_start(machine, "is its disk mounted")
    machine.run("sh", "-c", "rm -rf /var/disk/data && cp -a /var/lib/ordinal /var/disk/data")
    machine.run("systemctl", "start", "ordinald")
    moved = next_id(machine)
    assert moved == before + 1
    # The disk goes, and cannot be mounted again: the unit's dependency holds it back.
    machine.run("systemctl", "stop", "ordinald")
    machine.run("umount", "-l", "/srv/ordinal")
    machine.run("mv", "/etc/systemd/system/srv-ordinal.mount", "/root")
    machine.put("/etc/systemd/system/srv-ordinal.mount", MOUNT.replace("/var/disk", "/dev/disk/by-label/none").replace("bind", "ro"))
    machine.run("systemctl", "daemon-reload")
    done = machine.run("systemctl", "start", "ordinald", check=False)
    assert done.returncode != 0 and "dependency" in done.stderr.lower(), done.stderr
    assert show(machine, "ActiveState")["ActiveState"] == "inactive"
    # A unit that does not name the mount: the daemon itself refuses.
    drop_in(machine, ON_DISK.format(""))
    refused_to_start(machine, "holds no journal")
    # The disk is back.
    machine.run("mv", "/root/srv-ordinal.mount", "/etc/systemd/system/srv-ordinal.mount")
    drop_in(machine, ON_DISK.format("RequiresMountsFor=/srv/ordinal"))
    machine.run("systemctl", "start", "ordinald")
    assert next_id(machine) == moved + 1
    # Back to where it was, with the data.
    machine.run("systemctl", "stop", "ordinald")
    machine.run("sh", "-c", "find /var/lib/ordinal -mindepth 1 -delete && cp -a /srv/ordinal/data/. /var/lib/ordinal/")
    machine.run("umount", "/srv/ordinal")
    machine.run("rm", "-r", "/etc/systemd/system/ordinald.service.d", "/etc/systemd/system/srv-ordinal.mount")
    machine.run("systemctl", "daemon-reload")
    set_options(machine)
    machine.run("systemctl", "start", "ordinald")
    assert next_id(machine) == moved + 2


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """The same package under a newer version."""
    where = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", debs()[-1], where / "tree"], check=True)
    control = where / "tree/DEBIAN/control"
    control.write_text(re.sub(r"^Version: (.*)$", r"Version: \1+test", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", where / "tree", where / "newer.deb"], check=True, capture_output=True)
    return where / "newer.deb"


def test_upgrade_keeps_data_and_configuration(machine, newer):
    before, pid = next_id(machine), main_pid(machine)
    set_options(machine, IDLE_TIMEOUT_MS=4321)
    machine.put_file(newer, "/root/newer.deb")
    machine.run("dpkg", "--force-confold", "-i", "/root/newer.deb")
    assert main_pid(machine) not in (0, pid) and is_running(machine)
    assert next_id(machine) == before + 1, "a clean stop leaves no gap"
    assert "4321" in machine.run("cat", CONF).stdout


def test_remove_keeps_data_and_configuration(machine):
    machine.run("dpkg", "--remove", "ordinal")
    assert not is_running(machine)
    assert machine.run("test", "-e", "/usr/sbin/ordinald", check=False).returncode != 0
    machine.run("test", "-d", "/var/lib/ordinal")
    machine.run("test", "-e", CONF)
    machine.run("dpkg", "--force-confold", "-i", "/root/newer.deb")
    assert is_running(machine) and next_id(machine) > 2


def test_purge_leaves_nothing(machine):
    machine.run("dpkg", "--purge", "ordinal")
    left = machine.run("sh", "-c", "ls -d /var/lib/ordinal* /etc/ordinal /var/log/ordinal /run/ordinal /etc/systemd/system/*/ordinald* 2>/dev/null",
                       check=False).stdout
    assert left == ""
    assert machine.run("systemctl", "is-active", "ordinald", check=False).stdout.strip() in ("inactive", "failed", "unknown")
