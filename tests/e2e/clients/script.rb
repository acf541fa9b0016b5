# The script of README.md with the gem grpc.
require "grpc"
require "json"

STUB = GRPC::ClientStub.new(ARGV[0], :this_channel_is_insecure, channel_args: { "grpc.max_send_message_length" => -1 })
RAW = proc { |bytes| bytes }

def field(number, text)
  [number * 8 + 2, text.bytesize].pack("CC") + text.b
end

def code
  yield
  0
rescue GRPC::BadStatus => e
  e.code
end

def unary(path, body, seconds = 60)
  STUB.request_response(path, body, RAW, RAW, deadline: Time.now + seconds)
end

out = { late: Hash.new(0) }
arrived = Queue.new
quiet = STUB.server_streamer("/ordinal.v1.Feed/Subscribe", field(1, "quiet"), RAW, RAW, return_op: true)
Thread.new do
  quiet.execute.each { |frame| arrived << "payload" if frame.include?("payload") }
rescue GRPC::BadStatus => e
  arrived << e.message
end
out[:calls] = 400.times.count { code { unary("/ordinal.v1.Ids/Next", field(1, "a")) } == 0 }
4.times do
  threads = 50.times.map do
    Thread.new { code { unary("/ordinal.v1.Ids/Next", field(1, "slow") + "\x10\xa0\x1f".b, 0.2) } }
  end
  threads.each { |t| out[:late][t.value] += 1 }
end
replies = 0
status = code { STUB.bidi_streamer("/ordinal.v1.Ids/Take", [field(1, "a")] * 3, RAW, RAW).each { replies += 1 } }
out[:take] = { replies: replies, code: status }
out[:unknown] = code { unary("/ordinal.v1.Ids/Nothing", "") }
out[:large] = code { unary("/ordinal.v1.Ids/Next", "\x7a\x80\x80\xc0\x02".b + "\0" * (5 << 20)) }
unary("/ordinal.v1.Feed/Publish", field(1, "quiet") + field(3, "payload"))
out[:frames] = [arrived.pop]
quiet.cancel
puts JSON.generate(out)
$stdout.flush
exit!(0)
