/** An answer as a card: the picture first, then its time, the words, and last the numbers. */

import { call, frameUrl, showPicture, stripUrl } from "../base/api.js";
import { append, h } from "../base/dom.js";
import { VERDICTS, clock, confidenceText, durationOf, nameOf, percent, scoreText, secondsOf, spanText, wallClock } from "../base/format.js";
import { exampleOf, queryOf, questionUrl } from "../base/questions.js";
import { colour } from "../base/theme.js";

const SNIPPET_CHARACTERS = 140;  // two to three lines of a card
const STRIP_PICTURES = 12;  // under the pointer, over the width of a card: one each 20 px or so
const CURVE_POINTS = 60;
const STRIP_MARGIN_SECONDS = 2;  // shown before and after the moment

/** @typedef {import("kinodex/v1/moment_pb").MomentJson} Moment */
/** @typedef {import("../base/questions.js").Question} Question */
/** @typedef {import("../base/format.js").JsonNumber} JsonNumber */

/** @param {Moment} moment @returns {[number, number]} */
export function spanOf(moment) {
  return [secondsOf(moment.span?.startOffset), secondsOf(moment.span?.endOffset)];
}

/** The address of the page that plays a moment. @param {Moment} moment @param {Question} [question] @param {boolean} [play] */
export function momentUrl(moment, question, play = false) {
  const [start, end] = spanOf(moment);
  return videoUrl({ videoId: moment.videoId ?? "", collection: moment.collection }, { start, end, question, play });
}

/**
 * @param {{videoId: string, collection?: string}} video
 * @param {{start?: number, end?: number, question?: Question, play?: boolean}} [place]
 */
export function videoUrl(video, { start, end, question, play } = {}) {
  const query = new URLSearchParams();
  if (video.collection) query.set("collection", video.collection);
  if (start !== undefined) query.set("t", start.toFixed(1));
  if (end !== undefined) query.set("end", end.toFixed(1));
  if (question?.text) query.set("q", question.text);
  if (question?.channel) query.set("channel", question.channel);
  if (play) query.set("play", "1");
  return `/video/${encodeURIComponent(video.videoId)}${query.size ? `?${query}` : ""}`;
}

/** A verdict as a word, with its confidence. @param {string | undefined} verdict @param {JsonNumber | undefined} confidence */
export function verdictChip(verdict, confidence) {
  const { word, kind } = VERDICTS[verdict ?? ""] ?? VERDICTS.VERDICT_NO_MATCH;
  return h("span", { class: `verdict ${kind}`, title: confidenceText(confidence) }, h("span", { class: "shape", "aria-hidden": "true" }), `${word} ${percent(confidence)}`);
}

/** A word without the punctuation around it. @param {string} word */
function bare(word) {
  return word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
}

