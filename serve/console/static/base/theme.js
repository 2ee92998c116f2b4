/** Light or dark: as the system says, until a person chooses. */

import { byId, fill, icon } from "./dom.js";

const KEY = "kinodex-theme";  // of localStorage: "light", "dark", or absent for the system's

function isDark() {
  return (localStorage.getItem(KEY) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
}

function apply() {
  const chosen = localStorage.getItem(KEY);
  if (chosen) document.documentElement.dataset.theme = chosen;
  const button = byId("theme", HTMLButtonElement);
  fill(button, icon(isDark() ? "sun" : "moon"));
  button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  button.title = isDark() ? "Light colours" : "Dark colours";
  window.dispatchEvent(new CustomEvent("kinodex-theme"));
}

/** Show the chosen theme, and wire its button. Canvases redraw on the window's `kinodex-theme`. */
export function wireTheme() {
  byId("theme", HTMLButtonElement).addEventListener("click", () => {
    localStorage.setItem(KEY, isDark() ? "light" : "dark");
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}

/** The colour of a custom property of the style sheet, for canvases. @param {string} name Such as "--accent". */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
