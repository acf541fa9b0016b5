"""grpc.health.v1.Health, as load balancers and supervisors use it."""

import threading

import grpc
import pytest


def test_check_knows_the_server_and_its_services(server, connect, stubs):
    health = stubs.health_rpc.HealthStub(connect(server).channel)
    for service in ("", "ordinal.v1.Ids", "grpc.health.v1.Health"):
        assert health.Check(stubs.health.HealthCheckRequest(service=service)).status == stubs.health.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as e:
        health.Check(stubs.health.HealthCheckRequest(service="nobody.v1.Nothing"))
    assert e.value.code() == grpc.StatusCode.NOT_FOUND and "nobody.v1.Nothing" in e.value.details()


def test_list_names_every_service_once(server, connect, stubs):
    health = stubs.health_rpc.HealthStub(connect(server).channel)
    statuses = health.List(stubs.health.HealthListRequest()).statuses
    assert {"", "ordinal.v1.Ids", "ordinal.v1.Feed", "grpc.health.v1.Health"} <= set(statuses)
    assert {s.status for s in statuses.values()} == {stubs.health.HealthCheckResponse.SERVING}


def test_a_name_that_is_not_utf8_is_refused(server, connect):
    call = connect(server).channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.RpcError) as e:
        call(b"\x0a\x01\xff")
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_watch_sees_the_drain(server, connect, stubs):
    Response = stubs.health.HealthCheckResponse
    health = stubs.health_rpc.HealthStub(connect(server).channel)
    watches = {name: health.Watch(stubs.health.HealthCheckRequest(service=name)) for name in ("", "ordinal.v1.Ids", "unknown")}
    first = {name: next(watch).status for name, watch in watches.items()}
    assert first == {"": Response.SERVING, "ordinal.v1.Ids": Response.SERVING, "unknown": Response.SERVICE_UNKNOWN}
    rest = {}
    threads = [threading.Thread(target=lambda n=n, w=w: rest.update({n: [r.status for r in w]})) for n, w in watches.items()]
    for t in threads:
        t.start()
    server.stop()
    for t in threads:
        t.join(60)
    assert rest == {"": [Response.NOT_SERVING], "ordinal.v1.Ids": [Response.NOT_SERVING], "unknown": []}
    assert all(w.code() == grpc.StatusCode.OK for w in watches.values())


def test_a_watcher_that_leaves_is_forgotten(server, connect, stubs):
    health = stubs.health_rpc.HealthStub(connect(server).channel)
    for _ in range(200):
        watch = health.Watch(stubs.health.HealthCheckRequest())
        next(watch)
        watch.cancel()
    assert health.Check(stubs.health.HealthCheckRequest()).status == stubs.health.HealthCheckResponse.SERVING
