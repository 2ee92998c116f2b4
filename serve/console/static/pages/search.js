/** The search page: one box, answers as pictures, a line below the last that probably fits. */

import { ApiError, call } from "../base/api.js";
import { collectionNames, momentCard, videoCard } from "../parts/cards.js";
import { append, byId, copy, fill, h, notify } from "../base/dom.js";
import { VERDICTS, clock, counted } from "../base/format.js";
import { addPicture, pictureIn, pictureUrl } from "../base/pictures.js";
import { CHANNELS, asks, byHand, questionUrl, readExample, readQuestion, requestOf } from "../base/questions.js";
import { failureCard, go, setTitle } from "../base/router.js";

const PAGE_SIZE = 24;  // two to four screens of cards

/** @typedef {import("../base/questions.js").Question} Question */

/** @type {import("../base/router.js").Page} */
export async function showSearch(main, url, signal) {
  const question = readQuestion(url.searchParams);
  byId("question", HTMLInputElement).value = question.text;
  if (!asks(question)) {
    await showStart(main, signal);
    return;
  }
  setTitle(question.text || "Search by example");
  const answers = h("div", { class: "answers" });
  const state = h("p", { class: "state", role: "status" }, "Searching …");
  fill(main, h("h1", { class: "sr" }, "Answers"), filters(question, signal), example(question), h("div", { class: "summary" }, state, hand(question)), answers);
  if (question.picture && !pictureUrl(question.picture)) {
    fill(state, "This tab does not have the picture of this address. Drop it here again.");
    return;
  }
  await new Answers(question, answers, state, signal).load();
}

/** Loads the pages of answers as one scrolls. */
class Answers {
  /** @param {Question} question @param {HTMLElement} list @param {HTMLElement} state @param {AbortSignal} signal */
  constructor(question, list, state, signal) {
    this.question = question;
    this.list = list;
    this.state = state;
    this.signal = signal;
    this.counts = /** @type {Record<string, number>} */ ({});
    this.shown = 0;
    this.divided = false;
    this.pageToken = "";
  }

  async load() {
    const { question, signal } = this;
    const method = question.by === "video" ? "SearchVideos" : "SearchMoments";
    const begun = performance.now();
    const response = await call(`SearchService/${method}`, { ...requestOf(question, PAGE_SIZE), pageToken: this.pageToken }, signal);
    const seconds = (performance.now() - begun) / 1000;
    const found = response.moments ?? response.videos ?? [];
    for (const answer of found) this.add(answer);
    this.pageToken = response.nextPageToken ?? "";
    this.describe(response, seconds);
    if (this.pageToken && !this.finished()) this.offerMore();
  }

  /** Whether everything that fits is shown and the reader asked for nothing else. */
  finished() {
    return this.question.sure === "match" && this.divided;
  }

  /** @param {any} answer */
  add(answer) {
    const { kind } = VERDICTS[answer.verdict] ?? VERDICTS.VERDICT_NO_MATCH;
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    if (kind === "none" && !this.divided) {
      this.divided = true;
      if (this.question.sure !== "match") append(this.list, h("p", { class: "divider" }, h("span", {}, "probably not what you asked for")));
    }
    if (kind !== "match" && this.question.sure === "match") return;
    this.shown += 1;
    append(this.list, this.question.by === "video" ? videoCard(answer, this.question, this.signal) : momentCard(answer, this.question, this.signal));
  }

  /** @param {any} response @param {number} seconds */
  describe(response, seconds) {
    const noun = this.question.by === "video" ? "video" : "moment";
    const parts = [`${counted(this.shown, noun)}${this.pageToken ? " so far" : ""}`];
    if (this.counts.match) parts.push(`${this.counts.match} MATCH`);
    if (this.counts.weak) parts.push(`${this.counts.weak} WEAK`);
    parts.push(`in ${seconds.toFixed(2)} s`);
    fill(this.state, this.shown ? parts.join(" · ") : "");
    if (!this.shown) append(this.list, nothingFound(this.question, this.divided));
    else if (!this.counts.match && !this.counts.weak) fill(this.state, "Nothing here fits. These are the nearest.");
    const missing = (response.degradedChannels ?? []).map((/** @type {string} */ channel) => Object.values(CHANNELS).find((entry) => entry.channel === channel)?.label.toLowerCase() ?? channel);
    if (missing.length) append(this.state, h("span", { class: "warning" }, ` · not searched: what is ${missing.join(" and ")}`));
    if (response.liveIsBehind) append(this.state, h("span", { class: "warning" }, " · live videos are behind: the server does not reach Kafka"));
  }

