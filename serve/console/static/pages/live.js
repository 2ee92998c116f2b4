/** Live streams as tiles with their newest picture, and a standing question whose moments open and close. */

import { call, frameUrl, showPicture, watch } from "../base/api.js";
import { momentUrl, spanOf, videoUrl } from "../parts/cards.js";
import { append, fill, h, notify } from "../base/dom.js";
import { clock, counted, lengthText, nameOf, percent, secondsOf, spanText, visible, wallClock } from "../base/format.js";
import { go, withParameters } from "../base/router.js";

const REFRESH_MILLISECONDS = 2000;
const RETRY_MILLISECONDS = 3000;  // after a watch ended
const MOST_MOMENTS = 100;  // in the lane of a standing question

/** @type {import("../base/router.js").Page} */
export async function showLive(main, url, signal) {
  const question = (url.searchParams.get("watch") ?? "").trim();
  const tiles = h("div", { class: "answers" });
  const state = h("p", { class: "state", role: "status" });
  const input = h("input", { type: "search", value: question, maxlength: 2000, placeholder: "Watch for …", "aria-label": "A standing question: what to watch for" });
  const lane = h("ol", { class: "lane", "aria-live": "polite", "aria-label": "Moments found" });
  fill(main, h("div", { class: "head" }, h("h1", {}, "Live"),
    h("form", { class: "within", onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); go(withParameters({ watch: input.value.trim() || undefined })); } }, input, h("button", { type: "submit" }, "Watch"))),
  question && h("section", { class: "standing" }, h("h2", {}, `Watching for “${question}”`), lane), state, tiles);
  if (question) void watchFor(question, lane, signal);
  await follow(tiles, state, signal);
}

/** Keep the tiles up to date until the page is left. @param {HTMLElement} tiles @param {HTMLElement} state @param {AbortSignal} signal */
async function follow(tiles, state, signal) {
  const known = /** @type {Map<string, Tile>} */ (new Map());
  while (!signal.aborted) {
    const { streams = [] } = await call("ServerService/ListStreams", { includeEnded: true }, signal);
    const present = new Set();
    for (const stream of streams) {
      const key = `${stream.collection}/${stream.streamId}`;
      present.add(key);
      let tile = known.get(key);
      if (!tile) {
        tile = new Tile(signal);
        known.set(key, tile);
        append(tiles, tile.element);
      }
      tile.show(stream);
    }
    for (const [key, tile] of known) {
      if (!present.has(key)) {
        tile.element.remove();
        known.delete(key);
      }
    }
    if (streams.length) fill(state, counted(streams.length, "stream"));
    else if (!tiles.querySelector(".empty")) fill(tiles, h("section", { class: "empty" }, h("h2", {}, "No stream is live"), h("p", {}, "Send one through Kafka:"), h("pre", { tabindex: "0" }, "kinodex publish rtsp://camera.local/1 --stream door --kafka localhost:9092")));
    if (streams.length) tiles.querySelector(".empty")?.remove();
    await pause(REFRESH_MILLISECONDS, signal);
  }
}

/** @param {number} milliseconds @param {AbortSignal} signal */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = window.setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { window.clearTimeout(timer); resolve(undefined); });
  });
}

class Tile {
  /** @param {AbortSignal} signal */
  constructor(signal) {
    this.signal = signal;
    this.image = h("img", { alt: "", width: 320, height: 180 });
    this.badge = h("span", { class: "time" });
    this.link = h("a", { class: "open" }, h("span", { class: "shot" }, this.image, this.badge));
    this.words = h("div", { class: "words" });
    this.element = h("article", { class: "card" }, this.link, this.words);
    this.newest = -1;
  }

  /** @param {import("kinodex/v1/server_service_pb").LiveStreamJson} stream */
  show(stream) {
    const video = { videoId: stream.streamId ?? "", collection: stream.collection };
    const end = secondsOf(stream.endOffset);
    const name = visible(video.videoId);
    const isLive = stream.state === "STATE_LIVE";
    this.link.href = videoUrl(video, { start: Math.max(0, end - 10) });
    this.link.setAttribute("aria-label", `Open ${name}`);
    fill(this.badge, clock(end));
    const lag = stream.lag === undefined ? undefined : secondsOf(stream.lag);
    fill(this.words,
      h("p", { class: "line" }, isLive ? h("span", { class: "live label" }, "● live") : h("span", { class: "label" }, "ended"), h("span", { class: "name", title: name }, name)),
      h("p", { class: "label" }, [
        lag !== undefined && `${lengthText(lag)} behind`, stream.watermarkOffset && `final to ${clock(secondsOf(stream.watermarkOffset))}`, stream.latestPictureTime && wallClock(stream.latestPictureTime),
      ].filter(Boolean).join(" · ")),
      stream.lastError && h("p", { class: "label failed" }, stream.lastError));
    const newest = secondsOf(stream.latestPictureOffset);
    if (stream.latestPictureOffset && newest > this.newest) {
      this.newest = newest;
      void showPicture(this.image, frameUrl(video, newest), this.signal);
    }
  }
}

/** Show the moments of a standing question as they open and close. @param {string} question @param {HTMLElement} lane @param {AbortSignal} signal */
async function watchFor(question, lane, signal) {
  const items = /** @type {Map<string, HTMLElement>} */ (new Map());
  while (!signal.aborted) {
    try {
      for await (const change of watch("SearchService/WatchMoments", { query: { text: question } }, signal)) {
        if (!change.moment) {
          if (!lane.childElementCount) fill(lane, h("li", { class: "label" }, "Watching. Moments appear here as they begin."));
          continue;
        }
        const item = items.get(change.momentId) ?? h("li", {});
        if (!items.has(change.momentId)) {
          lane.querySelector("li.label")?.remove();
          lane.prepend(item);
          items.set(change.momentId, item);
          if (lane.childElementCount > MOST_MOMENTS) lane.lastElementChild?.remove();
        }
        showChange(item, change, signal);
      }
    } catch (error) {
      if (signal.aborted) return;
      notify(`The watch ended: ${error instanceof Error ? error.message : error}. It begins again.`, { alarm: true, seconds: 3 });
    }
    await pause(RETRY_MILLISECONDS, signal);
  }
}

/** @param {HTMLElement} item @param {any} change @param {AbortSignal} signal */
function showChange(item, change, signal) {
  const { moment } = change;
  const open = change.state !== "STATE_CLOSED";
  const [start, end] = spanOf(moment);
  const image = h("img", { alt: "", width: 96, height: 54 });
  if (moment.bestFrameOffset !== undefined) void showPicture(image, frameUrl({ videoId: moment.videoId, collection: moment.collection }, secondsOf(moment.bestFrameOffset)), signal);
  item.className = open ? "open" : "closed";
  fill(item, h("a", { href: momentUrl(moment) }, image, h("span", {},
    h("span", { class: open ? "live" : "label" }, open ? "● open" : "closed"), ` ${nameOf(moment.uri, moment.videoId)} `,
    h("span", { class: "label" }, `${spanText(start, end)} · ${percent(moment.confidence)}${moment.startTime ? ` · ${wallClock(moment.startTime)}` : ""}`),
    moment.transcript && h("span", { class: "label" }, ` “${moment.transcript}”`))));
}
