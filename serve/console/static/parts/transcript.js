/** The words of a video: they follow the player, seek on a click, and select on a drag. */

import { call } from "../base/api.js";
import { marked } from "./cards.js";
import { fill, h } from "../base/dom.js";
import { clock, secondsOf } from "../base/format.js";

export class Transcript {
  /**
   * @param {{videoId: string, collection?: string}} video
   * @param {{onseek: (seconds: number) => void, onselect: (start: number, end: number) => void}} actions @param {AbortSignal} signal
   */
  constructor(video, actions, signal) {
    this.video = video;
    this.actions = actions;
    this.signal = signal;
    this.lines = /** @type {{element: HTMLElement, start: number, end: number}[]} */ ([]);
    this.element = h("div", { class: "transcript" }, h("p", { class: "label" }, "Loading …"));
    this.present = -1;
  }

  /** @param {string} question Its words are marked. @param {number} seconds The line of this time is shown. */
  async load(question, seconds) {
    const { utterances = [] } = await call("LibraryService/GetTranscript", this.video, this.signal);
    if (!utterances.length) {
      fill(this.element, h("p", { class: "label" }, "Nothing is said in this video."));
      return;
    }
    const words = question.split(/[^\p{L}\p{N}'’]+/u).filter((word) => word.length > 2);
    this.lines = utterances.map((/** @type {any} */ utterance) => this.line(utterance, words));
    fill(this.element, this.lines.map((line) => line.element));
    this.wireSelection();
    this.follow(seconds, true);
  }

  /** @param {any} utterance @param {string[]} words */
  line(utterance, words) {
    const [start, end] = [secondsOf(utterance.span?.startOffset), secondsOf(utterance.span?.endOffset)];
    const speaker = utterance.speakerName || (utterance.speaker ? `speaker ${utterance.speaker}` : "");
    const element = h("p", { class: "utterance", dir: "auto", dataset: { start: String(start), end: String(end) } },
      h("button", { type: "button", class: "at", onclick: () => this.actions.onseek(start) }, clock(start)),
      h("span", {}, speaker && h("strong", {}, `${speaker}: `), ...marked(utterance.text ?? "", words)));
    element.addEventListener("click", (event) => {
      if (!(event.target instanceof HTMLButtonElement) && window.getSelection()?.isCollapsed) this.actions.onseek(start);
    });
    return { element, start, end };
  }

  /** A drag over several lines selects their time. */
  wireSelection() {
    this.element.addEventListener("pointerup", () => {
      const range = window.getSelection();
      if (!range || range.isCollapsed || !range.anchorNode || !range.focusNode) return;
      const ends = [range.anchorNode, range.focusNode].map((node) => (node instanceof Element ? node : node.parentElement)?.closest(".utterance"));
      if (!(ends[0] instanceof HTMLElement) || !(ends[1] instanceof HTMLElement) || ends[0] === ends[1]) return;
      const times = ends.flatMap((line) => [Number(/** @type {HTMLElement} */ (line).dataset.start), Number(/** @type {HTMLElement} */ (line).dataset.end)]);
      this.actions.onselect(Math.min(...times), Math.max(...times));
    });
  }

  /** Mark the line that is being said. @param {number} seconds @param {boolean} [always] Scroll also while the pointer is over the words. */
  follow(seconds, always = false) {
    let present = -1;
    for (const [index, line] of this.lines.entries()) if (line.start <= seconds + 0.05) present = index;
    if (present === this.present) return;
    this.lines[this.present]?.element.removeAttribute("aria-current");
    this.present = present;
    const element = this.lines[present]?.element;
    if (!element) return;
    element.setAttribute("aria-current", "true");
    const box = element.closest(".panel");
    if (box && (always || !box.matches(":hover"))) box.scrollTop = element.offsetTop - box.clientHeight / 3;
  }
}
