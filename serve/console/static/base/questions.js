/** A question and its filters: read from an address, written to one, and turned into requests and commands. */

import { imageOf } from "./api.js";
import { durationOf } from "./format.js";

/** Channels by the word of the address. */
export const CHANNELS = /** @type {Record<string, {label: string, channel: string, option: string}>} */ ({
  "": { label: "Everything", channel: "CHANNEL_ALL", option: "" },
  seen: { label: "Seen", channel: "CHANNEL_VISUAL", option: "visual" },
  said: { label: "Said", channel: "CHANNEL_SPEECH", option: "speech" },
  written: { label: "Written", channel: "CHANNEL_TEXT", option: "text" },
});

/**
 * @typedef {object} Question
 * @property {string} text
 * @property {string} exclude
 * @property {string} picture Key of a picture that this tab has.
 * @property {string} like An example, as VIDEO@START-END.
 * @property {string} likeCollection
 * @property {string} channel A key of CHANNELS.
 * @property {string} collection
 * @property {string} since A date, YYYY-MM-DD, in the reader's zone.
 * @property {string} until The last date, inclusive.
 * @property {string} sure The least confidence: "" or "match".
 * @property {"moment" | "video"} by
 */

/** @param {URLSearchParams} parameters @returns {Question} */
export function readQuestion(parameters) {
  const text = (/** @type {string} */ key) => (parameters.get(key) ?? "").trim();
  return {
    text: text("q"), exclude: text("exclude"), picture: text("picture"), like: text("like"), likeCollection: text("in"),
    channel: text("channel") in CHANNELS ? text("channel") : "", collection: text("collection"),
    since: text("since"), until: text("until"), sure: text("sure") === "match" ? "match" : "", by: text("by") === "video" ? "video" : "moment",
  };
}

/** Whether there is anything to look for. @param {Question} question */
export function asks(question) {
  return Boolean(question.text || question.picture || question.like);
}

/** The parameters of a question's address. @param {Question} question @returns {Record<string, string>} */
export function parametersOf(question) {
  return {
    q: question.text, exclude: question.exclude, picture: question.picture, like: question.like, in: question.like ? question.likeCollection : "",
    channel: question.channel, collection: question.collection, since: question.since, until: question.until, sure: question.sure,
    by: question.by === "video" ? "video" : "",
  };
}

/** The address of a question. @param {Partial<Question>} question */
export function questionUrl(question) {
  const query = new URLSearchParams();
  const whole = { ...readQuestion(new URLSearchParams()), ...question };
  for (const [key, value] of Object.entries(parametersOf(whole))) if (value) query.set(key, value);
  return query.size ? `/?${query}` : "/";
}

/** An example as the address writes it. @param {string} videoId @param {number} start @param {number} end */
export function exampleOf(videoId, start, end) {
  return `${videoId}@${start.toFixed(1)}-${end.toFixed(1)}`;
}

/** @param {string} like @returns {{videoId: string, start: number, end: number} | undefined} */
export function readExample(like) {
  const parts = /^(.+)@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(like);
  return parts ? { videoId: parts[1], start: Number(parts[2]), end: Number(parts[3]) } : undefined;
}

/** The API's Query. @param {Question} question */
export function queryOf(question) {
  const example = readExample(question.like);
  return {
    text: question.text || undefined,
    image: imageOf(question.picture),
    like: example && {
      videoId: example.videoId, collection: question.likeCollection || undefined,
      span: { startOffset: durationOf(example.start), endOffset: durationOf(example.end) },
    },
    excludeText: question.exclude || undefined,
    channel: CHANNELS[question.channel].channel,
  };
}

/** The instant at which a date begins here. @param {string} date YYYY-MM-DD @param {number} [days] Days later. */
function startOf(date, days = 0) {
  const [year, month, day] = date.split("-").map(Number);
  const instant = new Date(year, month - 1, day + days);
  return Number.isNaN(instant.getTime()) ? undefined : instant.toISOString();
}

/** The API's Filter. @param {Question} question */
export function filterOf(question) {
  const recorded = question.since || question.until
    ? { startTime: question.since ? startOf(question.since) : undefined, endTime: question.until ? startOf(question.until, 1) : undefined }
    : undefined;
  return { collections: question.collection ? [question.collection] : [], recorded };
}

/** @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The request of a question's first page. @param {Question} question @param {number} pageSize */
export function requestOf(question, pageSize) {
  return {
    query: queryOf(question), filter: filterOf(question), pageSize,
    ...(question.by === "video" ? { maxMomentsPerVideo: 4 } : {}),
  };
}

/** The same question by hand: as a command, with curl, in Python. @param {Question} question @returns {{name: string, text: string}[]} */
export function byHand(question) {
  const [command, method] = question.by === "video" ? ["search", "SearchVideos"] : ["moments", "SearchMoments"];
  const option = CHANNELS[question.channel].option;
  const options = [
    question.text && quoted(question.text), question.picture && "--image PICTURE", question.like && `--like ${quoted(question.like)}`,
    question.exclude && `--exclude ${quoted(question.exclude)}`, option && `--channel ${option}`,
    question.collection && `--collection ${quoted(question.collection)}`, question.since && `--since ${question.since}`,
    question.until && `--until ${question.until}`,
  ].filter(Boolean).join(" ");
  const request = { ...requestOf(question, 10) };
  if (question.picture) request.query = { ...request.query, image: "BASE64" };
  const python = [
    question.text && `text=${JSON.stringify(question.text)}`, question.exclude && `exclude_text=${JSON.stringify(question.exclude)}`,
  ].filter(Boolean).join(", ");
  const secure = location.protocol === "https:" ? " -H 'Authorization: Bearer TOKEN'" : "";
  const items = [
    { name: "command", text: `kinodex ${command} ${options} --server ${location.hostname}:8970` },
    { name: "curl", text: `curl -H 'Content-Type: application/json'${secure} -d ${quoted(JSON.stringify(request))} ${location.origin}/kinodex.v1.SearchService/${method}` },
  ];
  if (!question.picture && !question.like) {
    items.push({
      name: "Python",
      text: `from kinodex import Client, Query\n\nwith Client("${location.hostname}:8970") as client:\n    print(client.${command}(Query(${python})))\n`,
    });
  }
  return items;
}
