/** The library: every video with its state, uploads, and deletion that can be undone for some seconds. */

import { call, frameUrl, showPicture } from "../base/api.js";
import { collectionNames, videoUrl } from "../parts/cards.js";
import { append, fill, h, icon, notify } from "../base/dom.js";
import { ago, counted, lengthText, nameOf, percent, secondsOf } from "../base/format.js";
import { go, withParameters } from "../base/router.js";
import { upload } from "../base/upload.js";
import { emptyLibrary } from "./search.js";
import { WindowedList } from "../parts/windowed.js";

const PAGE_SIZE = 500;  // videos a call
const ROW_HEIGHT = 72;  // px; style.css has the same
const UNDO_SECONDS = 7;
const REFRESH_MILLISECONDS = 3000;  // while something is being indexed

/** @typedef {import("kinodex/v1/library_service_pb").VideoJson} Video */

/** @type {import("../base/router.js").Page} */
export async function showLibrary(main, url, signal) {
  const library = new Library(url.searchParams.get("collection") ?? "", signal);
  fill(main, library.element);
  await library.load();
}

class Library {
  /** @param {string} collection @param {AbortSignal} signal */
  constructor(collection, signal) {
    this.collection = collection;
    this.signal = signal;
    this.videos = /** @type {Video[]} */ ([]);
    this.pageToken = "";
    this.deleting = /** @type {Set<string>} */ (new Set());
    this.list = new WindowedList(ROW_HEIGHT, (index) => this.row(this.videos[index]), (index) => { if (index > this.videos.length - 50) void this.more(); }, signal);
    this.summary = h("p", { class: "state", role: "status" }, "Loading …");
    this.uploads = h("div", { class: "uploads" });
    this.body = h("div", {});
    this.element = h("div", { class: "library" }, this.head(), this.uploads, this.summary, this.body);
    this.wireDrop();
  }

  head() {
    const chooser = h("input", { type: "file", multiple: true, hidden: true, onchange: () => this.send([...(chooser.files ?? [])]) });
    const collections = h("select", { "aria-label": "Collection", onchange: () => go(withParameters({ collection: collections.value || undefined })) },
      h("option", { value: "" }, "All collections"), this.collection && h("option", { value: this.collection, selected: true }, this.collection));
    void collectionNames(this.signal).then((names) => {
      for (const name of names) if (name !== this.collection) append(collections, h("option", { value: name }, name));
    });
    return h("div", { class: "head" }, h("h1", {}, "Library"), collections, chooser,
      h("button", { type: "button", onclick: () => chooser.click() }, icon("upload"), "Upload videos"),
      h("span", { class: "label" }, "or drop them anywhere on this page"));
  }

  wireDrop() {
    window.addEventListener("drop", (event) => {
      const files = [...(event.dataTransfer?.files ?? [])].filter((file) => !file.type.startsWith("image/"));
      if (files.length) this.send(files);
    }, { signal: this.signal });
  }

  async load() {
    this.pageToken = "";
    const { videos = [], nextPageToken = "" } = await call("LibraryService/ListVideos", this.request(), this.signal);
    this.videos = videos;
    this.pageToken = nextPageToken;
    this.show();
  }

  request() {
    return { pageSize: PAGE_SIZE, collection: this.collection || undefined, pageToken: this.pageToken || undefined };
  }

  async more() {
    if (!this.pageToken || this.loading) return;
    this.loading = true;
    try {
      const { videos = [], nextPageToken = "" } = await call("LibraryService/ListVideos", this.request(), this.signal);
      this.videos.push(...videos);
      this.pageToken = nextPageToken;
      this.show(false);
    } catch (error) {
      if (!this.signal.aborted) notify(error instanceof Error ? error.message : "The next videos cannot be loaded.", { alarm: true });
    } finally {
      this.loading = false;
    }
  }

  show(afresh = true) {
    const seconds = this.videos.reduce((sum, video) => sum + secondsOf(video.duration), 0);
    const working = this.videos.filter((video) => video.state === "STATE_PROCESSING").length;
    const failed = this.videos.filter((video) => video.state === "STATE_FAILED").length;
    fill(this.summary, [
      `${counted(this.videos.length, "video")}${this.pageToken ? " so far" : ""}`, lengthText(seconds),
      working && `${working} being indexed`, failed && `${failed} failed`,
    ].filter(Boolean).join(" · "));
    if (!this.videos.length) fill(this.body, emptyLibrary());
    else if (!this.list.element.isConnected) fill(this.body, this.list.element);
    this.list.setCount(this.videos.length, afresh);
    if (working) this.refreshLater();
  }

