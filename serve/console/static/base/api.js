/** The only place that calls the server: the API as JSON over Connect, pictures, media and uploads. */

import { pictureBytes } from "./pictures.js";

const TOKEN_KEY = "kinodex-token";  // of sessionStorage: gone when the tab closes
const END_OF_STREAM = 2;  // bit of a Connect envelope's flags: the last message, with the error if there was one
const ENVELOPE_BYTES = 5;  // one byte of flags, four of length

/** A call that the server refused, or that never reached it. */
export class ApiError extends Error {
  /** @param {string} code Connect's code, such as "not_found" @param {string} message @param {{reason?: string, requestId?: string}} [more] */
  constructor(code, message, { reason = "", requestId = "" } = {}) {
    super(message);
    this.code = code;
    this.reason = reason;
    this.requestId = requestId;
  }
}

/** @returns {string} */
export function token() {
  return sessionStorage.getItem(TOKEN_KEY) ?? "";
}

/** Keep the token for this tab; "" forgets it. @param {string} value */
export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN_KEY, value);
  else sessionStorage.removeItem(TOKEN_KEY);
}

/** The header that carries the token, if there is one. @returns {Record<string, string>} */
export function authorization() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

/** Announces on `window` that the server wants a token, or another one. @param {ApiError} error @returns {ApiError} */
function announce(error) {
  if (error.code === "unauthenticated") window.dispatchEvent(new CustomEvent("kinodex-login", { detail: error }));
  return error;
}

/** @param {string} path @param {RequestInit} init */
async function send(path, init) {
  try {
    return await fetch(path, { ...init, headers: { ...authorization(), ...init.headers }, redirect: "error" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("unavailable", "The server does not answer. It may be stopped, or starting.");
  }
}

/** The first field of a detail, a text: the reason of an ErrorInfo, the id of a RequestInfo. @param {string} value Its protobuf, as base64. */
function firstText(value) {
  const bytes = Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
  return new TextDecoder().decode(bytes.subarray(2, 2 + bytes[1]));  // tag, length below 128, text
}

/** @param {any} body The JSON of a Connect error. @param {string | null} requestId @returns {ApiError} */
export function errorOf(body, requestId) {
  let reason = "";
  for (const detail of body.details ?? []) {
    if (detail.type === "google.rpc.ErrorInfo") reason = firstText(detail.value);
    if (detail.type === "google.rpc.RequestInfo") requestId ??= firstText(detail.value);
  }
  return announce(new ApiError(body.code ?? "unknown", body.message ?? "The server gave no reason.", { reason, requestId: requestId ?? "" }));
}

/** @param {Response} response */
async function failure(response) {
  return refusalOf(response.status, await response.text() || response.statusText, response.headers.get("x-request-id"));
}

/** The error of an answer whose status is not 200. @param {number} status @param {string} text Its body. @param {string | null} requestId */
export function refusalOf(status, text, requestId) {
  try {
    return errorOf(JSON.parse(text), requestId);
  } catch {
    return errorOf({ code: status === 401 ? "unauthenticated" : "unknown", message: text.slice(0, 500) }, requestId);
  }
}

/**
 * Make a call of the API, such as `call("SearchService/SearchMoments", {query: {text: "a red car"}})`.
 * @param {string} method @param {object} [request] @param {AbortSignal} [signal]
 * @returns {Promise<any>} The response's JSON.
 * @throws {ApiError}
 */
export async function call(method, request = {}, signal) {
  const response = await send(`/kinodex.v1.${method}`, {
    method: "POST", signal, body: JSON.stringify(request), headers: { "Content-Type": "application/json", "Connect-Protocol-Version": "1" },
  });
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** @param {Uint8Array} left @param {Uint8Array} right */
function joined(left, right) {
  const both = new Uint8Array(left.length + right.length);
  both.set(left);
  both.set(right, left.length);
  return both;
}

/**
 * Make a call that answers with a stream, and give each message as it comes. Ends when the server ends it.
 * @param {string} method @param {object} request @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 * @throws {ApiError}
 */
export async function* watch(method, request, signal) {
  const json = new TextEncoder().encode(JSON.stringify(request));
  const body = new Uint8Array(ENVELOPE_BYTES + json.length);
  new DataView(body.buffer).setUint32(1, json.length);
  body.set(json, ENVELOPE_BYTES);
  const response = await send(`/kinodex.v1.${method}`, {
    method: "POST", signal, body, headers: { "Content-Type": "application/connect+json", "Connect-Protocol-Version": "1" },
  });
  if (!response.ok || !response.body) throw await failure(response);
  let waiting = new Uint8Array();
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError("unavailable", "The server ended the connection.");
    const { envelopes, rest } = readEnvelopes(joined(waiting, value));
    waiting = rest;
    for (const { ends, bytes } of envelopes) {
      const message = JSON.parse(new TextDecoder().decode(bytes));
      if (ends && message.error) throw errorOf(message.error, response.headers.get("x-request-id"));
      if (ends) return;
      yield message;
    }
  }
}

/**
 * Take the whole envelopes off the start of a stream's bytes.
 * @param {Uint8Array} bytes
 * @returns {{envelopes: {ends: boolean, bytes: Uint8Array}[], rest: Uint8Array<ArrayBuffer>}}
 */
export function readEnvelopes(bytes) {
  const envelopes = [];
  let start = 0;
  while (bytes.length - start >= ENVELOPE_BYTES) {
    const length = new DataView(bytes.buffer, bytes.byteOffset + start).getUint32(1);
    const end = start + ENVELOPE_BYTES + length;
    if (bytes.length < end) break;
    envelopes.push({ ends: Boolean(bytes[start] & END_OF_STREAM), bytes: bytes.subarray(start + ENVELOPE_BYTES, end) });
    start = end;
  }
  return { envelopes, rest: bytes.slice(start) };
}

/** @param {string} path @param {Record<string, string | number | undefined>} parameters Empty ones are left out. */
function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== "") query.set(key, String(value));
  }
  return query.size ? `${path}?${query}` : path;
}

