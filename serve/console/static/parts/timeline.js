/**
 * The timeline under a video: a strip a channel, shots, moments, events, chapters, the present time and a selection.
 * One canvas draws it; a list says the same to screen readers.
 */

import { append, fill, h } from "../base/dom.js";
import { clock, spanText } from "../base/format.js";
import { colour } from "../base/theme.js";

const STRIP_HEIGHT = 36;  // px a channel
const LANE_HEIGHT = 18;  // px for moments and events
const AXIS_HEIGHT = 20;  // px for the times
const LABEL_WIDTH = 64;  // px at the left for the names of the lanes
const DRAG_PIXELS = 4;  // a press that moves less is a click
const FILM_PICTURES = 12;  // along the timeline: each some 80 px wide
const LEAST_SECONDS = 4;  // the most one can zoom in

/**
 * @typedef {{name: string, colour: string, parts: {start: number, end: number, value: number}[]}} Strip Values up to 1; below 0 nothing is drawn.
 * @typedef {{start: number, end: number, text: string, kind: string}} Bar `kind`: match, weak, none or event.
 * @typedef {{strips: Strip[], shots: number[], moments: Bar[], events: Bar[], chapters: Bar[]}} Content
 */

export class Timeline {
  /**
   * @param {number} duration Seconds.
   * @param {{onseek: (seconds: number) => void, onselect: (start: number, end: number) => void}} actions
   * @param {AbortSignal} signal
   */
  constructor(duration, actions, signal) {
    this.duration = Math.max(duration, 0.1);
    this.actions = actions;
    this.view = { start: 0, end: this.duration };
    this.content = /** @type {Content} */ ({ strips: [], shots: [], moments: [], events: [], chapters: [] });
    this.now = 0;
    this.loadFilm = /** @type {(() => Promise<void>) | undefined} */ (undefined);
    this.selection = /** @type {{start: number, end: number} | null} */ (null);
    this.canvas = h("canvas", { class: "lanes", "aria-hidden": "true" });
    this.list = h("ol", { class: "sr", "aria-label": "What the timeline shows" });
    this.slider = h("input", {
      type: "range", class: "sr", min: 0, max: this.duration, step: 0.1, value: 0, "aria-label": "Time in the video",
      oninput: () => actions.onseek(Number(this.slider.value)),
    });
    this.film = h("img", { class: "film", alt: "", hidden: true });
    this.element = h("div", { class: "timeline" }, this.film, this.canvas, this.slider, this.list, h("div", { class: "zoom buttons" },
      h("button", { type: "button", onclick: () => this.zoom(0.5), title: "Zoom in (+)" }, "+"),
      h("button", { type: "button", onclick: () => this.zoom(2), title: "Zoom out (−)" }, "−"),
      h("button", { type: "button", onclick: () => this.zoom(Infinity) }, "whole video")));
    this.wire(signal);
  }

