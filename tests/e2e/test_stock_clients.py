"""Stock gRPC clients at their defaults, directly and through the proxies that people put in front: clients/README.md has the script that each plays.

What is not installed is skipped. The clients in C++ and Go are compiled, and grpc-js comes from npm, with ORDINAL_HEAVY=1 only; a folder with
node_modules of one's own is named by ORDINAL_NODE_MODULES.
"""

import json
import os
import shutil
import socket
import subprocess
import sys

import appliance
import pytest

CLIENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients")
HEAVY = os.environ.get("ORDINAL_HEAVY") == "1"
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 4, 8, 12
GO_SOURCES = "/usr/share/gocode"


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def need_heavy():
    if not HEAVY:
        pytest.skip("ORDINAL_HEAVY=1 runs it")


def script(name):
    return os.path.join(CLIENTS, f"script.{name}")


def grpc_js(tmp, version):
    folder = os.environ.get("ORDINAL_NODE_MODULES") if version == "latest" else None
    need("node", "npm")
    if not folder:
        need_heavy()
        folder = tmp / "node"
        folder.mkdir()
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, f"@grpc/grpc-js@{version}"], capture_output=True,
                              text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm does not reach its registry: {done.stderr[-300:]}")
        folder = folder / "node_modules"
    return ["env", f"NODE_PATH={folder}", "node", script("js")]


def cpp(tmp):
    need("g++", "pkg-config")
    need_heavy()
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False)
    if flags.returncode:
        pytest.skip("gRPC C++ (libgrpc++-dev) is not installed")
    subprocess.run(["g++", "-std=c++17", "-o", tmp / "script", script("cc"), *flags.stdout.split()], check=True, timeout=600)
    return [tmp / "script"]


def go(tmp):
    need("go")
    need_heavy()
    if not os.path.isdir(f"{GO_SOURCES}/src/google.golang.org/grpc"):
        pytest.skip("grpc-go (golang-google-grpc-dev) is not installed")
    subprocess.run(["go", "build", "-o", tmp / "script", script("go")], check=True, timeout=600,
                   env=dict(os.environ, GOPATH=GO_SOURCES, GO111MODULE="off", GOCACHE=str(tmp / "cache"), GOFLAGS=""))
    return [tmp / "script"]


def ruby(tmp):
    need("ruby")
    if subprocess.run(["ruby", "-e", 'require "grpc"'], capture_output=True, check=False).returncode:
        pytest.skip("gRPC for Ruby (ruby-grpc) is not installed")
    return ["ruby", script("rb")]


CLIENT = {
    "grpcio": lambda tmp: [sys.executable, script("py")],
    "grpc-js": lambda tmp: grpc_js(tmp, "latest"),
    "grpc-js 1.9.5": lambda tmp: grpc_js(tmp, "1.9.5"),
    "gRPC C++": cpp,
    "grpc-go": go,
    "gRPC Ruby": ruby,
}


def play(command, address):
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and done.stdout, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def check(report):
    late = {int(k): v for k, v in report["late"].items()}
    assert report["calls"] == 400, report
    assert set(late) <= {OK, DEADLINE_EXCEEDED} and sum(late.values()) == 200 and late[DEADLINE_EXCEEDED] > 100, report
    assert report["take"] == {"replies": 3, "code": OK}, report
    assert report["unknown"] == UNIMPLEMENTED and report["large"] == RESOURCE_EXHAUSTED, report
    assert report["frames"] == ["payload"], report


@pytest.fixture
def limited(daemon):
    """A rate that lets deadlines pass."""
    return daemon(SHARDS=2, PRODUCER_RATE=4000)


@pytest.mark.parametrize("client", list(CLIENT))
def test_a_stock_client(limited, tmp_path, client):
    """The connection lives through all of it: a client's own resets after its answers, and its deadlines, are no attack."""
    command = CLIENT[client](tmp_path)
    check(play(command, limited.address))
    assert limited.stats()["refusals"]["by_reason"]["flood"] == 0


