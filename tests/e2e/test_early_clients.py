"""Answers that are complete before their request is reach stock clients that are still sending, directly and through proxies; each is skipped where
it is not installed. By frames: test_early_answers.py."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

import appliance
import native
import pytest
from h2raw import message

ROUNDS = 40 if os.environ.get("ORDINAL_HEAVY") == "1" else 12
NOWHERE = "/no.such.v1.Service/Method"
# What is refused, and with which status: before the body is looked at, and in its middle.
REFUSALS = {"unknown method": (NOWHERE, native.UNIMPLEMENTED), "a message of 5 MB": ("/ordinal.v1.Feed/Publish", native.RESOURCE_EXHAUSTED)}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A gRPC message of 5 MB in a file."""
    path = tmp_path_factory.mktemp("large") / "body"
    path.write_bytes(message(b"x" * 5_000_000))
    return path


def program(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def curl(port, path, body):
    """(exit code, grpc-status or None, what it said)"""
    done = subprocess.run([program("curl"), "-sS", "--http2-prior-knowledge", "-o", "/dev/null", "-D", "-", "--max-time", "60", "-X", "POST",
                           "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "expect:", "--data-binary", f"@{body}",
                           f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=False)
    status = [line.split(":")[1].strip() for line in done.stdout.lower().splitlines() if line.startswith("grpc-status:")]
    return done.returncode, int(status[0]) if status else None, done.stdout + done.stderr


def all_arrive(port, what, body):
    path, status = REFUSALS[what]
    got = [curl(port, path, body) for _ in range(ROUNDS)]
    wrong = [g for g in got if g[:2] != (0, status)]
    assert not wrong, f"{len(wrong)} of {ROUNDS} did not see the status: {wrong[0]}"


@pytest.mark.parametrize("what", REFUSALS)
def test_curl_sees_the_status(server, large, what):
    all_arrive(server.port, what, large)


class Proxy:
    """A process that listens on a port of its own until it is closed."""

    def __init__(self, port, argv):
        self.port = port
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        appliance.wait_until(self.listens, f"{argv[0]} to listen")

    def listens(self):
        assert self.process.poll() is None, "the proxy has ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def nginx(d, directory):
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(f"""
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{ worker_connections 128; }}
http {{
    access_log off; client_max_body_size 64m; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    upstream ordinal {{ server 127.0.0.1:{d.port}; keepalive 8; }}
    server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://ordinal; }} }}
}}
""")
    return Proxy(port, [program("nginx"), "-c", str(conf), "-e", str(directory / "nginx.log")])


def haproxy(d, directory):
    port = free_port()
    conf = directory / "haproxy.cfg"
    conf.write_text(f"""
global
    maxconn 100
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 10s
frontend f
    bind 127.0.0.1:{port} proto h2
    default_backend b
backend b
    server s 127.0.0.1:{d.port} proto h2
""")
    return Proxy(port, [program("haproxy"), "-db", "-f", str(conf)])


@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_curl_sees_the_status_through_a_proxy(server, large, tmp_path, proxy, what):
    with proxy(server, tmp_path) as p:
        all_arrive(p.port, what, large)


@pytest.mark.parametrize("through", [None, nginx, haproxy])
def test_a_stock_grpc_client_sees_the_status(server, connect, tmp_path, through):
    """Messages above the limit, and a method that there is not, with a large body."""
    import grpc
    with through(server, tmp_path) if through else contextlib.nullcontext(server) as at:
        channel = connect(server, address=f"127.0.0.1:{at.port}", options=[("grpc.max_send_message_length", -1)]).channel
        for path, status in REFUSALS.values():
            call = channel.unary_unary(path)
            for _ in range(ROUNDS):
                with pytest.raises(grpc.RpcError) as e:
                    call(b"x" * 5_000_000, timeout=60)
                assert e.value.code().value[0] == status, e.value
        channel.close()


def test_a_native_client_reads_the_refusal_while_it_sends(server):
    """The connection ends after it; but not before the client has sent what it was about to, for as long as that moves."""
    with native.Client(server) as c:
        c.send(native.frame(native.REQUEST, 1, flags=native.LAST, code=3, length=50_000_000))
        try:
            for _ in range(25):
                c.send(bytes(100_000))
                time.sleep(0.1)
        except OSError as e:
            raise AssertionError("the connection was reset while its client was sending") from e
        f = c.get()
        assert (f.kind, f.code) == (native.END, native.RESOURCE_EXHAUSTED) and c.is_closed()
