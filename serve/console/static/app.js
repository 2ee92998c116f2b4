/** The start of the console: the pages, and what stands on each. */

import { byId, fill, icon } from "./base/dom.js";
import { bindCards, presentCard, wireKeys } from "./base/keys.js";
import { wireLogin } from "./base/login.js";
import { go, start } from "./base/router.js";
import { showSearch, wireAsk } from "./pages/search.js";
import { wireTheme } from "./base/theme.js";

/** @type {import("./base/router.js").Page} */
async function searchPage(main, url, signal) {
  const press = (/** @type {string} */ selector) => () => {
    const link = /** @type {HTMLElement | null | undefined} */ (presentCard(".card")?.querySelector(selector));
    if (!link) return false;
    link.click();
  };
  bindCards(".card", signal, [
    { keys: ["Space"], does: "play the answer", action: () => { const play = presentCard(".card")?.dataset.play; return play ? go(play) : false; } },
    { keys: ["m"], does: "more like this", action: press("a.more") },
  ]);
  await showSearch(main, url, signal);
}

/** @param {() => Promise<import("./base/router.js").Page>} load Fetches the page's module when it is first shown. @returns {import("./base/router.js").Page} */
function later(load) {
  return async (main, url, signal) => {
    const page = await load();
    if (!signal.aborted) await page(main, url, signal);
  };
}

fill(byId("picture", HTMLButtonElement), icon("picture"));
fill(/** @type {HTMLElement} */ (document.querySelector("#ask [type=submit]")), icon("search"));
wireTheme();
wireKeys();
wireLogin();
wireAsk();
start([
  { path: /^\/$/, title: "", show: searchPage },
  { path: /^\/video\/[^/]+$/, title: "Video", show: later(async () => (await import("./pages/video.js")).showVideo) },
  { path: /^\/library$/, title: "Library", show: later(async () => (await import("./pages/library.js")).showLibrary) },
  { path: /^\/live$/, title: "Live", show: later(async () => (await import("./pages/live.js")).showLive) },
  { path: /^\/events$/, title: "Events", show: later(async () => (await import("./pages/events.js")).showEvents) },
  { path: /^\/about$/, title: "About", show: later(async () => (await import("./pages/about.js")).showAbout) },
]);