/** A text with the words of a question marked. @param {string} text @param {string[]} words */
export function marked(text, words) {
  const wanted = [...new Set(words.map((word) => bare(word).toLowerCase()).filter(Boolean))];
  if (!wanted.length) return [text];
  const escaped = wanted.sort((a, b) => b.length - a.length).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("|")})(?![\\p{L}\\p{N}])`, "giu");
  return text.split(pattern).map((part, index) => (index % 2 ? h("mark", {}, part) : part));
}

/** The part of a text around the first of some words. @param {string} text @param {string[]} words */
export function snippet(text, words) {
  const flat = text.replace(/\s+/g, " ").trim();
  if (flat.length <= SNIPPET_CHARACTERS) return flat;
  const places = words.map((word) => flat.toLowerCase().indexOf(word.trim().toLowerCase())).filter((place) => place >= 0);
  let from = Math.max(0, Math.min(...(places.length ? places : [0])) - SNIPPET_CHARACTERS / 3);
  if (from > 0) from = flat.indexOf(" ", from) + 1;
  let until = from + SNIPPET_CHARACTERS;
  if (until < flat.length) until = flat.lastIndexOf(" ", until);
  return `${from > 0 ? "… " : ""}${flat.slice(from, until)}${until < flat.length ? " …" : ""}`;
}

/** Why a moment is an answer, a sentence a line. @param {Moment} moment */
function reasons(moment) {
  const lines = [confidenceText(moment.confidence)];
  if (moment.visualScore !== undefined) lines.push(`Seen: its pictures are ${scoreText(moment.visualScore)} like the question.`);
  if (moment.speechScore !== undefined) lines.push(`Said: its words are ${scoreText(moment.speechScore)} like the question.`);
  if (moment.textScore !== undefined) lines.push(`Written: its text is ${scoreText(moment.textScore)} like the question.`);
  for (const word of (moment.matchedWords ?? []).slice(0, 5)) lines.push(`“${bare(word.text ?? "")}” is said at ${clock(secondsOf(word.span?.startOffset))}.`);
  for (const line of (moment.matchedText ?? []).slice(0, 3)) lines.push(`“${line.text}” stands in the picture at ${clock(secondsOf(line.span?.startOffset))}.`);
  if (!moment.final) lines.push("The video is live: this moment may still change.");
  if (moment.startTime) lines.push(`Recorded ${wallClock(moment.startTime)}.`);
  return lines;
}

/** The scores of the channels that found a moment, in a few letters. @param {Moment} moment */
function scores(moment) {
  const text = (/** @type {string} */ name, /** @type {JsonNumber | undefined} */ score) => (score === undefined ? "" : `${name} ${scoreText(score)}`);
  return [text("seen", moment.visualScore), text("said", moment.speechScore), text("written", moment.textScore)].filter(Boolean).join(" · ");
}

/**
 * The picture of a moment; under the pointer it shows the pictures around it, and how close each is to the question.
 * @param {Moment} moment @param {Question} question @param {AbortSignal} signal
 */
export function shot(moment, question, signal) {
  const [start, end] = spanOf(moment);
  const video = { videoId: moment.videoId ?? "", collection: moment.collection };
  const image = h("img", { alt: "", loading: "lazy", decoding: "async", width: 320, height: 180 });
  const tile = h("span", { class: "tile" });
  const scrub = h("span", { class: "scrub", "aria-hidden": "true" }, tile);
  const figure = h("span", { class: "shot" }, image, scrub, h("span", { class: "time" }, spanText(start, end)));
  if (moment.bestFrameOffset === undefined) figure.classList.add("sound");
  else whenNear(figure, signal, () => void showPicture(image, frameUrl(video, secondsOf(moment.bestFrameOffset)), signal));
  const [from, until] = [Math.max(0, start - STRIP_MARGIN_SECONDS), end + STRIP_MARGIN_SECONDS];
  let asked = false;
  figure.addEventListener("pointermove", async (event) => {
    if (event.pointerType === "touch") return;
    const place = Math.min(0.999, Math.max(0, event.offsetX / figure.clientWidth));
    scrub.style.setProperty("--place", `${place * 100}%`);
    const picture = Math.floor(place * STRIP_PICTURES);
    tile.style.setProperty("background-position", `${(picture / (STRIP_PICTURES - 1)) * 100}% 50%`);
    if (asked || moment.bestFrameOffset === undefined) return;
    asked = true;
    if (question.text && moment.visualScore !== undefined) void drawCurve(figure, video, question, from, until, signal);
    const strip = new Image();
    if (await showPicture(strip, stripUrl(video, from, until, STRIP_PICTURES), signal)) {
      await strip.decode();
      tile.style.setProperty("aspect-ratio", `${strip.naturalWidth / STRIP_PICTURES} / ${strip.naturalHeight}`);
      tile.style.setProperty("background-image", `url("${strip.src}")`);
      tile.style.setProperty("background-size", `${STRIP_PICTURES * 100}% 100%`);
    }
  });
  return figure;
}

/**
 * Draw the similarity of the pictures around a moment along the bottom of its picture.
 * @param {HTMLElement} figure @param {{videoId: string, collection?: string}} video @param {Question} question @param {number} start @param {number} end @param {AbortSignal} signal
 */
async function drawCurve(figure, video, question, start, end, signal) {
  const span = { startOffset: durationOf(start), endOffset: durationOf(end) };
  const response = await call("SearchService/GetSimilarityCurve", { query: queryOf({ ...question, channel: "seen" }), ...video, span, pointCount: CURVE_POINTS }, signal).catch(() => undefined);
  const points = response?.visualPoints ?? [];
  if (points.length < 2) return;
  const canvas = h("canvas", { width: CURVE_POINTS * 4, height: 24, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  if (!context) return;
  context.fillStyle = colour("--accent");
  for (const point of points) {
    const left = ((secondsOf(point.offset) - start) / (end - start)) * canvas.width;
    const tall = Math.max(1, Number(point.score) * canvas.height);
    context.fillRect(left - 1, canvas.height - tall, canvas.width / points.length, tall);
  }
  figure.append(canvas);
}

/** Call once an element is near the screen. @param {Element} element @param {AbortSignal} signal @param {() => void} action */
export function whenNear(element, signal, action) {
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    action();
  }, { rootMargin: "400px" });
  observer.observe(element);
  signal.addEventListener("abort", () => observer.disconnect());
}

/**
 * @param {Moment} moment @param {Question} question @param {AbortSignal} signal
 * @returns {HTMLElement}
 */
export function momentCard(moment, question, signal) {
  const [start, end] = spanOf(moment);
  const words = (moment.matchedWords ?? []).map((word) => word.text ?? "");
  const name = nameOf(moment.uri, moment.videoId);
  const written = (moment.matchedText ?? [])[0]?.text;
  const said = snippet(moment.transcript ?? "", words);
  const { kind, word } = VERDICTS[moment.verdict ?? ""] ?? VERDICTS.VERDICT_NO_MATCH;
  const card = h("article", { class: `card ${kind}`, "aria-label": `${word}, ${name}, ${spanText(start, end)}` },
    h("a", { class: "open", href: momentUrl(moment, question), "aria-label": `${spanText(start, end)}, open ${name}` }, shot(moment, question, signal)),
    h("div", { class: "words" },
      h("p", { class: "line" }, verdictChip(moment.verdict, moment.confidence), h("span", { class: "name", title: name }, name)),
      written && h("p", { class: "snippet written" }, ...marked(snippet(written, words), question.text.split(/\s+/))),
      said && h("p", { class: "snippet" }, "“", ...marked(said, words), "”"),
      h("div", { class: "line label" },
        h("span", {}, scores(moment)),
        moment.final === true ? null : h("span", { class: "live" }, "live"),
        h("details", { class: "why" }, h("summary", {}, "why"), h("ul", {}, reasons(moment).map((line) => h("li", {}, line)))),
        h("a", { href: questionUrl({ like: exampleOf(moment.videoId ?? "", start, end), likeCollection: moment.collection ?? "" }), title: "More like this: m", class: "more" }, "similar"))));
  card.dataset.play = momentUrl(moment, question, true);
  return card;
}

/**
 * A video as an answer: its best moment large, the others as times.
 * @param {import("kinodex/v1/search_service_pb").VideoMatchJson} video @param {Question} question @param {AbortSignal} signal
 */
export function videoCard(video, question, signal) {
  const moments = video.moments ?? [];
  const best = moments[0] ?? { videoId: video.videoId, collection: video.collection, uri: video.uri };
  const card = momentCard({ ...best, confidence: video.confidence, verdict: video.verdict }, question, signal);
  const others = moments.slice(1).map((moment) => h("a", { href: momentUrl(moment, question) }, spanText(...spanOf(moment))));
  if (others.length) append(card, h("p", { class: "others label" }, "also ", others.flatMap((link, index) => (index ? [" · ", link] : [link]))));
  return card;
}

/** The collections of the caller, for choices; [] if the server cannot say. @param {AbortSignal} signal @returns {Promise<string[]>} */
export async function collectionNames(signal) {
  try {
    const { collections = [] } = await call("LibraryService/ListCollections", {}, signal);
    return collections.map((/** @type {{collection?: string, name?: string}} */ entry) => entry.collection ?? entry.name ?? "").filter(Boolean);
  } catch {
    return [];
  }
}

