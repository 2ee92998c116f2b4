/** Builds elements. Text from a video is only ever text here: no function takes markup. */

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * Make an element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [properties] `class`, `style` (an object), `dataset`, `onclick` and the like, or any
 *     attribute; `true` sets an attribute without a value, `false`, `null` and `undefined` leave it out.
 * @param {...(Child | Child[])} children Strings become text.
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) setProperty(element, name, value);
  append(element, ...children);
  return element;
}

/** @param {HTMLElement} element @param {string} name @param {unknown} value */
function setProperty(element, name, value) {
  if (value === false || value === null || value === undefined) return;
  if (name.startsWith("on") && typeof value === "function") {
    element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
  } else if (name === "style") {
    // A style attribute would be refused by the Content-Security-Policy; properties are not.
    for (const [key, text] of Object.entries(/** @type {Record<string, string>} */ (value))) element.style.setProperty(key, text);
  } else if (name === "dataset") {
    Object.assign(element.dataset, value);
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {Element} element @param {...(Child | Child[])} children */
export function append(element, ...children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace what an element holds. @param {Element} element @param {...(Child | Child[])} children */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, ...children);
}

/**
 * Return the element of an id that the page always has.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return element;
}

/** Paths of icons in a box of 24 by 24, drawn with a line of 2. */
const ICONS = {
  search: "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13M15.5 15.5L21 21",
  picture: "M3 5h18v14H3zM3 16l5-5l4 4l3-3l6 6M15.5 9h.01",
  close: "M6 6l12 12M18 6L6 18",
  play: "M7 4l13 8l-13 8z",
  pause: "M8 5v14M16 5v14",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5L19 19M5 19l1.5-1.5M17.5 6.5L19 5",
  moon: "M20 14A8.5 8.5 0 1 1 10 4a7 7 0 0 0 10 10z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  upload: "M12 16V4M7 9l5-5l5 5M4 20h16",
};

/** Draw an icon; the button around it carries the words. @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * Say something short at the bottom of the page, for some seconds.
 * @param {string} text
 * @param {{action?: string, onaction?: () => void, seconds?: number, alarm?: boolean}} [options]
 * @returns {() => void} Takes it away.
 */
export function notify(text, { action, onaction, seconds = 6, alarm = false } = {}) {
  const notice = h("div", { class: alarm ? "notice alarm" : "notice" }, h("span", {}, text));
  const remove = () => {
    window.clearTimeout(timer);
    notice.remove();
  };
  if (action) {
    append(notice, h("button", { type: "button", onclick: () => { remove(); onaction?.(); } }, action));
  }
  const timer = window.setTimeout(remove, seconds * 1000);
  byId("notices", HTMLElement).append(notice);
  return remove;
}

/** Copy a text, and say so. @param {string} text @param {string} name What it is, for the notice. */
export async function copy(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    notify(`Copied ${name}.`, { seconds: 2 });
  } catch {
    notify(text, { seconds: 20 });  // no clipboard without TLS or permission: the text itself can be selected
  }
}
