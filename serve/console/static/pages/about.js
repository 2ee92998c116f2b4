/** What this server is: its parts as `kinodex doctor` names them, encoders, sizes and queues. */

import { call, token } from "../base/api.js";
import { fill, h } from "../base/dom.js";
import { sizeText } from "../base/format.js";
import { signOut } from "../base/login.js";

/** @type {import("../base/router.js").Page} */
export async function showAbout(main, _url, signal) {
  const { server = {} } = await call("LibraryService/GetServerInfo", {}, signal).then((response) => (response.server ? response : { server: response }));
  fill(main, h("div", { class: "head" }, h("h1", {}, "About this server"), token() && h("button", { type: "button", onclick: signOut }, "Sign out")),
    h("dl", { class: "facts wide" }, facts(server).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h2", {}, "By hand"),
    h("pre", { tabindex: "0" }, `kinodex moments 'a red car' --server ${location.hostname}:8970\ncurl -H 'Content-Type: application/json' -d '{"query":{"text":"a red car"}}' ${location.origin}/kinodex.v1.SearchService/SearchMoments`));
}

/** @param {any} server @returns {[string, string][]} */
function facts(server) {
  const rows = /** @type {[string, string][]} */ ([]);
  for (const [key, value] of Object.entries(server)) {
    const name = key.replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`).replace(/^./, (letter) => letter.toUpperCase());
    if (/bytes$/i.test(key)) rows.push([name.replace(/ bytes$/, ""), sizeText(Number(value))]);
    else rows.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  }
  return rows;
}
