"""A Debian 12 tree booted with systemd-nspawn: a machine of its own, with its own network, that is thrown away at the end."""

import os
import subprocess
import time

NSENTER = ["-m", "-u", "-i", "-n", "-p", "-C"]


class Container:
    def __init__(self, tree, directory):
        self.name = f"ordinal-{os.getpid()}"
        self.console = directory / "console"
        env = dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1")
        with open(self.console, "wb") as log:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--boot", "--keep-unit", "--register=no", f"--directory={tree}", "--volatile=overlay",
                 f"--machine={self.name}", "--private-network", "--console=pipe"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        self.init = None
        self.wait(self.find_init, "the container's init")
        self.wait(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), "the boot")

    def find_init(self):
        assert self.nspawn.poll() is None, f"systemd-nspawn ended:\n{self.console.read_text(errors='replace')}"
        path = f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children"
        for child in open(path, encoding="ascii").read().split():
            try:
                if os.path.basename(os.readlink(f"/proc/{child}/exe")) == "systemd":
                    self.init = child
            except OSError:
                pass
        return self.init

    def wait(self, condition, what, patience_s=60):
        until = time.monotonic() + patience_s
        while not (value := condition()):
            assert time.monotonic() < until, f"waited {patience_s} s for {what}\n{self.journal()}"
            time.sleep(0.1)
        return value

    def journal(self):
        return self.run("journalctl", "--no-pager", "-n", "100", check=False).stdout if self.init else self.console.read_text(errors="replace")

    def command(self, *args):
        return ["nsenter", "-t", self.init, *NSENTER, "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive", *map(str, args)]

    def run(self, *args, check=True, stdin=None, timeout_s=120):
        done = subprocess.run(self.command(*args), capture_output=True, text=True, check=False, timeout=timeout_s,
                              **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}))
        if check:
            assert done.returncode == 0, f"{' '.join(map(str, args))}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.journal()}"
        return done

    def put(self, path, content, mode=0o644):
        self.run("sh", "-c", f"cat > {path} && chmod {mode:o} {path}", stdin=content)

    def put_file(self, source, path):
        with open(source, "rb") as f:
            subprocess.run(self.command("sh", "-c", f"cat > {path}"), stdin=f, check=True)

    def close(self):
        self.nspawn.terminate()  # asks the container to power off
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()
            self.nspawn.wait()