# Proxies in front.

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Proxy:
    def __init__(self, command, port, log):
        self.address = f"127.0.0.1:{port}"
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

        def listens():
            assert self.process.poll() is None, f"{command}:\n{log.read_text()}"
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        appliance.wait_until(listens, f"{command[0]} to listen")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(appliance.PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()


def nginx(tmp, port, upstream):
    need("nginx")
    (tmp / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {tmp}/nginx.pid; error_log {tmp}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {tmp}/body; proxy_temp_path {tmp}/proxy; fastcgi_temp_path {tmp}/fastcgi;
  uwsgi_temp_path {tmp}/uwsgi; scgi_temp_path {tmp}/scgi;
  client_max_body_size 100m; http2_max_concurrent_streams 200;
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://{upstream}; grpc_read_timeout 300s; }} }}
}}
""")
    return ["nginx", "-p", tmp, "-c", tmp / "nginx.conf"]


def haproxy(tmp, port, upstream):
    need("haproxy")
    (tmp / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend f
  bind 127.0.0.1:{port} proto h2
  default_backend b
backend b
  server s {upstream} proto h2
""")
    return ["haproxy", "-db", "-f", tmp / "haproxy.cfg"]


def nghttpx(tmp, port, upstream):
    need("nghttpx")
    host, _, at = upstream.rpartition(":")
    return ["nghttpx", f"--frontend=127.0.0.1,{port};no-tls", f"--backend={host},{at};;proto=h2", "--workers=1", "--no-via", "--conf=/dev/null"]


PROXY = {"nginx": nginx, "haproxy": haproxy, "nghttpx": nghttpx}


@pytest.fixture(params=list(PROXY))
def proxy(request, limited, tmp_path):
    port = free_port()
    folder = tmp_path / request.param
    folder.mkdir()
    p = Proxy(PROXY[request.param](folder, port, limited.address), port, folder / "log")
    yield p
    p.stop()


def test_a_stock_client_through_a_proxy(limited, proxy):
    check(play([sys.executable, script("py")], proxy.address))


def test_a_refusal_before_the_request_has_ended_arrives_through_a_proxy(proxy):
    """Trailers, and then a reset at once: proxies passed on the reset, and up to 17 of 40 clients saw CANCELLED."""
    import grpc
    channel = grpc.insecure_channel(proxy.address, options=[("grpc.max_send_message_length", -1)])
    codes = {}
    for i in range(40):
        path = "/ordinal.v1.Ids/Next" if i % 2 else "/ordinal.v1.Ids/Nothing"
        with pytest.raises(grpc.RpcError) as e:
            channel.unary_unary(path)(b"\x7a\x80\x80\xc0\x02" + bytes(5 << 20), timeout=120)
        codes.setdefault(path, []).append(e.value.code())
    channel.close()
    assert codes == {"/ordinal.v1.Ids/Next": [grpc.StatusCode.RESOURCE_EXHAUSTED] * 20,
                     "/ordinal.v1.Ids/Nothing": [grpc.StatusCode.UNIMPLEMENTED] * 20}


# Programs.

def test_h2load_of_debian(limited, tmp_path):
    need("h2load")
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\0")
    done = subprocess.run(["h2load", "-n", "2000", "-c", "4", "-m", "20", "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers",
                           f"http://{limited.address}/ordinal.v1.Stats/Nothing"], capture_output=True, text=True, timeout=300, check=True)
    assert "2000 done, 2000 succeeded, 0 failed" in done.stdout, done.stdout


@pytest.mark.parametrize("megabytes", [0, 5])
def test_curl_sees_the_status_of_a_refusal(limited, tmp_path, megabytes):
    """curl ended with code 92, a reset, where the request had not ended when it was refused."""
    need("curl")
    body = tmp_path / "body"
    body.write_bytes(b"\0" + (megabytes << 20).to_bytes(4, "big") + bytes(megabytes << 20))
    for _ in range(10):
        done = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", "-D", "-", "-o", tmp_path / "out", "-H", "content-type: application/grpc",
                               "-H", "te: trailers", "--data-binary", f"@{body}", f"http://{limited.address}/ordinal.v1.Ids/Nothing"],
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and "grpc-status: 12" in done.stdout, (done.returncode, done.stdout, done.stderr)
