/** The page of one video: the player at the moment, the timeline under it, and beside it what is said, shown and known. */

import { call, clipPath, frameUrl, showPicture, signedUrl, stripUrl } from "../base/api.js";
import { videoUrl, whenNear } from "../parts/cards.js";
import { loadTimeline } from "../parts/curve.js";
import { append, copy, fill, h, notify } from "../base/dom.js";
import { clock, counted, lengthText, nameOf, secondsOf, spanText, wallClock } from "../base/format.js";
import { bindKeys } from "../base/keys.js";
import { Player } from "../parts/player.js";
import { exampleOf, questionUrl, readQuestion } from "../base/questions.js";
import { go, note, setTitle } from "../base/router.js";
import { Timeline, fillSelection } from "../parts/timeline.js";
import { Transcript } from "../parts/transcript.js";

/** @typedef {import("kinodex/v1/library_service_pb").VideoJson} Video */

/** @type {import("../base/router.js").Page} */
export async function showVideo(main, url, signal) {
  const parameters = url.searchParams;
  const reference = { videoId: decodeURIComponent(url.pathname.slice("/video/".length)), collection: parameters.get("collection") || undefined };
  const { video } = await call("LibraryService/GetVideo", reference, signal);
  setTitle(nameOf(video.uri, video.videoId));
  const view = new VideoPage(video, parameters, signal);
  fill(main, view.element);
  await view.load();
}

class VideoPage {
  /** @param {Video} video @param {URLSearchParams} parameters @param {AbortSignal} signal */
  constructor(video, parameters, signal) {
    this.video = video;
    this.reference = { videoId: video.videoId ?? "", collection: video.collection };
    this.signal = signal;
    this.question = readQuestion(parameters);
    this.start = Number(parameters.get("t")) || 0;
    this.end = Number(parameters.get("end")) || 0;
    this.plays = parameters.get("play") === "1";
    this.tab = parameters.get("tab") ?? "transcript";
    const duration = secondsOf(video.duration);
    this.player = new Player(this.reference, duration, (seconds) => this.passed(seconds), signal);
    this.timeline = new Timeline(duration, { onseek: (seconds) => this.player.seek(seconds), onselect: (start, end) => this.select(start, end) }, signal);
    this.transcript = new Transcript(this.reference, { onseek: (seconds) => this.player.seek(seconds), onselect: (start, end) => this.select(start, end) }, signal);
    this.selection = h("div", { class: "selection buttons", "aria-label": "Selected part", role: "group" });
    this.side = h("section", { class: "side" });
    this.element = this.build();
  }