  offerMore() {
    const button = h("button", { type: "button", class: "load" }, "More");
    append(this.list, button);
    const load = async () => {
      observer.disconnect();
      button.disabled = true;
      try {
        await this.load();
        button.remove();
      } catch (error) {
        if (!this.signal.aborted) button.replaceWith(failureCard(error));
      }
    };
    const observer = new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) void load(); }, { rootMargin: "600px" });
    observer.observe(button);
    button.addEventListener("click", load);
    this.signal.addEventListener("abort", () => observer.disconnect());
  }
}

/** @param {Question} question @param {boolean} divided */
function nothingFound(question, divided) {
  return h("section", { class: "empty" },
    h("h2", {}, divided ? "Nothing here is a sure match" : "Nothing found"),
    divided ? h("p", {}, h("a", { href: questionUrl({ ...question, sure: "" }) }, "Show the nearest answers"))
      : h("p", {}, "No video passes the filters. ", h("a", { href: questionUrl({ text: question.text, like: question.like, likeCollection: question.likeCollection, picture: question.picture }) }, "Ask without them"), "."));
}

/** The example of a question: a picture, or a moment of a video. @param {Question} question */
function example(question) {
  const without = (/** @type {Partial<Question>} */ change) => h("a", { href: questionUrl({ ...question, ...change }), class: "remove", "aria-label": "Search without it" }, "×");
  const moment = readExample(question.like);
  return h("div", { class: "examples" },
    question.picture && pictureUrl(question.picture) && h("span", { class: "chip" }, h("img", { src: pictureUrl(question.picture), alt: "The picture of the question" }), "like this picture", without({ picture: "" })),
    moment && h("span", { class: "chip" }, `like ${moment.videoId.slice(0, 12)} at ${clock(moment.start)}`, without({ like: "", likeCollection: "" })));
}

/** @param {Question} question */
function hand(question) {
  return h("details", { class: "hand" }, h("summary", {}, "by hand"),
    h("div", { class: "panel" }, byHand(question).map(({ name, text }) => h("div", {},
      h("p", { class: "line label" }, `as ${name}`, h("button", { type: "button", onclick: () => void copy(text, `the ${name}`) }, "copy")),
      h("pre", { tabindex: "0" }, text)))));
}

/** The row of filters. Each choice is a new address. @param {Question} question @param {AbortSignal} signal */
function filters(question, signal) {
  const change = (/** @type {Partial<Question>} */ part) => go(questionUrl({ ...question, ...part }));
  const collection = h("select", { "aria-label": "Collection", onchange: () => change({ collection: collection.value }) },
    h("option", { value: "" }, "All collections"), question.collection && h("option", { value: question.collection, selected: true }, question.collection));
  void collectionNames(signal).then((names) => {
    for (const name of names) if (name !== question.collection) append(collection, h("option", { value: name }, name));
  });
  const date = (/** @type {"since" | "until"} */ key, /** @type {string} */ label) => {
    const input = h("input", { type: "date", value: question[key], "aria-label": label, onchange: () => change({ [key]: input.value }) });
    return h("label", { class: "date" }, h("span", {}, label), input);
  };
  const exclude = h("input", { type: "text", value: question.exclude, maxlength: 2000, placeholder: "but not …", "aria-label": "What answers must not show or say", onchange: () => change({ exclude: exclude.value.trim() }) });
  return h("div", { class: "filters", role: "group", "aria-label": "Filters" },
    choice("Where to look", Object.entries(CHANNELS).map(([key, { label }]) => ({ label, on: key === question.channel, href: questionUrl({ ...question, channel: key }) }))),
    choice("Answers", [{ label: "Moments", on: question.by === "moment", href: questionUrl({ ...question, by: "moment" }) }, { label: "Videos", on: question.by === "video", href: questionUrl({ ...question, by: "video" }) }]),
    choice("How sure", [{ label: "All", on: !question.sure, href: questionUrl({ ...question, sure: "" }) }, { label: "MATCH only", on: question.sure === "match", href: questionUrl({ ...question, sure: "match" }) }]),
    collection, exclude, date("since", "Recorded since"), date("until", "until"));
}

