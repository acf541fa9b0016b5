"""Server reflection: a client that has no .proto file lists the services and calls one."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import MessageFactory

VERSIONS = ("v1", "v1alpha")


@pytest.fixture(scope="session")
def messages(tmp_path_factory):
    """The request and response classes of each version, from the daemon's own .proto files."""
    import os
    import subprocess
    import sys

    import appliance
    out = tmp_path_factory.mktemp("reflection") / "set.pb"
    protos = os.path.join(appliance.ROOT, "rpc", "proto")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"--descriptor_set_out={out}",
                    *(f"grpc/reflection/{v}/reflection.proto" for v in VERSIONS)], check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    factory = MessageFactory(pool)
    return {v: tuple(factory.GetPrototype(pool.FindMessageTypeByName(f"grpc.reflection.{v}.ServerReflection{kind}"))
                     for kind in ("Request", "Response")) for v in VERSIONS}


def ask(channel, messages, version, *requests):
    Request, Response = messages[version]
    method = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                   request_serializer=Request.SerializeToString, response_deserializer=Response.FromString)
    return list(method(iter([Request(**r) for r in requests]), timeout=60))


@pytest.mark.parametrize("version", VERSIONS)
def test_services_are_listed(server, connect, messages, version):
    reply, = ask(connect(server).channel, messages, version, {"list_services": ""})
    names = {s.name for s in reply.list_services_response.service}
    assert {"ordinal.v1.Ids", "ordinal.v1.Feed", "ordinal.v1.Stats", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection"} <= names


@pytest.mark.parametrize("version", VERSIONS)
def test_a_generic_client_calls_next_without_the_proto(server, connect, messages, version):
    channel = connect(server).channel
    pool = descriptor_pool.DescriptorPool()
    reply, = ask(channel, messages, version, {"file_containing_symbol": "ordinal.v1.Ids"})
    for data in reply.file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(data)
    method = pool.FindServiceByName("ordinal.v1.Ids").FindMethodByName("Next")
    factory = MessageFactory(pool)
    Request, Reply = factory.GetPrototype(method.input_type), factory.GetPrototype(method.output_type)
    call = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}", request_serializer=Request.SerializeToString,
                               response_deserializer=Reply.FromString)
    assert call(Request(sequence="generic", count=4)).first == 1
    assert call(Request(sequence="generic")).first == 5


def test_every_listed_service_and_method_is_described(server, connect, messages):
    channel = connect(server).channel
    listed, = ask(channel, messages, "v1", {"list_services": ""})
    for service in listed.list_services_response.service:
        reply, = ask(channel, messages, "v1", {"file_containing_symbol": service.name})
        file = descriptor_pb2.FileDescriptorProto.FromString(reply.file_descriptor_response.file_descriptor_proto[0])
        mine, = (s for s in file.service if service.name == f"{file.package}.{s.name}")
        for method in mine.method:
            again, by_name = ask(channel, messages, "v1", {"file_containing_symbol": f"{service.name}.{method.name}"},
                                 {"file_by_filename": file.name})
            assert again.file_descriptor_response == reply.file_descriptor_response == by_name.file_descriptor_response


def test_what_is_not_there(server, connect, messages):
    replies = ask(connect(server).channel, messages, "v1", {"file_by_filename": "nothing.proto"}, {"file_containing_symbol": "no.Such"},
                  {"file_containing_extension": {"containing_type": "ordinal.v1.Frame", "extension_number": 7}},
                  {"all_extension_numbers_of_type": "no.Such"}, {"all_extension_numbers_of_type": "ordinal.v1.Frame"}, {})
    codes = [r.error_response.error_code for r in replies]
    assert codes == [grpc.StatusCode.NOT_FOUND.value[0]] * 4 + [0, grpc.StatusCode.INVALID_ARGUMENT.value[0]]
    assert replies[4].all_extension_numbers_response.base_type_name == "ordinal.v1.Frame"


def test_a_client_that_does_not_read_is_not_read_from(server, connect, messages):
    Request, Response = messages["v1"]
    channel = connect(server).channel
    method = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                   request_serializer=Request.SerializeToString, response_deserializer=Response.FromString)
    replies = method(iter([Request(file_containing_symbol="ordinal.v1.Ids")] * 20000))
    assert sum(r.HasField("file_descriptor_response") for r in replies) == 20000


def test_a_service_that_is_not_served_is_not_told_of(daemon, connect, messages):
    """The benchmark's service was described on every daemon."""
    asked = [{"file_containing_symbol": s} for s in ("ordinal.bench.v1.Bench", "ordinal.bench.v1.Bench.Echo", "ordinal.bench.v1.Blob")]
    asked += [{"file_by_filename": "ordinal/bench/v1/bench.proto"}, {"list_services": ""}]
    for served in (False, True):
        d = daemon(BENCH_SERVICE="y" if served else "n")
        *described, listed = ask(connect(d).channel, messages, "v1", *asked)
        for reply in described:
            assert (reply.error_response.error_code == 0) == served, reply
        assert ("ordinal.bench.v1.Bench" in {s.name for s in listed.list_services_response.service}) == served
