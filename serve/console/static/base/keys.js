/** Keys: one table for what they do and for the dialog that lists them. A page adds its own with `bindKeys`. */

import { byId, fill, h } from "./dom.js";

/** @typedef {{keys: string[], does: string, action: (event: KeyboardEvent) => unknown}} Binding An action that returns false leaves the key to the browser. */

/** @type {Set<Binding>} */
const bindings = new Set();

/** Bind keys until the signal ends. @param {Binding[]} added @param {AbortSignal} [signal] */
export function bindKeys(added, signal) {
  for (const binding of added) bindings.add(binding);
  signal?.addEventListener("abort", () => { for (const binding of added) bindings.delete(binding); });
}

/** Whether typing goes into this element. @param {EventTarget | null} target */
function takesText(target) {
  return target instanceof HTMLElement && (target.isContentEditable || ["TEXTAREA", "SELECT"].includes(target.tagName)
    || (target instanceof HTMLInputElement && !["checkbox", "radio", "button", "range"].includes(target.type)));
}

/** Listen, and wire the button that lists the keys. */
export function wireKeys() {
  bindKeys([
    { keys: ["/"], does: "to the question", action: () => { const box = byId("question", HTMLInputElement); box.focus(); box.select(); } },
    { keys: ["?"], does: "show these keys", action: showKeys },
  ]);
  byId("keys", HTMLButtonElement).addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && takesText(event.target)) /** @type {HTMLElement} */ (event.target).blur();
    if (event.ctrlKey || event.metaKey || event.altKey || takesText(event.target) || document.querySelector("dialog[open]")) return;
    const key = event.key === " " ? "Space" : event.key;
    for (const binding of [...bindings].reverse()) {
      if (binding.keys.includes(key) && binding.action(event) !== false) {
        event.preventDefault();
        return;
      }
    }
  });
}

const NAMES = /** @type {Record<string, string>} */ ({ ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" });

function showKeys() {
  const dialog = h("dialog", { "aria-label": "Keyboard shortcuts", onclose: () => dialog.remove() });
  fill(dialog, h("h2", {}, "Keys"),
    h("dl", {}, [...bindings].flatMap(({ keys, does }) => [
      h("dt", {}, keys.flatMap((key, index) => [index ? " " : "", h("kbd", {}, NAMES[key] ?? key)])), h("dd", {}, does)])),
    h("form", { method: "dialog" }, h("button", { class: "first" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Move between the cards of a list with the arrow keys, as they lie on the screen.
 * @param {string} selector What can be reached. @param {AbortSignal} signal @param {Binding[]} more Actions on the card that has the focus.
 */
export function bindCards(selector, signal, more = []) {
  const move = (/** @type {number} */ columns, /** @type {number} */ rows) => {
    const cards = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(selector)]);
    const present = cards.findIndex((card) => card.contains(document.activeElement));
    let next = cards[present < 0 ? 0 : present + columns];
    if (present >= 0 && rows) {
      const here = cards[present].getBoundingClientRect();
      const beyond = cards.filter((card) => (card.getBoundingClientRect().top - here.top) * rows > 4);
      const row = beyond.length && (rows > 0 ? beyond[0] : beyond[beyond.length - 1]).getBoundingClientRect().top;
      next = beyond.filter((card) => Math.abs(card.getBoundingClientRect().top - row) < 4)
        .sort((a, b) => Math.abs(a.getBoundingClientRect().left - here.left) - Math.abs(b.getBoundingClientRect().left - here.left))[0];
    }
    if (!next) return false;
    /** @type {HTMLElement | null} */ (next.matches("a, button") ? next : next.querySelector("a, button"))?.focus();
    next.scrollIntoView({ block: "nearest" });
  };
  bindKeys([
    { keys: ["ArrowRight", "ArrowLeft"], does: "next, previous answer", action: (event) => move(event.key === "ArrowRight" ? 1 : -1, 0) },
    { keys: ["ArrowDown", "ArrowUp"], does: "answer below, above", action: (event) => move(0, event.key === "ArrowDown" ? 1 : -1) },
    ...more,
  ], signal);
}

/** The card that has the focus or is under the pointer. @param {string} selector */
export function presentCard(selector) {
  const card = document.activeElement?.closest(selector) ?? document.querySelector(`${selector}:hover`);
  return card instanceof HTMLElement ? card : null;
}
