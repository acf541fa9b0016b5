// The script of README.md with @grpc/grpc-js, which is found by NODE_PATH.
"use strict";
const grpc = require("@grpc/grpc-js");
const raw = (b) => b;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  "grpc.max_send_message_length": -1,
});
const unary = (path, body, options = {}) =>
  new Promise((resolve) =>
    client.makeUnaryRequest(path, raw, raw, body, new grpc.Metadata(), options, (error, reply) =>
      resolve({ code: error ? error.code : 0, reply })
    )
  );
const field = (number, text) => Buffer.concat([Buffer.from([number * 8 + 2, text.length]), Buffer.from(text)]);
const NEXT = "/ordinal.v1.Ids/Next";

async function main() {
  const out = { calls: 0, late: {}, frames: [] };
  const quiet = client.makeServerStreamRequest("/ordinal.v1.Feed/Subscribe", raw, raw, field(1, "quiet"));
  let arrived;
  const frame = new Promise((resolve) => (arrived = resolve));
  quiet.on("data", (b) => b.includes("payload") && arrived("payload"));
  quiet.on("error", (e) => arrived(`ended with ${e.code}: ${e.details}`));
  for (let i = 0; i < 400; i++) out.calls += (await unary(NEXT, field(1, "a"))).code === 0;
  for (let round = 0; round < 4; round++) {
    const body = Buffer.concat([field(1, "slow"), Buffer.from([0x10, 0xa0, 0x1f])]);
    const ends = [];
    for (let i = 0; i < 50; i++) ends.push(unary(NEXT, body, { deadline: Date.now() + 200 }));
    for (const { code } of await Promise.all(ends)) out.late[code] = (out.late[code] || 0) + 1;
  }
  out.take = await new Promise((resolve) => {
    const take = client.makeBidiStreamRequest("/ordinal.v1.Ids/Take", raw, raw);
    let replies = 0;
    take.on("data", () => replies++);
    take.on("error", () => {});
    take.on("status", (s) => resolve({ replies, code: s.code }));
    for (let i = 0; i < 3; i++) take.write(field(1, "a"));
    take.end();
  });
  out.unknown = (await unary("/ordinal.v1.Ids/Nothing", Buffer.alloc(0))).code;
  out.large = (await unary(NEXT, Buffer.concat([Buffer.from([0x7a, 0x80, 0x80, 0xc0, 0x02]), Buffer.alloc(5 << 20)]))).code;
  await unary("/ordinal.v1.Feed/Publish", Buffer.concat([field(1, "quiet"), field(3, "payload")]));
  out.frames.push(await frame);
  quiet.cancel();
  client.close();
  console.log(JSON.stringify(out));
}
main();