  refreshLater() {
    if (this.timer) return;
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      if (!this.signal.aborted) this.load().catch(() => this.refreshLater());
    }, REFRESH_MILLISECONDS);
  }

  /** @param {Video} video */
  row(video) {
    const reference = { videoId: video.videoId ?? "", collection: video.collection };
    const name = nameOf(video.uri, video.videoId);
    const image = h("img", { alt: "", width: 96, height: 54, loading: "lazy" });
    if (video.state === "STATE_READY" && Number(video.frameCount ?? 0)) void showPicture(image, frameUrl(reference, Math.min(3, secondsOf(video.duration) / 2)), this.signal);
    const metadata = Object.entries(video.metadata ?? {}).map(([key, value]) => `${key}: ${value}`).join(" · ");
    const row = h("div", { class: "row" }, image,
      h("div", { class: "what" },
        h("a", { href: videoUrl(reference), title: name }, name),
        h("p", { class: "label" }, [video.collection, metadata, video.warnings?.length && `⚠ ${video.warnings[0]}`].filter(Boolean).join(" · "))),
      h("span", { class: "label length" }, lengthText(secondsOf(video.duration))),
      this.state(video),
      h("button", { type: "button", class: "icon", "aria-label": `Delete ${name}`, title: "Delete", onclick: () => this.remove(video, row) }, icon("trash")));
    if (this.deleting.has(reference.videoId)) row.classList.add("going");
    return row;
  }

  /** @param {Video} video */
  state(video) {
    if (video.live) return h("span", { class: "label live" }, "live");
    if (video.state === "STATE_PROCESSING") {
      return h("span", { class: "label" }, h("progress", { max: 1, value: video.progress ?? 0, "aria-label": "Indexed" }), ` ${percent(video.progress)}`);
    }
    if (video.state === "STATE_FAILED") return h("span", { class: "label failed", title: video.failure?.message }, `failed: ${video.failure?.message ?? ""}`);
    return h("span", { class: "label" }, video.indexTime ? ago(video.indexTime) : "");
  }

  /** Delete a video in some seconds, unless the reader undoes it. @param {Video} video @param {HTMLElement} row */
  remove(video, row) {
    const id = video.videoId ?? "";
    if (this.deleting.has(id)) return;
    this.deleting.add(id);
    row.classList.add("going");
    const timer = window.setTimeout(() => void this.removeNow(video), UNDO_SECONDS * 1000);
    notify(`Deleting ${nameOf(video.uri, id)} …`, {
      action: "Undo", seconds: UNDO_SECONDS,
      onaction: () => {
        window.clearTimeout(timer);
        this.deleting.delete(id);
        this.list.setCount(this.videos.length, true);
      },
    });
  }

  /** @param {Video} video */
  async removeNow(video) {
    try {
      const method = video.state === "STATE_READY" ? "LibraryService/DeleteVideo" : "ServerService/CancelJob";
      await call(method, { videoId: video.videoId, collection: video.collection });
      this.videos = this.videos.filter((other) => other !== video);
    } catch (error) {
      notify(error instanceof Error ? error.message : "It could not be deleted.", { alarm: true });
    }
    this.deleting.delete(video.videoId ?? "");
    if (!this.signal.aborted) this.show();
  }

  /** Upload files, one after the other. @param {File[]} files */
  async send(files) {
    for (const file of files) {
      const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
      const stop = new AbortController();
      const line = h("p", { class: "line label" }, bar, h("span", {}, nameOf(file.name)), h("button", { type: "button", onclick: () => stop.abort() }, "Cancel"));
      append(this.uploads, line);
      try {
        await upload(file, this.collection, (share) => { bar.value = share; }, stop.signal);
        line.remove();
        if (!this.signal.aborted) await this.load();
      } catch (error) {
        fill(line, h("span", { class: "failed" }, `${nameOf(file.name)}: ${error instanceof Error ? error.message : "not uploaded"}`), h("button", { type: "button", onclick: () => line.remove() }, "Dismiss"));
      }
    }
  }
}
