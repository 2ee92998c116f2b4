// A client as somebody would write it who has our .proto files and no code of ours: it asks, pages, uploads, waits,
// reads, deletes and makes mistakes, and prints what it got as JSON. The Go client prints the same.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs, promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const POLL_MS = 100;
const BLOCK_BYTES = 1 << 20; // the most that one message of an upload may carry
const REFUSED_BLOCKS = 16; // far more than is under way at once: the server must get its refusal through

const { values: options } = parseArgs({
  options: {
    address: { type: "string" },
    ca: { type: "string", default: "" },
    token: { type: "string" },
    "reading-token": { type: "string" },
    video: { type: "string" },
    protos: { type: "string", multiple: true },
  },
});

const definitions = loader.loadSync(
  ["kinodex/v1/search_service.proto", "kinodex/v1/library_service.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
  { includeDirs: options.protos, keepCase: true, longs: String, enums: String, defaults: true, oneofs: true, json: true },
);
const api = grpc.loadPackageDefinition(definitions).kinodex.v1;
const credentials = options.ca
  ? grpc.credentials.createSsl(readFileSync(options.ca))
  : grpc.credentials.createInsecure();
const searches = new api.SearchService(options.address, credentials);
const library = new api.LibraryService(options.address, credentials);

function bearer(token) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

const writer = bearer(options.token);
const call = (client, method, request, metadata = writer) =>
  promisify(client[method].bind(client))(request, metadata, { deadline: Date.now() + 300_000 });

const seconds = (duration) => Number(duration.seconds) + duration.nanos / 1e9;
const place = (moment) => ({
  video_id: moment.video_id,
  start_seconds: seconds(moment.span.start_offset),
  end_seconds: seconds(moment.span.end_offset),
  verdict: moment.verdict,
});

// ------------------------------------------------------------------ errors
// Runs what must fail, and tells all that the error says: the status' details are in a binary trailer.
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const [trailer] = error.metadata.get("grpc-status-details-bin");
    const status = definitions["google.rpc.Status"].deserialize(trailer);
    const details = Object.fromEntries(status.details.map((one) => [one["@type"].split(".").at(-1), one]));
    return {
      code: grpc.status[error.code],
      message: error.details,
      status_message: status.message,
      reason: details.ErrorInfo.reason,
      domain: details.ErrorInfo.domain,
      metadata: details.ErrorInfo.metadata,
      fields: details.BadRequest?.field_violations.map((violation) => violation.field) ?? [],
      request_id: details.RequestInfo.request_id,
    };
  }
  throw new Error("this call should have failed");
}

// ------------------------------------------------------------------ what it does
// Asks as a load balancer does, without a token, and without a proto: an empty request is no bytes, and field 1 of the
// answer, a number below 128, is its second byte.
async function health() {
  const bytes = (value) => value;
  const path = "/grpc.health.v1.Health/Check";
  const answer = await promisify(searches.makeUnaryRequest.bind(searches))(path, bytes, bytes, Buffer.alloc(0));
  return ["UNKNOWN", "SERVING", "NOT_SERVING"][answer[1]];
}

async function pages(client, method, request) {
  const answers = [];
  let page_token = "";
  do {
    const answer = await call(client, method, { ...request, page_size: 2, page_token });
    answers.push(answer);
    page_token = answer.next_page_token;
  } while (page_token);
  return answers;
}

function upload(header, bytes, metadata = writer) {
  return new Promise((resolve, reject) => {
    const stream = library.UploadVideo(metadata, (error, response) => (error ? reject(error) : resolve(response)));
    stream.write({ header });
    for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
      stream.write({ data: bytes.subarray(at, at + BLOCK_BYTES) });
    }
    stream.end();
  });
}

async function untilIndexed(video_id) {
  const states = [];
  for (;;) {
    const { video } = await call(library, "GetVideo", { video_id });
    if (states.at(-1) !== video.state) states.push(video.state);
    if (video.state !== "STATE_PROCESSING") return [video, states];
    await sleep(POLL_MS);
  }
}

async function main() {
  const green = { query: { text: "green", channel: "CHANNEL_VISUAL" } };
  const whole = await call(searches, "SearchMoments", { ...green, page_size: 100 });
  const momentPages = await pages(searches, "SearchMoments", green);
  const videoPages = await pages(searches, "SearchVideos", green);
  const listPages = await pages(library, "ListVideos", {});

  const bytes = readFileSync(options.video);
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const header = { filename: "new.mp4", size_bytes: bytes.length, sha256, metadata: { camera: "7" } };
  const { video: uploaded } = await upload(header, bytes);
  const [video, states] = await untilIndexed(uploaded.video_id);
  const { video_id } = video;
  const asked = { query: { text: "red", channel: "CHANNEL_VISUAL" }, filter: { video_ids: [video_id] }, page_size: 1 };
  const { moments } = await call(searches, "SearchMoments", asked);
  const { utterances } = await call(library, "GetTranscript", { video_id });
  const frame = await call(library, "GetFrame", { video_id, offset: { seconds: "5", nanos: 250_000_000 } });
  await call(library, "DeleteVideo", { video_id });

  return {
    health: await health(),
    whole: whole.moments.map(place),
    moment_pages: momentPages.map((page) => page.moments.map(place)),
    video_pages: videoPages.map((page) => page.videos.map((one) => one.video_id)),
    list_pages: listPages.map((page) => page.videos.map((one) => one.video_id)),
    uploaded: { state: uploaded.state, uri: uploaded.uri },
    states,
    ready: {
      video_id,
      metadata: video.metadata,
      duration_seconds: seconds(video.duration),
      frame_count: Number(video.frame_count),
      utterance_count: Number(video.utterance_count),
      content_sha256: video.content_sha256,
      index_time_seconds: Number(video.index_time.seconds),
    },
    moments: moments.map(place),
    transcript: utterances.map((one) => ({
      text: one.text,
      start_seconds: seconds(one.span.start_offset),
      words: one.words.map((word) => word.text),
    })),
    frame: { offset_seconds: seconds(frame.offset), hex: frame.jpeg.toString("hex", 0, 3), length: frame.jpeg.length },
    errors: {
      deleted: await failure(call(library, "GetVideo", { video_id })),
      empty_question: await failure(call(searches, "SearchMoments", { page_size: -1 })),
      foreign_page: await failure(
        call(searches, "SearchMoments", { ...green, page_token: videoPages[0].next_page_token }),
      ),
      wrong_sha256: await failure(upload({ ...header, sha256: "0".repeat(64) }, bytes)),
      no_token: await failure(call(library, "ListVideos", {}, new grpc.Metadata())),
      refused_upload: await failure(
        upload({ filename: "big.mp4" }, Buffer.alloc(REFUSED_BLOCKS * BLOCK_BYTES), bearer(options["reading-token"])),
      ),
    },
  };
}

console.log(JSON.stringify(await main(), null, 1));
searches.close();
library.close();