  build() {
    const { video } = this;
    const name = nameOf(video.uri, video.videoId);
    const ask = h("input", { type: "search", value: this.question.text, placeholder: "Find in this video", "aria-label": "Find in this video", maxlength: 2000 });
    return h("div", { class: "video" },
      h("div", { class: "stage" },
        h("div", { class: "line" }, h("h1", { title: name }, name), video.live && h("span", { class: "live" }, "live"),
          this.question.text && h("a", { href: questionUrl(this.question) }, "all answers")),
        this.player.element,
        h("form", { class: "within", role: "search", "aria-label": "This video", onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); go(videoUrl(this.reference, { start: this.player.now, question: { ...this.question, text: ask.value.trim() } })); } }, ask, h("button", { type: "submit" }, "Find")),
        this.timeline.element, this.selection),
      this.side);
  }

  async load() {
    if (this.video.state !== "STATE_READY") {
      fill(this.side, about(this.video));
      fill(this.selection, h("p", {}, this.video.state === "STATE_FAILED" ? `It could not be indexed: ${this.video.failure?.message ?? ""}` : "It is being indexed."));
      return;
    }
    this.bind();
    this.showTab();
    if (Number(this.video.frameCount ?? 0)) this.timeline.showFilm((image, start, end, count) => showPicture(image, stripUrl(this.reference, start, end, count), this.signal));
    if (this.end > this.start) this.select(this.start, this.end);
    await Promise.all([
      this.player.open(this.start, this.plays),
      loadTimeline(this.video, this.question, this.timeline, this.signal).then((chapters) => { this.chapters = chapters; if (this.tab === "chapters") this.showTab(); }),
      this.transcript.load(this.question.text, this.start),
    ]);
  }

  /** @param {number} seconds */
  passed(seconds) {
    this.timeline?.moveTo(seconds);
    this.transcript?.follow(seconds);
  }

  /** @param {number} start @param {number} end */
  select(start, end) {
    [this.start, this.end] = [start, end];
    this.timeline.select(start, end);
    note({ t: start.toFixed(1), end: end.toFixed(1), play: undefined });
    const button = (/** @type {string} */ text, /** @type {() => unknown} */ action) => h("button", { type: "button", onclick: () => void action() }, text);
    fillSelection(this.selection, start, end, [
      button("Play loop", () => this.player.repeat(start, end)),
      button("Copy link", () => this.copyLink()),
      button("Download clip", () => this.download()),
      h("a", { class: "button", href: questionUrl({ like: exampleOf(this.reference.videoId, start, end), likeCollection: this.reference.collection ?? "" }) }, "More like this"),
      button("Copy command", () => copy(`kinodex clip ${this.reference.videoId} ${clock(start)}-${clock(Math.ceil(end))} -o clip.mp4`, "the command")),
      button("Clear", () => this.clear()),
    ]);
  }

  clear() {
    this.end = 0;
    this.player.loop = null;
    this.timeline.select(0, 0);
    note({ end: undefined });
    fill(this.selection);
  }

  async copyLink() {
    note({ t: (this.end > this.start ? this.start : this.player.now).toFixed(1) });
    await copy(location.href, "the link");
  }

  async download() {
    try {
      const url = await signedUrl(clipPath(this.reference, this.start, this.end), this.signal);
      h("a", { href: url, download: `${nameOf(this.video.uri, this.video.videoId).replace(/\.[^.]*$/, "")}_${clock(this.start).replaceAll(":", ".")}.mp4` }).click();
    } catch (error) {
      notify(error instanceof Error ? error.message : "The clip could not be made.", { alarm: true });
    }
  }

  bind() {
    const edge = (/** @type {"start" | "end"} */ side) => () => {
      const now = this.player.now;
      const [start, end] = side === "start" ? [now, Math.max(this.end, now + 1)] : [Math.min(this.start, Math.max(0, now - 1)), now];
      this.select(start, end);
    };
    bindKeys([
      { keys: ["Space"], does: "play, pause", action: (event) => event.target instanceof HTMLButtonElement || event.target instanceof HTMLVideoElement ? false : this.player.toggle() },
      { keys: ["ArrowLeft", "ArrowRight"], does: "one second back, on", action: (event) => event.target instanceof HTMLInputElement ? false : this.player.seek(this.player.now + (event.key === "ArrowRight" ? 1 : -1)) },
      { keys: ["["], does: "selection begins here", action: edge("start") },
      { keys: ["]"], does: "selection ends here", action: edge("end") },
      { keys: ["c"], does: "copy a link to this moment", action: () => this.copyLink() },
      { keys: ["d"], does: "download the selection as a clip", action: () => (this.end > this.start ? this.download() : false) },
      { keys: ["m"], does: "more like the selection", action: () => (this.end > this.start ? go(questionUrl({ like: exampleOf(this.reference.videoId, this.start, this.end), likeCollection: this.reference.collection ?? "" })) : false) },
      { keys: ["+", "-"], does: "zoom the timeline", action: (event) => this.timeline.zoom(event.key === "+" ? 0.5 : 2) },
    ], this.signal);
  }

  showTab() {
    const tabs = [["transcript", "Transcript"], ["chapters", "Chapters"], ["about", "About"]];
    const list = h("div", { class: "tabs", role: "tablist" }, tabs.map(([key, label]) => h("button", {
      type: "button", role: "tab", "aria-selected": String(key === this.tab), onclick: () => { this.tab = key; note({ tab: key === "transcript" ? undefined : key }); this.showTab(); },
    }, label)));
    const panel = h("div", { class: "panel", role: "tabpanel", tabindex: "0", "aria-label": this.tab });
    if (this.tab === "chapters") append(panel, this.chapterList());
    else if (this.tab === "about") append(panel, about(this.video));
    else append(panel, this.transcript.element);
    fill(this.side, list, panel);
  }

  chapterList() {
    const { chapters } = this;
    if (!chapters) return h("p", { class: "label" }, "Loading …");
    return h("ol", { class: "chapters" }, chapters.map((chapter) => {
      const [start, end] = [secondsOf(chapter.span?.startOffset), secondsOf(chapter.span?.endOffset)];
      const image = h("img", { alt: "", width: 120, height: 68, loading: "lazy" });
      if (chapter.bestFrameOffset !== undefined) whenNear(image, this.signal, () => void showPicture(image, frameUrl(this.reference, secondsOf(chapter.bestFrameOffset)), this.signal));
      return h("li", {}, h("button", { type: "button", onclick: () => this.player.seek(start) }, image, h("span", {}, h("span", { class: "label" }, spanText(start, end)), h("br"), chapter.title || "(nothing is said)")));
    }));
  }
}

/** What is known about a video. @param {Video} video */
function about(video) {
  const rows = /** @type {[string, any][]} */ ([
    ["From", video.uri], ["Id", video.videoId], ["Collection", video.collection], ["Length", lengthText(secondsOf(video.duration))],
    ["Recorded", video.startTime && wallClock(video.startTime)], ["Indexed", video.indexTime && wallClock(video.indexTime)],
    ["Pictures", counted(Number(video.frameCount ?? 0), "picture")], ["Speech", counted(Number(video.utteranceCount ?? 0), "utterance")],
    ...Object.entries(video.metadata ?? {}), ["SHA-256", video.contentSha256],
  ]);
  return h("div", {},
    h("dl", { class: "facts" }, rows.filter(([, value]) => value).flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
    (video.warnings ?? []).map((warning) => h("p", { class: "warning" }, warning)));
}
