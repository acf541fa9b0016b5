// The script of README.md with gRPC C++: generic stubs over byte buffers.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

using grpc::ByteBuffer;
using grpc::ClientContext;
using grpc::CompletionQueue;
using grpc::Slice;
using grpc::Status;

static std::string field(int number, const std::string &text)
{
	return std::string{char(number * 8 + 2), char(text.size())} + text;
}

static ByteBuffer buffer(const std::string &bytes)
{
	Slice slice(bytes);
	return ByteBuffer(&slice, 1);
}

static std::string text(const ByteBuffer &b)
{
	std::vector<Slice> slices;
	std::string out;
	if (!b.Valid() || !b.Dump(&slices).ok())
		return out;
	for (auto &s : slices)
		out.append(reinterpret_cast<const char *>(s.begin()), s.size());
	return out;
}

struct Call {
	ClientContext context;
	Status status;
	ByteBuffer reply;
	std::unique_ptr<grpc::ClientAsyncResponseReader<ByteBuffer>> reader;
};

struct Script {
	std::shared_ptr<grpc::Channel> channel;
	grpc::GenericStub stub;

	explicit Script(std::shared_ptr<grpc::Channel> c) : channel(c), stub(c) {}

	std::vector<int> unary(const std::string &path, const std::string &body, int ms, int times)
	{
		CompletionQueue queue;
		std::vector<std::unique_ptr<Call>> calls;
		std::vector<int> codes;
		void *tag;
		bool ok;
		for (int i = 0; i < times; i++) {
			calls.push_back(std::make_unique<Call>());
			Call &c = *calls.back();
			c.context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(ms));
			c.reader = stub.PrepareUnaryCall(&c.context, path, buffer(body), &queue);
			c.reader->StartCall();
			c.reader->Finish(&c.reply, &c.status, &c);
		}
		for (int i = 0; i < times; i++) {
			queue.Next(&tag, &ok);
			codes.push_back(static_cast<Call *>(tag)->status.error_code());
		}
		return codes;
	}
	int once(const std::string &path, const std::string &body) { return unary(path, body, 60000, 1)[0]; }
};

/* One streaming call, an operation at a time. */
struct Stream {
	ClientContext context;
	CompletionQueue queue;
	std::unique_ptr<grpc::GenericClientAsyncReaderWriter> rw;

	Stream(Script &s, const std::string &path)
	{
		rw = s.stub.PrepareCall(&context, path, &queue);
		rw->StartCall(this);
		done();
	}
	bool done()
	{
		void *tag;
		bool ok;
		return queue.Next(&tag, &ok) && ok;
	}
	void write(const std::string &body)
	{
		rw->Write(buffer(body), this);
		done();
	}
	void end()
	{
		rw->WritesDone(this);
		done();
	}
	bool read(std::string *ret)
	{
		ByteBuffer b;
		rw->Read(&b, this);
		bool ok = done();
		*ret = text(b);
		return ok;
	}
	Status finish()
	{
		Status status;
		rw->Finish(&status, this);
		done();
		return status;
	}
};

int main(int argc, char **argv)
{
	grpc::ChannelArguments arguments;
	arguments.SetMaxSendMessageSize(-1);
	Script s(grpc::CreateCustomChannel(argv[1], grpc::InsecureChannelCredentials(), arguments));
	const std::string next = "/ordinal.v1.Ids/Next";
	Stream quiet(s, "/ordinal.v1.Feed/Subscribe");
	quiet.write(field(1, "quiet"));
	quiet.end();
	int calls = 0, replies = 0;
	for (int i = 0; i < 400; i++)
		calls += s.once(next, field(1, "a")) == 0;
	std::map<int, int> late;
	for (int round = 0; round < 4; round++)
		for (int code : s.unary(next, field(1, "slow") + "\x10\xa0\x1f", 200, 50))
			late[code]++;
	Stream take(s, "/ordinal.v1.Ids/Take");
	for (int i = 0; i < 3; i++)
		take.write(field(1, "a"));
	take.end();
	std::string message;
	while (take.read(&message))
		replies++;
	int take_code = take.finish().error_code();
	int unknown = s.once("/ordinal.v1.Ids/Nothing", "");
	int large = s.once(next, std::string("\x7a\x80\x80\xc0\x02", 5) + std::string(5 << 20, '\0'));
	s.once("/ordinal.v1.Feed/Publish", field(1, "quiet") + field(3, "payload"));
	bool arrived = false, open = true;
	while (!arrived && (open = quiet.read(&message)))
		arrived = message.find("payload") != std::string::npos;
	std::string frame = "payload";
	if (open)
		quiet.context.TryCancel();
	else
		frame = "ended";
	quiet.finish();
	std::cout << "{\"calls\": " << calls << ", \"late\": {";
	const char *comma = "";
	for (auto &l : late) {
		std::cout << comma << "\"" << l.first << "\": " << l.second;
		comma = ", ";
	}
	std::cout << "}, \"take\": {\"replies\": " << replies << ", \"code\": " << take_code << "}, \"unknown\": " << unknown
		  << ", \"large\": " << large << ", \"frames\": [\"" << frame << "\"]}" << std::endl;
	return 0;
}
