"""`ordinal` over TLS: each command that calls a server, over both protocols; mutual TLS; and what a wrong certificate is told."""

import pytest
from appliance import load, load_begin, load_end, tool, wait_until
from test_tls import Authority, openssl


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ca", "test authority")


@pytest.fixture
def secure(daemon, authority):
    cert, key = authority.issue("server")
    return daemon(SHARDS=2, TLS_CERT=cert, TLS_KEY=key)


@pytest.fixture(params=["native", "grpc"])
def protocol(request):
    return request.param


def refused(*args):
    """What a command says that cannot reach its server."""
    done = tool(*args, check=False)
    assert done.returncode == 3 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    return done.stderr


def next_at(d, authority, protocol, *args, ca=None):
    return ("next", "--server", d.address, "--protocol", protocol, "--tls-ca", ca or authority.cert, *args)


def test_next_publish_and_subscribe(secure, authority, protocol):
    common = ("--server", secure.address, "--protocol", protocol, "--tls", "--tls-ca", authority.cert)
    assert tool("next", "--count", 3, *common).stdout == "1\n2\n3\n"
    big = "x" * 100_000
    assert tool("publish", "--stream", "s", *common, "hello", big).stdout == "1 fsync\n2 fsync\n"
    assert tool("subscribe", "--stream", "s", "--until-caught-up", *common).stdout == f"hello\n{big}\n"


def test_load(secure, authority, protocol):
    common = ("--protocol", protocol, "--tls-ca", authority.cert)
    for method in ("next", "take", "publish", "publish-many"):
        report = load(secure, "--method", method, "--requests", 2000, *common)
        assert report["tls"] and report["protocol"] == protocol and report["calls"] == 2000
    report = load(secure, "--method", "fanout", "--requests", 2000, "--subscribers", 3, "--size", 5000, "--verify", "all", *common)
    assert report["tls"] and report["check"]["fewest"] == 2000
    report = load(secure, "--method", "subscribe", "--verify", "all", *common)
    assert report["check"]["received"] == 2000 + 2000 + 2000


def test_the_report_says_that_it_was_tls(secure, authority, protocol):
    done = tool("load", "--server", secure.address, "--protocol", protocol, "--tls-ca", authority.cert, "--requests", 10)
    assert f"next over {protocol} over TLS, " in done.stdout


def test_a_server_of_another_authority_is_refused(secure, authority, protocol, tmp_path):
    other = Authority(tmp_path / "other", "another authority")
    why = "the server's certificate was refused: unable to get local issuer certificate"
    assert why in refused(*next_at(secure, authority, protocol, ca=other.cert))
    assert why in refused(*next_at(secure, authority, protocol)[:-2], "--tls")  # whom the system trusts
    for command in (("publish", "--stream", "s", "x"), ("subscribe", "--stream", "s", "--until-caught-up"), ("load", "--requests", 1),
                    ("load", "--method", "fanout", "--requests", 1)):
        assert why in refused(*command, "--server", secure.address, "--protocol", protocol, "--tls-ca", other.cert)


def test_an_expired_server_is_refused(daemon, authority, protocol):
    cert, key = authority.issue("late", expired=True)
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    assert "the server's certificate was refused: certificate has expired" in refused(*next_at(d, authority, protocol))


def test_the_name_is_checked(secure, authority, protocol):
    by_name = next_at(secure, authority, protocol, "--tls-name", "localhost")
    assert tool(*by_name).stdout == "1\n"
    for wrong in ("elsewhere.example", "127.0.0.2", "ocalhost"):
        assert f"the server's certificate is not for {wrong}" in refused(*by_name[:-1], wrong)


