/** The review queue: one event large, the others at the side, and a key for each judgement. */

import { call, frameUrl, showPicture, stripUrl, watch } from "../base/api.js";
import { videoUrl } from "../parts/cards.js";
import { fill, h, notify } from "../base/dom.js";
import { confidenceText, counted, nameOf, percent, secondsOf, spanText, wallClock } from "../base/format.js";
import { bindKeys } from "../base/keys.js";
import { go, note, withParameters } from "../base/router.js";

const PAGE_SIZE = 200;
const STRIP_PICTURES = 6;
const RETRY_MILLISECONDS = 3000;  // after the stream of changes ended

/** States of a review by the word of the address. */
const REVIEWS = /** @type {Record<string, {label: string, states: string[]}>} */ ({
  "": { label: "To review", states: ["STATE_PENDING"] },
  approved: { label: "Approved", states: ["STATE_APPROVED"] },
  dismissed: { label: "Dismissed", states: ["STATE_DISMISSED"] },
  all: { label: "All", states: [] },
});

/** @type {import("../base/router.js").Page} */
export async function showEvents(main, url, signal) {
  const queue = new Queue(url.searchParams, signal);
  fill(main, queue.element);
  await queue.load();
  await queue.follow();
}

class Queue {
  /** @param {URLSearchParams} parameters @param {AbortSignal} signal */
  constructor(parameters, signal) {
    this.signal = signal;
    this.review = (parameters.get("review") ?? "") in REVIEWS ? parameters.get("review") ?? "" : "";
    this.policy = parameters.get("policy") ?? "";
    this.chosen = parameters.get("event") ?? "";
    this.events = /** @type {any[]} */ ([]);
    this.marked = /** @type {Set<string>} */ (new Set());
    this.shown = "";  // the event and its state as they stand on the stage
    this.list = h("ol", { class: "queue", "aria-label": "Events" });
    this.stage = h("section", { class: "event", "aria-live": "polite" });
    this.policies = h("section", { class: "policies" });
    this.summary = h("p", { class: "state", role: "status" }, "Loading …");
    this.element = h("div", {}, h("div", { class: "head" }, h("h1", {}, "Events"), this.filters()), this.summary,
      h("div", { class: "review" }, this.stage, this.list), this.policies);
    this.bind();
  }

  filters() {
    return h("div", { class: "choice", role: "group", "aria-label": "Reviews" }, Object.entries(REVIEWS).map(([key, { label }]) =>
      h("a", { href: withParameters({ review: key, event: undefined }).href, "aria-current": key === this.review && "true" }, label)));
  }

  bind() {
    bindKeys([
      { keys: ["j"], does: "next event", action: () => this.step(1) },
      { keys: ["k"], does: "event before", action: () => this.step(-1) },
      { keys: ["a"], does: "approve: it is what the policy means", action: () => void this.judge("STATE_APPROVED") },
      { keys: ["d"], does: "dismiss: it is not", action: () => void this.judge("STATE_DISMISSED") },
      { keys: ["x"], does: "mark for a judgement of several", action: () => this.mark(this.chosen) },
      { keys: ["Enter"], does: "open the video", action: (event) => { if (event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement) return false; const present = this.present(); return present ? go(eventUrl(present)) : false; } },
    ], this.signal);
  }

  async load() {
    const filter = { policyIds: this.policy ? [this.policy] : [], reviewStates: REVIEWS[this.review].states };
    const [{ events = [], nextPageToken }, policies] = await Promise.all([
      call("ModerationService/ListEvents", { filter, pageSize: PAGE_SIZE }, this.signal), call("ModerationService/ListPolicies", {}, this.signal),
    ]);
    this.events = events;
    this.more = Boolean(nextPageToken);
    this.showPolicies(policies);
    this.show();
  }

  /** Take in changes of events until the page is left. */
  async follow() {
    while (!this.signal.aborted) {
      try {
        for await (const { event } of watch("ModerationService/WatchEvents", { filter: { policyIds: this.policy ? [this.policy] : [] } }, this.signal)) if (event) this.take(event);
      } catch {
        if (this.signal.aborted) return;
      }
      await new Promise((resolve) => window.setTimeout(resolve, RETRY_MILLISECONDS));
    }
  }

