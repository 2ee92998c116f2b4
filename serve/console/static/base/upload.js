/**
 * Uploads a file by the UploadVideo call. A browser cannot stream a request over HTTP/1.1, so its body is one Blob of
 * all messages: a Blob of slices of a file takes no memory. The messages are protobuf, since JSON would need base64.
 * Source: https://connectrpc.com/docs/protocol, https://protobuf.dev/programming-guides/encoding
 */

import { ApiError, authorization, errorOf, readEnvelopes, refusalOf } from "./api.js";

const PIECE_BYTES = 1024 * 1024;  // the most that a message of UploadVideo may carry
const HEADER_FIELD = 1;  // of UploadVideoRequest
const DATA_FIELD = 2;
const FILENAME_FIELD = 1;  // of UploadHeader
const SIZE_FIELD = 2;
const COLLECTION_FIELD = 4;
const LENGTH_DELIMITED = 2;  // wire types of protobuf
const VARINT = 0;

/** @param {number} value A whole number below 2^53. @returns {number[]} */
function varint(value) {
  const bytes = [];
  for (; value > 0x7f; value = Math.floor(value / 128)) bytes.push((value % 128) | 0x80);
  return [...bytes, value];
}

/** The start of a field of bytes. @param {number} field @param {number} length */
function prefix(field, length) {
  return [(field << 3) | LENGTH_DELIMITED, ...varint(length)];
}

/** @param {number} field @param {string} text @returns {number[]} */
function textField(field, text) {
  const bytes = [...new TextEncoder().encode(text)];
  return bytes.length ? [...prefix(field, bytes.length), ...bytes] : [];
}

/** The five bytes before a message. @param {number} length */
function envelope(length) {
  const bytes = new Uint8Array(5);
  new DataView(bytes.buffer).setUint32(1, length);
  return bytes;
}

/** All messages of an upload. @param {File} file @param {string} collection */
function bodyOf(file, collection) {
  const header = [...textField(FILENAME_FIELD, file.name), (SIZE_FIELD << 3) | VARINT, ...varint(file.size), ...textField(COLLECTION_FIELD, collection)];
  const first = new Uint8Array([...prefix(HEADER_FIELD, header.length), ...header]);
  const parts = /** @type {BlobPart[]} */ ([envelope(first.length), first]);
  for (let start = 0; start < file.size; start += PIECE_BYTES) {
    const length = Math.min(PIECE_BYTES, file.size - start);
    const before = new Uint8Array(prefix(DATA_FIELD, length));
    parts.push(envelope(before.length + length), before, file.slice(start, start + length));
  }
  return new Blob(parts);
}

/**
 * Send a file to be indexed.
 * @param {File} file @param {string} collection "" for the default. @param {(share: number) => void} onprogress From 0 to 1. @param {AbortSignal} signal
 * @returns {Promise<void>} Done when the server has the whole file; it is indexed after that.
 * @throws {ApiError}
 */
export function upload(file, collection, onprogress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch does not tell how much it has sent
    request.open("POST", "/kinodex.v1.LibraryService/UploadVideo");
    request.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/connect+proto");
    request.setRequestHeader("Connect-Protocol-Version", "1");
    request.upload.addEventListener("progress", (event) => onprogress(event.total ? event.loaded / event.total : 0));
    request.addEventListener("load", () => {
      const error = failureIn(request);
      if (error) reject(error);
      else resolve();
    });
    request.addEventListener("error", () => reject(new ApiError("unavailable", "The connection broke before all was sent.")));
    request.addEventListener("abort", () => reject(new ApiError("canceled", "cancelled")));
    signal.addEventListener("abort", () => request.abort());
    request.send(bodyOf(file, collection));
  });
}

/** The error of a finished upload. @param {XMLHttpRequest} request */
function failureIn(request) {
  const requestId = request.getResponseHeader("x-request-id");
  const bytes = new Uint8Array(request.response ?? new ArrayBuffer(0));
  if (request.status !== 200) return refusalOf(request.status, new TextDecoder().decode(bytes) || request.statusText, requestId);
  const end = readEnvelopes(bytes).envelopes.find((message) => message.ends);
  if (!end) return new ApiError("unavailable", "The server ended the connection before it answered.");
  const { error } = JSON.parse(new TextDecoder().decode(end.bytes));
  return error && errorOf(error, requestId);
}
