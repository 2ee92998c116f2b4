// A client of the API over HTTP as somebody would write it who has our .proto files and no code of ours: it asks with
// Connect in JSON and in protobuf, and with gRPC-Web, and prints what it got as JSON, one object for each of the three.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError, Code, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    ca: { type: "string", default: "" },
    token: { type: "string" },
    descriptors: { type: "string" },
  },
});

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(options.descriptors)));
const seconds = (duration) => Number(duration.seconds) + duration.nanos / 1e9;
const authorize = (next) => (request) => {
  request.header.set("authorization", `Bearer ${options.token}`);
  return next(request);
};

// Runs what must fail, and tells what the error says.
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const known = ConnectError.from(error);
    const [info] = known.findDetails(registry.getMessage("google.rpc.ErrorInfo"));
    return { code: Code[known.code], message: known.rawMessage, reason: info?.reason };
  }
  return null;
}

async function ask(transport, stranger) {
  const searches = createClient(registry.getService("kinodex.v1.SearchService"), transport);
  const library = createClient(registry.getService("kinodex.v1.LibraryService"), transport);
  const moderation = createClient(registry.getService("kinodex.v1.ModerationService"), transport);
  const { moments } = await searches.searchMoments({ query: { text: "green", channel: 2 }, pageSize: 100 });
  const { videos } = await library.listVideos({ pageSize: 100 });
  const frame = await library.getFrame({ videoId: videos[0].videoId });
  const watched = [];
  const leaving = new AbortController(); // leaving the loop alone would not end the call
  for await (const response of moderation.watchEvents({}, { timeoutMs: 300_000, signal: leaving.signal })) {
    watched.push(response.resumeToken !== "");
    break;
  }
  leaving.abort();
  return {
    moments: moments.map((one) => ({
      video_id: one.videoId,
      start_seconds: seconds(one.span.startOffset),
      end_seconds: seconds(one.span.endOffset),
    })),
    video_ids: videos.map((one) => one.videoId),
    jpeg: Buffer.from(frame.jpeg.slice(0, 3)).toString("hex"),
    watched,
    missing: await failure(library.getVideo({ videoId: "none" })),
    empty: await failure(searches.searchMoments({})),
    stranger: await failure(createClient(registry.getService("kinodex.v1.LibraryService"), stranger).listVideos({})),
  };
}

const nodeOptions = options.ca ? { ca: readFileSync(options.ca) } : {};
const kinds = {
  "connect-json": (more) => createConnectTransport({ useBinaryFormat: false, ...more }),
  "connect-proto": (more) => createConnectTransport({ useBinaryFormat: true, ...more }),
  "grpc-web": (more) => createGrpcWebTransport(more),
};
const told = {};
for (const [kind, make] of Object.entries(kinds)) {
  const common = { baseUrl: options.url, httpVersion: "1.1", nodeOptions };
  told[kind] = await ask(make({ ...common, interceptors: [authorize] }), make(common));
}
process.stdout.write(`${JSON.stringify(told)}\n`, () => process.exit(0)); // the timer of the call that was left goes on
