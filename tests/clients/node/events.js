// A consumer of moderation events as somebody would write it who has our .proto files and protos/README.md and no code
// of ours. From Kafka (--servers) it prints every change that is there now; from a server (--address) it watches until
// it has seen --count changes, from the start or behind a --resume token, and prints the token to go on with.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import kafkajs from "kafkajs";
import protobuf from "protobufjs";

const { values: options } = parseArgs({
  options: {
    protos: { type: "string" },
    servers: { type: "string" },
    prefix: { type: "string", default: "kinodex" },
    address: { type: "string" },
    token: { type: "string", default: "" },
    label: { type: "string", multiple: true, default: [] },
    resume: { type: "string", default: "" },
    count: { type: "string", default: "1" },
  },
});

const seconds = (time) => Number(time.seconds ?? 0) + (time.nanos ?? 0) / 1e9;

function print(event, state) {
  const told = {
    event_id: event.event_id,
    state: state.replace("STATE_", ""),
    revision: Number(event.revision),
    label: [...event.parent_labels, event.label].join(" > "),
    video: `${event.collection}/${event.video_id}`,
    start_seconds: seconds(event.span.start_offset),
    end_seconds: seconds(event.span.end_offset),
    recorded: event.start_time ? new Date(1000 * seconds(event.start_time)).toISOString() : null,
    words: event.matched_words.map((word) => word.text),
    action: event.action_hint,
  };
  console.log(JSON.stringify(told));
}

// ------------------------------------------------------------------ from Kafka
async function read() {
  const root = new protobuf.Root();
  root.resolvePath = (from, to) => join(options.protos, to);
  root.loadSync("kinodex/v1/stream.proto", { keepCase: true });
  const Event = root.lookupType("kinodex.v1.Event");
  const states = Event.lookupEnum("State").valuesById;
  const kafka = new kafkajs.Kafka({
    brokers: options.servers.split(","), logLevel: kafkajs.logLevel.NOTHING,
    connectionTimeout: 60_000, // milliseconds; the default of one second is too short for a busy machine
  });
  const topic = `${options.prefix}.events`;
  const waiting = new Map(); // partition -> the offset to reach
  const admin = kafka.admin();
  await admin.connect();
  for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
    if (BigInt(low) < BigInt(high)) waiting.set(partition, BigInt(high));
  }
  await admin.disconnect();
  if (!waiting.size) return;
  const consumer = kafka.consumer({ groupId: `events-${randomUUID()}` });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
    const eachBatch = async ({ batch }) => {
      for (const message of batch.messages) {
        const event = Event.decode(message.value);
        print(event, states[event.state]);
      }
      if (BigInt(batch.lastOffset()) + 1n >= (waiting.get(batch.partition) ?? 0n)) waiting.delete(batch.partition);
      if (!waiting.size) resolve();
    };
    consumer.run({ autoCommit: false, eachBatch }).catch(reject);
  });
  await consumer.disconnect();
}

// ------------------------------------------------------------------ from a server
async function watch() {
  const definitions = loader.loadSync("kinodex/v1/moderation_service.proto", {
    includeDirs: [options.protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
  });
  const { ModerationService } = grpc.loadPackageDefinition(definitions).kinodex.v1;
  const service = new ModerationService(options.address, grpc.credentials.createInsecure());
  const metadata = new grpc.Metadata();
  if (options.token) metadata.set("authorization", `Bearer ${options.token}`);
  const filter = { labels: options.label };
  const call = service.WatchEvents({ filter, resume_token: options.resume, from_start: true }, metadata);
  let left = Number(options.count);
  await new Promise((resolve, reject) => {
    call.on("data", ({ event, resume_token: token }) => {
      if (!event || left === 0) return;
      print(event, event.state);
      left -= 1;
      if (left === 0) {
        console.log(JSON.stringify({ resume: token }));
        call.cancel();
      }
    });
    call.on("error", (error) => (error.code === grpc.status.CANCELLED && left === 0 ? resolve() : reject(error)));
    call.on("end", resolve);
  });
  service.close();
}

await (options.servers ? read() : watch());
