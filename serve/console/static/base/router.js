/** Every view is an address. A page is a function that fills `main` and stops its work when the signal says so. */

import { byId, fill, h } from "./dom.js";

/**
 * @typedef {(main: HTMLElement, url: URL, signal: AbortSignal) => Promise<void> | void} Page
 * @typedef {{path: RegExp, title: string, show: Page}} Route
 */

/** @type {Route[]} */
let routes = [];
let current = new AbortController();

/** Start with the routes, tried in order, and show the present address. @param {Route[]} pages */
export function start(pages) {
  routes = pages;
  window.addEventListener("popstate", () => show());
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    const plain = !(event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !plain || event.defaultPrevented || link.target || link.hasAttribute("download")) return;
    if (link.origin !== location.origin || !routeOf(link.pathname) || link.getAttribute("href")?.startsWith("#")) return;
    event.preventDefault();
    go(link.href);
  });
  show();
}

/** @param {string} path */
function routeOf(path) {
  return routes.find((route) => route.path.test(path));
}

/** Show another address. @param {string | URL} address @param {{replace?: boolean}} [options] `replace`: Back does not return to this one. */
export function go(address, { replace = false } = {}) {
  const url = new URL(address, location.href);
  if (replace || url.href === location.href) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  show();
}

/** Change the address to the state that the page already shows. @param {Record<string, string | undefined>} parameters Empty ones are taken out. */
export function note(parameters) {
  history.replaceState(null, "", withParameters(parameters));
}

/** The present address with other parameters. @param {Record<string, string | undefined>} parameters */
export function withParameters(parameters) {
  const url = new URL(location.href);
  for (const [key, value] of Object.entries(parameters)) {
    if (value) url.searchParams.set(key, value);
    else url.searchParams.delete(key);
  }
  return url;
}

/** Show the page of the present address again. */
export function show() {
  current.abort();
  current = new AbortController();
  const url = new URL(location.href);
  const route = routeOf(url.pathname);
  const main = byId("main", HTMLElement);
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.getAttribute("href") === url.pathname) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  setTitle(route?.title ?? "Not found");
  if (!route) {
    fill(main, h("section", { class: "empty" }, h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "/" }, "Search"))));
    return;
  }
  main.removeAttribute("aria-busy");
  window.scrollTo(0, 0);
  const { signal } = current;
  Promise.resolve(route.show(main, url, signal)).catch((error) => {
    if (!signal.aborted) fill(main, failureCard(error));
  });
}

/** @param {string} title */
export function setTitle(title) {
  document.title = title ? `${title} · Kinodex` : "Kinodex";
}

/** An error as a card: what happened, the request's id for the operator, and a way on. @param {any} error */
export function failureCard(error) {
  const requestId = error?.requestId ?? "";
  if (!error?.code) console.error(error);
  return h("section", { class: "failure", role: "alert" },
    h("h2", {}, error?.code === "not_found" ? "Not found" : "That did not work"),
    h("p", {}, error?.message || "The page failed."),
    requestId && h("p", { class: "label" }, `Request ${requestId}${error.reason ? ` · ${error.reason}` : ""}`),
    h("button", { type: "button", onclick: () => show() }, "Try again"));
}