/** @param {string} label @param {{label: string, on: boolean, href: string}[]} entries */
function choice(label, entries) {
  return h("div", { class: "choice", role: "group", "aria-label": label }, entries.map((entry) => h("a", { href: entry.href, "aria-current": entry.on && "true" }, entry.label)));
}

/** The page before a question: what the library holds, or how to fill it. @param {HTMLElement} main @param {AbortSignal} signal */
async function showStart(main, signal) {
  setTitle("");
  byId("question", HTMLInputElement).focus({ preventScroll: true });
  const { videos = [] } = await call("LibraryService/ListVideos", { pageSize: 12 }, signal);
  const ready = videos.filter((/** @type {{state: string}} */ video) => video.state === "STATE_READY");
  if (!videos.length) {
    fill(main, emptyLibrary());
    return;
  }
  const cards = ready.map((/** @type {any} */ video) => momentCard({ videoId: video.videoId, collection: video.collection, uri: video.uri, span: { startOffset: "0s", endOffset: video.duration }, bestFrameOffset: "3s", final: !video.live }, readQuestion(new URLSearchParams()), signal));
  for (const card of cards) card.classList.replace("none", "plain");
  fill(main,
    h("section", { class: "hero" }, h("h1", {}, "What do you want to see or hear?"),
      h("p", {}, "Ask in words: “a red car by the sea”, “when does she mention Paris?”. Drop or paste a picture to find what looks like it.")),
    h("h2", { class: "heading" }, "In this library ", h("a", { href: "/library" }, "all videos")),
    h("div", { class: "answers" }, cards));
}

/** The three ways to fill a library. */
export function emptyLibrary() {
  const line = (/** @type {string} */ text, /** @type {string} */ command) => h("li", {}, text, h("pre", { tabindex: "0" }, command));
  return h("section", { class: "empty" }, h("h1", {}, "This library is empty"), h("ol", {},
    line("Index files or folders on the server's machine:", "kinodex index ~/Videos"),
    h("li", {}, "Drop videos on the ", h("a", { href: "/library" }, "library page"), " to upload them."),
    line("Follow a live stream, with Kafka:", "kinodex publish rtsp://camera.local/1 --stream door")));
}

/** Take a picture from a file chooser, a drop or the clipboard as the question. @param {File | undefined} file */
export async function searchByPicture(file) {
  if (!file) return;
  try {
    const question = readQuestion(new URL(location.href).searchParams);
    const isSearch = location.pathname === "/";
    go(questionUrl({ ...(isSearch ? question : {}), like: "", likeCollection: "", text: "", picture: await addPicture(file) }));
  } catch (error) {
    notify(error instanceof RangeError || error instanceof ApiError ? error.message : "That picture cannot be read.", { alarm: true });
  }
}

/** Wire the box, the picture button, drops and pastes. They stand on every page. */
export function wireAsk() {
  const input = byId("question", HTMLInputElement);
  byId("ask", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = readQuestion(new URL(location.href).searchParams);
    const kept = location.pathname === "/" ? asked : readQuestion(new URLSearchParams());
    const next = { ...kept, text: input.value.trim() };
    if (asks(next)) go(questionUrl(next));
    else go("/");
    input.blur();
  });
  const chooser = h("input", { type: "file", accept: "image/*", hidden: true, onchange: () => void searchByPicture(chooser.files?.[0]) });
  document.body.append(chooser);
  byId("picture", HTMLButtonElement).addEventListener("click", () => chooser.click());
  window.addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (file) void searchByPicture(file);
  });
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    const file = pictureIn(event.dataTransfer);
    if (file) void searchByPicture(file);
  });
}