  /** @param {AbortSignal} signal */
  wire(signal) {
    const resized = new ResizeObserver(() => this.draw());
    resized.observe(this.element);
    signal.addEventListener("abort", () => resized.disconnect());
    window.addEventListener("kinodex-theme", () => this.draw(), { signal });
    let pressed = /** @type {{x: number, seconds: number} | null} */ (null);
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      pressed = { x: event.offsetX, seconds: this.secondsAt(event.offsetX) };
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.canvas.title = `${clock(this.secondsAt(event.offsetX))}${this.barAt(event) ?? ""}`;
      if (!pressed || Math.abs(event.offsetX - pressed.x) < DRAG_PIXELS) return;
      const here = this.secondsAt(event.offsetX);
      this.select(Math.min(here, pressed.seconds), Math.max(here, pressed.seconds));
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (pressed && Math.abs(event.offsetX - pressed.x) < DRAG_PIXELS) this.actions.onseek(pressed.seconds);
      else if (this.selection) this.actions.onselect(this.selection.start, this.selection.end);
      pressed = null;
    });
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.secondsAt(event.offsetX));
    }, { passive: false });
  }

  /** Show pictures along the part of the video in view. @param {(image: HTMLImageElement, start: number, end: number, count: number) => Promise<boolean>} load */
  showFilm(load) {
    this.loadFilm = async () => {
      const { start, end } = this.view;
      const count = Math.min(FILM_PICTURES, Math.max(1, Math.ceil(end - start)));
      this.film.hidden = !(await load(this.film, start, end, count));
    };
    void this.loadFilm();
  }

  /** @param {Partial<Content>} content Replaces these parts of what is shown. */
  show(content) {
    Object.assign(this.content, content);
    const { moments, events, chapters } = this.content;
    const item = (/** @type {string} */ noun, /** @type {Bar} */ bar) => h("li", {}, `${noun} ${spanText(bar.start, bar.end)}: ${bar.text}`);
    fill(this.list, chapters.map((bar) => item("Chapter", bar)), moments.map((bar) => item("Moment", bar)), events.map((bar) => item("Event", bar)));
    this.draw();
  }

  /** Show a time as the present one. @param {number} seconds */
  moveTo(seconds) {
    this.now = seconds;
    this.slider.value = String(seconds);
    this.slider.setAttribute("aria-valuetext", clock(seconds));
    const { start, end } = this.view;
    if (end - start < this.duration && (seconds < start || seconds > end)) this.look(seconds - (end - start) / 10, end - start);
    this.draw();
  }

  /** @param {number} start @param {number} end */
  select(start, end) {
    this.selection = end > start ? { start: Math.max(0, start), end: Math.min(this.duration, end) } : null;
    this.draw();
  }

  /** @param {number} factor Of the seconds that are shown. @param {number} [around] Keeps its place. */
  zoom(factor, around = this.now) {
    const length = Math.min(this.duration, Math.max(LEAST_SECONDS, (this.view.end - this.view.start) * factor));
    const share = Math.min(1, Math.max(0, (around - this.view.start) / (this.view.end - this.view.start)));
    this.look(around - length * share, length);
    void this.loadFilm?.();
    this.draw();
  }

  /** @param {number} start @param {number} length */
  look(start, length) {
    const from = Math.min(Math.max(0, start), this.duration - length);
    this.view = { start: from, end: from + length };
  }

  get labelWidth() {
    return this.canvas.clientWidth < 480 ? 0 : LABEL_WIDTH;
  }

  /** @param {number} x Pixels from the left of the canvas. */
  secondsAt(x) {
    const share = (x - this.labelWidth) / Math.max(1, this.canvas.clientWidth - this.labelWidth);
    return this.view.start + Math.min(1, Math.max(0, share)) * (this.view.end - this.view.start);
  }

  /** @param {number} seconds */
  xOf(seconds) {
    return this.labelWidth + ((seconds - this.view.start) / (this.view.end - this.view.start)) * (this.canvas.clientWidth - this.labelWidth);
  }

  /** The text of the bar under the pointer. @param {PointerEvent} event */
  barAt(event) {
    const seconds = this.secondsAt(event.offsetX);
    let top = this.content.strips.length * STRIP_HEIGHT;
    for (const bars of this.lanes()) {
      if (event.offsetY >= top && event.offsetY < top + LANE_HEIGHT) {
        const bar = bars.find((candidate) => seconds >= candidate.start && seconds < Math.max(candidate.end, candidate.start + 0.5));
        return bar && ` · ${bar.text}`;
      }
      top += LANE_HEIGHT;
    }
    return undefined;
  }

  /** The lanes of bars that hold something. */
  lanes() {
    return [this.content.chapters, this.content.moments, this.content.events].filter((bars) => bars.length);
  }

  draw() {
    const { canvas, content } = this;
    const width = this.element.clientWidth;
    this.element.style.setProperty("--labels", `${this.labelWidth}px`);
    const height = content.strips.length * STRIP_HEIGHT + this.lanes().length * LANE_HEIGHT + AXIS_HEIGHT;
    if (!width) return;
    canvas.style.setProperty("height", `${height}px`);
    const ratio = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const context = canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "13px system-ui, sans-serif";
    context.textBaseline = "middle";
    let top = 0;
    for (const strip of content.strips) {
      this.drawStrip(context, strip, top);
      top += STRIP_HEIGHT;
    }
    const names = new Map([[content.chapters, "chapters"], [content.moments, "moments"], [content.events, "events"]]);
    for (const bars of this.lanes()) {
      this.drawBars(context, bars, names.get(bars) ?? "", top);
      top += LANE_HEIGHT;
    }
    this.drawAxis(context, top);
    if (this.selection) this.drawSelection(context, top);
    context.fillStyle = colour("--ink");
    const x = this.xOf(this.now);
    if (x >= this.labelWidth) context.fillRect(x - 1, 0, 2, top);
  }

  /** @param {CanvasRenderingContext2D} context @param {string} text @param {number} y */
  drawLabel(context, text, y) {
    if (!this.labelWidth) return;
    context.fillStyle = colour("--dim");
    context.textAlign = "left";
    context.fillText(text, 0, y);
  }

  /** @param {CanvasRenderingContext2D} context @param {Strip} strip @param {number} top */
  drawStrip(context, strip, top) {
    const base = top + STRIP_HEIGHT - 2;
    this.drawLabel(context, strip.name, top + STRIP_HEIGHT / 2);
    context.fillStyle = colour("--line");
    for (const shot of this.content.shots) {
      const x = this.xOf(shot);
      if (x >= this.labelWidth) context.fillRect(x, top, 1, STRIP_HEIGHT - 2);
    }
    context.fillRect(this.labelWidth, base, this.canvas.clientWidth - this.labelWidth, 1);
    context.beginPath();
    context.rect(this.labelWidth, top, this.canvas.clientWidth, STRIP_HEIGHT);
    context.save();
    context.clip();
    context.beginPath();
    for (const { start, end, value } of strip.parts) {
      const [left, right] = [this.xOf(start), this.xOf(end)];
      const tall = Math.max(0, Math.min(1, value)) * (STRIP_HEIGHT - 6);
      context.rect(left, base - tall, Math.max(1, right - left), tall);
    }
    context.fillStyle = colour(strip.colour);
    context.fill();
    context.restore();
  }

  /** @param {CanvasRenderingContext2D} context @param {Bar[]} bars @param {string} name @param {number} top */
  drawBars(context, bars, name, top) {
    const colours = /** @type {Record<string, string>} */ ({ match: "--match", weak: "--weak", none: "--none", event: "--alarm", chapter: "--line" });
    this.drawLabel(context, name, top + LANE_HEIGHT / 2);
    bars.forEach((bar, index) => {
      const left = Math.max(this.labelWidth, this.xOf(bar.start));
      const right = Math.min(this.canvas.clientWidth, this.xOf(bar.end));
      if (right < left) return;
      context.fillStyle = colour(bar.kind === "chapter" && index % 2 ? "--none" : colours[bar.kind] ?? "--none");
      context.beginPath();
      context.roundRect(left, top + 4, Math.max(3, right - left - 1), LANE_HEIGHT - 8, 3);
      context.fill();
    });
  }

  /** @param {CanvasRenderingContext2D} context @param {number} top */
  drawAxis(context, top) {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400];
    const length = this.view.end - this.view.start;
    const step = steps.find((seconds) => (seconds / length) * this.canvas.clientWidth >= 72) ?? 86_400;
    context.fillStyle = colour("--dim");
    context.textAlign = "center";
    for (let seconds = Math.ceil(this.view.start / step) * step; seconds <= this.view.end; seconds += step) {
      const x = this.xOf(seconds);
      if (x > this.labelWidth + 12 && x < this.canvas.clientWidth - 16) context.fillText(clock(seconds), x, top + AXIS_HEIGHT / 2 + 2);
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {number} height */
  drawSelection(context, height) {
    const { start, end } = /** @type {{start: number, end: number}} */ (this.selection);
    const [left, right] = [Math.max(this.labelWidth, this.xOf(start)), this.xOf(end)];
    context.fillStyle = colour("--accent");
    context.globalAlpha = 0.2;
    context.fillRect(left, 0, right - left, height);
    context.globalAlpha = 1;
    context.fillRect(left - 1, 0, 2, height);
    context.fillRect(right - 1, 0, 2, height);
  }
}

/** A row of buttons for a selected span. @param {HTMLElement} row @param {number} start @param {number} end @param {(HTMLElement | false)[]} actions */
export function fillSelection(row, start, end, actions) {
  fill(row, h("strong", {}, spanText(start, end)));
  append(row, ...actions);
}