/** Address of the stored picture of a time. @param {{videoId: string, collection?: string}} video @param {number} seconds */
export function frameUrl(video, seconds) {
  return withQuery(`/frames/${encodeURIComponent(video.videoId)}`, { t: seconds.toFixed(3), collection: video.collection });
}

/** Address of one wide picture of `count` stored pictures, left to right, evenly over a span. @param {{videoId: string, collection?: string}} video @param {number} start @param {number} end @param {number} count */
export function stripUrl(video, start, end, count) {
  return withQuery(`/strips/${encodeURIComponent(video.videoId)}`, { start: start.toFixed(3), end: end.toFixed(3), count, collection: video.collection });
}

/** Path of a video's own file. @param {{videoId: string, collection?: string}} video */
export function mediaPath(video) {
  return withQuery(`/media/${encodeURIComponent(video.videoId)}`, { collection: video.collection });
}

/** Path of a part of a video, as a file of its own. @param {{videoId: string, collection?: string}} video @param {number} start @param {number} end */
export function clipPath(video, start, end) {
  return withQuery(`/clips/${encodeURIComponent(video.videoId)}.mp4`, { start: start.toFixed(3), end: end.toFixed(3), collection: video.collection });
}

/**
 * Show a picture of the server. With a token it is fetched, since an `<img>` sends none.
 * @param {HTMLImageElement} image @param {string} url @param {AbortSignal} [signal]
 * @returns {Promise<boolean>} Whether there is one.
 */
export async function showPicture(image, url, signal) {
  if (!token()) {
    return new Promise((resolve) => {
      image.onload = () => resolve(true);
      image.onerror = () => resolve(false);
      image.src = url;
    });
  }
  const response = await send(url, { signal }).catch(() => undefined);  // the page was left, or the server went away
  if (!response?.ok) return false;
  const local = URL.createObjectURL(await response.blob());
  image.onload = () => URL.revokeObjectURL(local);
  image.src = local;
  return true;
}

/**
 * An address that a `<video>` or a download can use: with tokens on, it carries a signature that soon ends.
 * @param {string} path @param {AbortSignal} [signal]
 */
export async function signedUrl(path, signal) {
  if (!token()) return path;
  const response = await send("/links", { method: "POST", signal, body: JSON.stringify({ paths: [path] }), headers: { "Content-Type": "application/json" } });
  if (!response.ok) throw await failure(response);
  return (await response.json()).links[0];
}

/** An address that plays a video's own file; undefined if the server cannot give it. @param {{videoId: string, collection?: string}} video @param {AbortSignal} [signal] @returns {Promise<string | undefined>} */
export async function mediaUrl(video, signal) {
  const path = mediaPath(video);
  const response = await send(path, { method: "HEAD", signal });
  return response.ok ? signedUrl(path, signal) : undefined;
}

/** The JSON of a query's example picture, if the tab still has it. @param {string} key */
export function imageOf(key) {
  const bytes = pictureBytes(key);
  if (!bytes) return undefined;
  let text = "";
  for (let start = 0; start < bytes.length; start += 32_768) text += String.fromCharCode(...bytes.subarray(start, start + 32_768));
  return btoa(text);
}
