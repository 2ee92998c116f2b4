// A reader of kinodex.segments as somebody would write it who has our .proto files and protos/README.md and no code of
// ours: reads what Kafka holds now, and prints each segment that is valid as a line of JSON.
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { parseArgs } from "node:util";

import kafkajs from "kafkajs";
import protobuf from "protobufjs";

const SHOWN_NUMBERS = 4; // of a vector

const { values: options } = parseArgs({
  options: {
    servers: { type: "string" },
    prefix: { type: "string", default: "kinodex" },
    protos: { type: "string" },
  },
});

const root = new protobuf.Root();
root.resolvePath = (from, to) => join(options.protos, to);
root.loadSync("kinodex/v1/stream.proto", { keepCase: true });
const Segment = root.lookupType("kinodex.v1.Segment");

const segmentsTopic = `${options.prefix}.segments`;
const deletionsTopic = `${options.prefix}.deletions`;

// ------------------------------------------------------------------ what fields mean
const seconds = (time) => (time ? Number(time.seconds) + time.nanos / 1e9 : 0);
const iso = (time) => (time ? new Date(1000 * seconds(time)).toISOString() : null);

// Reads numbers of IEEE 754 half precision, little-endian.
function halves(bytes) {
  return Array.from({ length: bytes.length / 2 }, (_, n) => {
    const bits = bytes[2 * n] | (bytes[2 * n + 1] << 8);
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
}

// ------------------------------------------------------------------ the rules
const segments = new Map(); // key -> Segment
const deletions = new Map(); // "collection/video_id" -> milliseconds at which the newest deletion was appended

function take(topic, { key, value, timestamp }) {
  const name = key.toString();
  if (topic === deletionsTopic) {
    deletions.set(name, Math.max(Number(timestamp), deletions.get(name) ?? 0));
    return;
  }
  if (value === null) {
    segments.delete(name);
    return;
  }
  const segment = Segment.decode(value);
  const known = segments.get(name);
  if (!known || Number(segment.revision) > Number(known.revision)) segments.set(name, segment);
}

function isDead(segment) {
  const deleted = deletions.get(`${segment.collection}/${segment.video_id}`);
  return deleted !== undefined && Math.round(1000 * seconds(segment.source_append_time)) < deleted;
}

// ------------------------------------------------------------------ reading until where the topics end now
async function read() {
  const kafka = new kafkajs.Kafka({
    brokers: options.servers.split(","), logLevel: kafkajs.logLevel.NOTHING,
    connectionTimeout: 60_000, // milliseconds; the default of one second is too short for a busy machine
  });
  const topics = [segmentsTopic, deletionsTopic];
  const waiting = new Map(); // topic and partition -> the offset to reach
  const admin = kafka.admin();
  await admin.connect();
  for (const topic of topics) {
    for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
      if (BigInt(low) < BigInt(high)) waiting.set(`${topic} ${partition}`, BigInt(high));
    }
  }
  await admin.disconnect();
  if (!waiting.size) return;
  // Nothing is committed: the group is only a name to read by, and the next run reads all again.
  const consumer = kafka.consumer({ groupId: `segments-${randomUUID()}` });
  await consumer.connect();
  await consumer.subscribe({ topics, fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
    const eachBatch = async ({ batch }) => {
      for (const message of batch.messages) take(batch.topic, message);
      const place = `${batch.topic} ${batch.partition}`;
      if (BigInt(batch.lastOffset()) + 1n >= (waiting.get(place) ?? 0n)) waiting.delete(place);
      if (!waiting.size) resolve();
    };
    consumer.run({ autoCommit: false, eachBatch }).catch(reject);
  });
  await consumer.disconnect();
}

// ------------------------------------------------------------------ a line of JSON each
function told(segment) {
  const numbers = halves(segment.embedding);
  return {
    segment_id: segment.segment_id,
    collection: segment.collection,
    video_id: segment.video_id,
    start_seconds: seconds(segment.span.start_offset),
    end_seconds: seconds(segment.span.end_offset),
    recorded: iso(segment.start_time),
    revision: Number(segment.revision),
    final: segment.final,
    watermark_seconds: seconds(segment.watermark_offset),
    words: segment.texts.flatMap((text) => text.words.map((word) => word.text)),
    first_said: segment.texts.filter((text) => !text.continued).map((text) => text.text),
    frame_count: segment.frames.length,
    thumbnail_count: segment.frames.filter((frame) => frame.thumbnail.length).length,
    fingerprint: segment.fingerprint,
    dimension_count: numbers.length,
    embedding: numbers.slice(0, SHOWN_NUMBERS),
  };
}

await read();
const order = (a, b) =>
  a.collection.localeCompare(b.collection) ||
  a.video_id.localeCompare(b.video_id) ||
  Number(a.epoch) - Number(b.epoch) ||
  Number(a.index) - Number(b.index);
for (const segment of [...segments.values()].filter((one) => !isDead(one)).sort(order)) {
  console.log(JSON.stringify(told(segment)));
}