  /** @param {any} event */
  take(event) {
    const { states } = REVIEWS[this.review];
    const fits = !states.length || states.includes(event.review?.state ?? "STATE_PENDING");
    const place = this.events.findIndex((other) => other.eventId === event.eventId);
    if (place >= 0 && fits) this.events[place] = event;
    else if (place >= 0 && event.eventId !== this.chosen) this.events.splice(place, 1);
    else if (place < 0 && fits) this.events.push(event);
    this.show();
  }

  present() {
    return this.events.find((event) => event.eventId === this.chosen);
  }

  /** @param {number} by */
  step(by) {
    const place = this.events.findIndex((event) => event.eventId === this.chosen);
    const next = this.events[Math.min(this.events.length - 1, Math.max(0, place + by))];
    if (next) this.choose(next.eventId);
  }

  /** The next event that is not among these, else the one before. @param {string[]} ids */
  after(ids) {
    const place = this.events.findIndex((event) => event.eventId === this.chosen);
    const left = [...this.events.slice(place), ...this.events.slice(0, place).reverse()];
    return left.find((event) => !ids.includes(event.eventId))?.eventId ?? "";
  }

  /** @param {string} id */
  choose(id) {
    this.chosen = id;
    note({ event: id });
    this.show();
    this.list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  /** @param {string} id */
  mark(id) {
    if (this.marked.has(id)) this.marked.delete(id);
    else if (id) this.marked.add(id);
    this.show();
  }

  show() {
    if (!this.present()) this.chosen = this.events[0]?.eventId ?? "";
    fill(this.summary, this.events.length ? `${counted(this.events.length, "event")}${this.more ? " and more" : ""}${this.marked.size ? ` · ${this.marked.size} marked` : ""}` : "");
    fill(this.list, this.events.map((event) => this.item(event)));
    const present = this.present();
    if (!present) {
      fill(this.stage, h("section", { class: "empty" }, h("h2", {}, this.review === "" ? "Nothing to review" : "No events"), h("p", {}, "Policies look for events in videos: see ", h("a", { href: "#policies" }, "those in force"), " below.")));
      this.shown = "";
      return;
    }
    const state = `${present.eventId} ${present.revision ?? ""} ${present.endTime ?? ""} ${present.review?.state} ${this.marked.size} ${JSON.stringify(present.span)}`;
    if (state !== this.shown) this.showEvent(present);
    this.shown = state;
  }

  /** @param {any} event */
  item(event) {
    return h("li", {}, h("button", { type: "button", class: this.marked.has(event.eventId) ? "marked" : "", "aria-current": event.eventId === this.chosen && "true", onclick: () => this.choose(event.eventId) },
      h("span", {}, h("strong", {}, event.label), ` ${percent(event.confidence)}`), h("span", { class: "label" }, `${nameOf(event.uri, event.videoId)} · ${spanText(...spanOfEvent(event))}`)));
  }

  /** @param {any} event */
  showEvent(event) {
    const video = { videoId: event.videoId, collection: event.collection };
    const [start, end] = spanOfEvent(event);
    const strip = h("img", { class: "strip", alt: `Pictures of ${event.label}`, width: 960, height: 90 });
    const picture = h("img", { class: "large", alt: "", width: 640, height: 360 });
    const best = secondsOf(event.bestFrameOffset ?? event.span?.startOffset);
    void showPicture(picture, frameUrl(video, best), this.signal);
    void showPicture(strip, stripUrl(video, start, end, STRIP_PICTURES), this.signal).then((there) => { strip.hidden = !there; });
    const review = event.review ?? {};
    const note = h("input", { type: "text", placeholder: "Note (optional)", "aria-label": "Note", maxlength: 1000, value: review.note ?? "" });
    this.note = note;
    fill(this.stage,
      h("p", { class: "line" }, h("strong", {}, event.label), h("span", { title: confidenceText(event.confidence) }, percent(event.confidence)),
        h("a", { href: eventUrl(event) }, `${nameOf(event.uri, event.videoId)} · ${spanText(start, end)}`), event.startTime && h("span", { class: "label" }, wallClock(event.startTime)),
        event.state && h("span", { class: "label" }, String(event.state).replace("STATE_", "").toLowerCase())),
      picture, strip,
      event.transcript && h("p", { class: "snippet" }, `“${event.transcript}”`),
      h("p", { class: "label" }, `Policy ${event.policyId}${event.actionHint ? ` · ${event.actionHint}` : ""}`),
      review.state && review.state !== "STATE_PENDING" && h("p", { class: "label" }, `${review.state.replace("STATE_", "").toLowerCase()} by ${review.reviewer ?? "?"}${review.reviewTime ? `, ${wallClock(review.reviewTime)}` : ""}${review.note ? `: ${review.note}` : ""}`),
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "first", onclick: () => void this.judge("STATE_APPROVED") }, this.marked.size ? `Approve ${this.marked.size}` : "Approve", h("kbd", {}, "a")),
        h("button", { type: "button", onclick: () => void this.judge("STATE_DISMISSED") }, this.marked.size ? `Dismiss ${this.marked.size}` : "Dismiss", h("kbd", {}, "d")), note));
  }

  /** Judge the marked events, or the present one, and offer to undo it. @param {string} state */
  async judge(state) {
    const ids = this.marked.size ? [...this.marked] : [this.chosen];
    const before = this.events.filter((event) => ids.includes(event.eventId));
    if (!before.length) return;
    if (ids.includes(this.chosen)) this.chosen = this.after(ids);
    const text = this.note?.value.trim() ?? "";
    this.marked.clear();
    try {
      for (const event of before) this.take(await this.send(event, state, text));
      const word = state === "STATE_APPROVED" ? "Approved" : "Dismissed";
      notify(`${word} ${before.length === 1 ? before[0].label : counted(before.length, "event")}.`, { action: "Undo", onaction: () => void this.undo(before) });
    } catch (error) {
      notify(error instanceof Error ? error.message : "The review was not stored.", { alarm: true });
      await this.load();
    }
  }

  /** @param {any} event @param {string} state @param {string} text */
  async send(event, state, text) {
    const response = await call("ModerationService/ReviewEvent", { eventId: event.eventId, state, note: state === "STATE_PENDING" ? undefined : text || undefined }, this.signal);
    return response.event;
  }

  /** @param {any[]} events As they were. */
  async undo(events) {
    for (const event of events) this.take(await this.send(event, event.review?.state ?? "STATE_PENDING", event.review?.note ?? ""));
    this.choose(events[0].eventId);
  }

  /** @param {any} response */
  showPolicies(response) {
    const { policies = [], refused } = response;
    fill(this.policies, h("h2", { id: "policies" }, "Policies in force"),
      refused && h("p", { class: "failed" }, `The newest policy file has a mistake, so the one before holds: ${refused}`),
      !policies.length && h("p", { class: "label" }, "None: the server looks for nothing. Name a policy file in its settings."),
      h("ul", { class: "plainlist" }, policies.map((/** @type {any} */ policy) => h("li", {},
        h("a", { href: withParameters({ policy: policy.policyId === this.policy ? undefined : policy.policyId, event: undefined }).href, "aria-current": policy.policyId === this.policy && "true" }, policy.label),
        h("span", { class: "label" }, ` ${[...(policy.shows ?? []).map((/** @type {string} */ text) => `shows “${text}”`), ...(policy.says ?? []).map((/** @type {string} */ text) => `says “${text}”`)].slice(0, 4).join(" · ")}`),
        policy.visualNote && h("span", { class: "label" }, ` · pictures: ${policy.visualNote}`)))));
  }
}

/** @param {any} event @returns {[number, number]} */
function spanOfEvent(event) {
  return [secondsOf(event.span?.startOffset), secondsOf(event.span?.endOffset)];
}

/** @param {any} event */
function eventUrl(event) {
  const [start, end] = spanOfEvent(event);
  return videoUrl({ videoId: event.videoId, collection: event.collection }, { start, end });
}