def test_mutual_tls(daemon, authority, protocol, tmp_path):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert)
    alice = authority.issue("alice")
    assert tool(*next_at(d, authority, protocol, "--tls-cert", alice[0], "--tls-key", alice[1])).stdout == "1\n"
    assert "the server asks for a client's certificate" in refused(*next_at(d, authority, protocol))
    other = Authority(tmp_path / "other", "another authority")
    for who in (other.issue("mallory"), authority.issue("late", expired=True)):
        said = refused(*next_at(d, authority, protocol, "--tls-cert", who[0], "--tls-key", who[1]))
        assert "the server refused the client's certificate" in said
    report = load(d, "--requests", 1000, "--protocol", protocol, "--tls-ca", authority.cert, "--tls-cert", alice[0], "--tls-key", alice[1])
    assert report["calls"] == 1000


def test_tls_and_cleartext_that_meet_are_told_so(secure, server, authority, protocol):
    assert "it may not speak TLS" in refused(*next_at(server, authority, protocol))
    assert "it may want TLS" in refused("next", "--server", secure.address, "--protocol", protocol)


def test_wrong_files_and_halves_are_wrong_usage(secure, authority, tmp_path):
    cert, key = authority.issue("somebody")
    _, other_key = authority.issue("else")
    (tmp_path / "junk").write_text("no certificate\n")
    for args, said in ((("--tls-ca", tmp_path / "none"), f"CA file {tmp_path / 'none'}: No such file or directory"),
                       (("--tls-ca", tmp_path / "junk"), f"CA file {tmp_path / 'junk'}: "),
                       (("--tls-cert", cert), "--tls-cert and --tls-key go together"),
                       (("--tls-key", key), "--tls-cert and --tls-key go together"),
                       (("--tls-name", ""), "--tls-name takes a host name"), (("--tls-name", "x" * 254), "--tls-name takes a host name"),
                       (("--tls-cert", tmp_path / "junk", "--tls-key", key), f"certificate {tmp_path / 'junk'}: "),
                       (("--tls-cert", cert, "--tls-key", other_key), f"is not the key of {cert}")):
        for command in (("next",), ("load", "--requests", 1), ("publish", "--stream", "s", "x"), ("subscribe", "--stream", "s")):
            done = tool(*command, "--server", secure.address, *args, check=False)
            assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_drain_loses_no_call_over_tls(daemon, authority, protocol):
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key)
    run = load_begin(d, "--duration", 60, "--protocol", protocol, "--tls-ca", authority.cert)
    first = int(tool(*next_at(d, authority, protocol)).stdout)
    wait_until(lambda: int(tool(*next_at(d, authority, protocol)).stdout) > first + 1000, "the load to run")
    d.stop()
    code, report = load_end(run)
    assert code == 0 and report["errors"] == 0 and report["connections_lost"] == 0 and report["check"]["ok"], report


def middle_of(authority, tmp_path):
    """An authority that `authority` has signed."""
    middle = Authority(tmp_path / "middle", "middle authority")
    request, ext = tmp_path / "middle.csr", tmp_path / "middle.ext"
    ext.write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
    openssl("req", "-new", "-key", middle.key, "-out", request, "-subj", "/CN=middle authority")
    openssl("x509", "-req", "-in", request, "-CA", authority.cert, "-CAkey", authority.key, "-CAcreateserial", "-out", middle.cert,
            "-days", "2", "-extfile", ext)
    return middle


def test_a_certificate_chain_is_sent(daemon, authority, protocol, tmp_path):
    """The client's certificate file may hold the authorities between it and the one that the server trusts."""
    middle = middle_of(authority, tmp_path)
    leaf = middle.issue("carol")
    chain = tmp_path / "chain.pem"
    chain.write_text(leaf[0].read_text() + middle.cert.read_text())
    cert, key = authority.issue("server")
    d = daemon(SHARDS=1, TLS_CERT=cert, TLS_KEY=key, TLS_CLIENT_CA=authority.cert)
    assert tool(*next_at(d, authority, protocol, "--tls-cert", chain, "--tls-key", leaf[1])).stdout == "1\n"
    assert "refused the client's certificate" in refused(*next_at(d, authority, protocol, "--tls-cert", leaf[0], "--tls-key", leaf[1]))
