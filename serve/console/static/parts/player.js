/** Plays a video from its file, or shows its stored pictures, one a second, where the file is gone. */

import { frameUrl, mediaUrl, showPicture } from "../base/api.js";
import { fill, h, icon } from "../base/dom.js";
import { clock } from "../base/format.js";

const STORYBOARD_STEP_SECONDS = 1;  // pictures are stored one a second
const DRAW_MILLISECONDS = 100;  // between reports of the present time while it plays

export class Player {
  /**
   * @param {{videoId: string, collection?: string}} video @param {number} duration Seconds.
   * @param {(seconds: number) => void} ontime Called as the present time changes. @param {AbortSignal} signal
   */
  constructor(video, duration, ontime, signal) {
    this.video = video;
    this.duration = duration;
    this.ontime = ontime;
    this.signal = signal;
    this.now = 0;
    this.loop = /** @type {{start: number, end: number} | null} */ (null);
    this.media = /** @type {HTMLVideoElement | null} */ (null);
    this.element = h("div", { class: "player" });
    this.timer = 0;
    signal.addEventListener("abort", () => this.stop());
  }

  /** Find out whether there is media, and show the time. @param {number} seconds @param {boolean} play */
  async open(seconds, play) {
    const url = await mediaUrl(this.video, this.signal);
    if (this.signal.aborted) return;
    if (url) this.openMedia(url, seconds, play);
    else this.openPictures("The video's file cannot be played here: these are its stored pictures.", seconds);
    if (!url && play) this.play();
  }

  /** @param {string} url @param {number} seconds @param {boolean} play */
  openMedia(url, seconds, play) {
    const media = h("video", { controls: true, playsinline: true, preload: "metadata", src: url, "aria-label": "Video" });
    media.addEventListener("timeupdate", () => this.passed(media.currentTime));
    media.addEventListener("seeked", () => this.passed(media.currentTime));
    media.addEventListener("error", () => {
      this.media = null;
      this.openPictures("This browser cannot play the video's format: these are its stored pictures.", this.now);
    });
    this.media = media;
    fill(this.element, media);
    this.seek(seconds);
    if (play) this.play();
  }

  /** @param {string} text @param {number} seconds */
  openPictures(text, seconds) {
    this.picture = h("img", { alt: "", width: 640, height: 360 });
    this.button = h("button", { type: "button", class: "icon", onclick: () => this.toggle() });
    this.clock = h("span", { class: "label" });
    fill(this.element, h("div", { class: "stored" }, this.picture), h("div", { class: "line label controls" }, this.button, this.clock, h("span", {}, text)));
    this.pause();
    this.seek(seconds);
  }

  /** @param {number} seconds */
  passed(seconds) {
    this.now = seconds;
    if (this.loop && this.isPlaying() && seconds >= this.loop.end) this.seek(this.loop.start);
    this.ontime(this.now);
  }

  /** @param {number} seconds */
  seek(seconds) {
    this.now = Math.max(0, Math.min(seconds, this.duration));
    if (this.media) {
      this.media.currentTime = this.now;
    } else if (this.picture) {
      void this.showStored();
    }
    this.ontime(this.now);
  }

  /** Show the newest time asked for; times asked for meanwhile wait for the picture before. */
  async showStored() {
    if (this.clock) fill(this.clock, clock(this.now));
    if (this.loading || !this.picture) return;
    this.loading = true;
    let shown = -1;
    while (shown !== this.now && !this.signal.aborted) {
      shown = this.now;
      await showPicture(this.picture, frameUrl(this.video, shown), this.signal);
    }
    this.loading = false;
  }

  isPlaying() {
    return this.media ? !this.media.paused : this.timer !== 0;
  }

  play() {
    if (this.media) {
      this.media.play().catch(() => undefined);  // a browser may want a press first; the controls are there
      const report = () => {
        if (!this.media || this.media.paused || this.signal.aborted) return;
        this.passed(this.media.currentTime);
        window.setTimeout(report, DRAW_MILLISECONDS);
      };
      window.setTimeout(report, DRAW_MILLISECONDS);
      return;
    }
    if (!this.picture) return;
    window.clearInterval(this.timer);
    this.timer = window.setInterval(() => {
      const next = this.now + STORYBOARD_STEP_SECONDS;
      if (this.loop && next >= this.loop.end) this.seek(this.loop.start);
      else if (next > this.duration) this.pause();
      else this.seek(next);
    }, STORYBOARD_STEP_SECONDS * 1000);
    if (this.button) this.label(this.button, "pause", "Pause");
  }

  pause() {
    this.media?.pause();
    window.clearInterval(this.timer);
    this.timer = 0;
    if (this.button) this.label(this.button, "play", "Play");
  }

  /** @param {HTMLButtonElement} button @param {"play" | "pause"} name @param {string} text */
  label(button, name, text) {
    fill(button, icon(name));
    button.setAttribute("aria-label", text);
  }

  toggle() {
    if (this.isPlaying()) this.pause();
    else this.play();
  }

  /** Play a span again and again. @param {number} start @param {number} end */
  repeat(start, end) {
    this.loop = { start, end };
    this.seek(start);
    this.play();
  }

  stop() {
    this.pause();
    this.media?.removeAttribute("src");
    this.media?.load();
  }
}
