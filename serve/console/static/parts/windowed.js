/** A long list of rows of one height, of which only those on the screen are in the page. */

import { h } from "../base/dom.js";

const MARGIN_ROWS = 8;  // above and below the screen, so that a fast scroll shows no gap

export class WindowedList {
  /**
   * @param {number} rowHeight Pixels.
   * @param {(index: number) => HTMLElement} makeRow
   * @param {(index: number) => void} onreach Called with the last row on the screen, so that more can be loaded.
   * @param {AbortSignal} signal
   */
  constructor(rowHeight, makeRow, onreach, signal) {
    this.rowHeight = rowHeight;
    this.makeRow = makeRow;
    this.onreach = onreach;
    this.count = 0;
    this.rows = /** @type {Map<number, HTMLElement>} */ (new Map());
    this.element = h("div", { class: "windowed", role: "list" });
    window.addEventListener("scroll", () => this.draw(), { signal, passive: true });
    window.addEventListener("resize", () => this.draw(), { signal });
  }

  /** Say how many rows there are. @param {number} count @param {boolean} [afresh] Make all rows anew. */
  setCount(count, afresh = false) {
    this.count = count;
    this.element.style.setProperty("height", `${count * this.rowHeight}px`);
    if (afresh) {
      for (const row of this.rows.values()) row.remove();
      this.rows.clear();
    }
    this.draw();
  }

  draw() {
    const top = -this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - MARGIN_ROWS);
    const last = Math.min(this.count, Math.ceil((top + window.innerHeight) / this.rowHeight) + MARGIN_ROWS);
    for (const [index, row] of this.rows) {
      if ((index < first || index >= last) && !row.contains(document.activeElement)) {
        row.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      if (this.rows.has(index)) continue;
      const row = this.makeRow(index);
      row.setAttribute("role", "listitem");
      row.setAttribute("aria-setsize", String(this.count));
      row.setAttribute("aria-posinset", String(index + 1));
      row.style.setProperty("top", `${index * this.rowHeight}px`);
      this.rows.set(index, row);
      const after = [...this.rows.keys()].filter((other) => other > index).sort((a, b) => a - b)[0];
      this.element.insertBefore(row, after === undefined ? null : this.rows.get(after) ?? null);
    }
    if (this.count) this.onreach(last - 1);
  }
}
