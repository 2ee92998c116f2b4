/** Turns times, numbers and names into words for people, and into the API's JSON. */

/** Seconds of a JSON Duration such as "12.5s". @param {string | undefined} duration */
export function secondsOf(duration) {
  return duration ? Number.parseFloat(duration) : 0;
}

/** The JSON Duration of a number of seconds, to the millisecond. @param {number} seconds */
export function durationOf(seconds) {
  return `${Math.max(0, seconds).toFixed(3)}s`;
}

/** A time within a video: m:ss, or h:mm:ss from an hour on. @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A span within a video. The end is rounded up, so that a span of half a second is not empty. @param {number} start @param {number} end */
export function spanText(start, end) {
  return `${clock(start)}–${clock(Math.ceil(end - 1e-6))}`;
}

/** Hours, minutes or seconds in words. @param {number} seconds */
export function lengthText(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** A wall clock in the reader's zone. @param {string} timestamp */
export function wallClock(timestamp) {
  return new Date(timestamp).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** How long ago an instant was. @param {string} timestamp @param {number} [now] Milliseconds. */
export function ago(timestamp, now = Date.now()) {
  const seconds = Math.max(0, (now - new Date(timestamp).getTime()) / 1000);
  if (seconds < 2) return "now";
  return seconds < 86_400 ? `${lengthText(seconds)} ago` : `${Math.round(seconds / 86_400)} days ago`;
}

/** @param {number} count @param {string} noun @param {string} [nouns] */
export function counted(count, noun, nouns = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : nouns}`;
}

/** A number of the API's JSON, which writes NaN and the infinities as strings. @typedef {number | "NaN" | "Infinity" | "-Infinity"} JsonNumber */

/** @param {JsonNumber | undefined} share 0 to 1. */
export function percent(share) {
  return `${Math.round(Number(share ?? 0) * 100)} %`;
}

/** A similarity with two digits. @param {JsonNumber} score */
export function scoreText(score) {
  return Number(score).toFixed(2);
}

/** A size in bytes, for people. @param {number} bytes */
export function sizeText(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes >= 10 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** The last part of a URI's path, as a name; a live stream or an upload may have none, so its id stands in. @param {string | undefined} uri @param {string} [videoId] */
export function nameOf(uri, videoId = "") {
  const path = (uri ?? "").replace(/^upload:/, "").replace(/[?#].*$/, "").replace(/\/+$/, "");
  const last = path.slice(path.lastIndexOf("/") + 1);
  try {
    return visible(decodeURIComponent(last) || videoId);
  } catch {
    return visible(last || videoId);
  }
}

/** Show characters that reorder or hide text as their numbers, so that a name cannot pose as another. @param {string} text */
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** What a confidence means, as a sentence. @param {JsonNumber | undefined} confidence 0 to 1. */
export function confidenceText(confidence) {
  const tenths = Math.round(Number(confidence ?? 0) * 10);
  if (tenths === 0) return "Of answers this unsure, hardly any is right.";
  if (tenths === 10) return "Of answers this sure, nearly all are right.";
  return `Of answers this sure, ${tenths} in 10 ${tenths === 1 ? "is" : "are"} right.`;
}

/** Verdicts of the API: the word, and the class of its colour and shape. */
export const VERDICTS = /** @type {Record<string, {word: string, kind: string}>} */ ({
  VERDICT_MATCH: { word: "MATCH", kind: "match" },
  VERDICT_WEAK: { word: "WEAK", kind: "weak" },
  VERDICT_NO_MATCH: { word: "NO MATCH", kind: "none" },
});
