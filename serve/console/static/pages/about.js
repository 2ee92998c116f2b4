/** What this server is: version, encoders, sizes, queues, and the checks of `kinodex doctor`. */

import { call, token } from "../base/api.js";
import { fill, h } from "../base/dom.js";
import { ago, counted, sizeText, wallClock } from "../base/format.js";
import { signOut } from "../base/login.js";

/** @typedef {import("kinodex/v1/server_service_pb").GetServerInfoResponseJson} ServerInfo */

const CHECKS = /** @type {Record<string, {word: string, kind: string}>} */ ({
  STATE_OK: { word: "works", kind: "match" },
  STATE_NOTE: { word: "could be better", kind: "weak" },
  STATE_MISSING: { word: "does not work", kind: "none" },
});

/** @type {import("../base/router.js").Page} */
export async function showAbout(main, _url, signal) {
  fill(main, h("p", { class: "state", role: "status" }, "Looking. The first look takes some seconds."));
  /** @type {ServerInfo} */
  const info = await call("ServerService/GetServerInfo", {}, signal);
  fill(main, h("div", { class: "head" }, h("h1", {}, "About this server"), token() && h("button", { type: "button", onclick: signOut }, "Sign out")),
    info.liveIsBehind && h("p", { class: "warning" }, "Live videos are behind: the server does not reach Kafka, or has not read it to its end."),
    h("dl", { class: "facts wide" }, facts(info).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h2", {}, "Checks"),
    h("ul", { class: "checks" }, (info.checks ?? []).map(checkLine)),
    h("h2", {}, "By hand"),
    h("pre", { tabindex: "0" }, `kinodex doctor --server ${location.hostname}:8970\ncurl -H 'Content-Type: application/json' -d '{}' ${location.origin}/kinodex.v1.ServerService/GetServerInfo`));
}

/** @param {ServerInfo} info @returns {[string, string][]} */
function facts(info) {
  const rows = Object.entries(info.indexRows ?? {}).map(([kind, count]) => counted(Number(count), kind.replace(/_/g, " ").replace(/s$/, "")));
  const pending = Object.entries(info.pendingEvents ?? {}).map(([sink, count]) => `${count} to ${sink}`);
  return [
    ["Version", info.version ?? ""],
    ["Started", info.startTime ? `${wallClock(info.startTime)}, ${ago(info.startTime)}` : ""],
    ...(info.encoders ?? []).map((encoder) => /** @type {[string, string]} */ ([`Encoder: ${encoder.kind ?? ""}`, encoder.name ?? ""])),
    ["Fingerprint", info.fingerprint ?? ""],
    ["Videos", counted(Number(info.videoCount ?? 0), "video")],
    ["Index", rows.join(", ")],
    ["Now", `${counted(info.callCount ?? 0, "call")}, ${counted(info.waitingQuestionCount ?? 0, "question")} waiting`],
    ["Jobs", `${info.runningJobCount ?? 0} running, ${info.queuedJobCount ?? 0} waiting, ${info.failedJobCount ?? 0} failed within seven days`],
    ["Uploads waiting", sizeText(Number(info.spoolBytes ?? 0))],
    ["Events to deliver", pending.join(", ") || "none"],
  ];
}

/** @param {import("kinodex/v1/server_service_pb").CheckJson} check */
function checkLine(check) {
  const { word, kind } = CHECKS[check.state ?? ""] ?? CHECKS.STATE_NOTE;
  return h("li", {}, h("span", { class: `verdict ${kind}`, title: word }, h("span", { class: "shape", "aria-hidden": "true" }), check.name, h("span", { class: "sr" }, `: ${word}`)),
    h("span", {}, check.detail, check.remedy && h("span", { class: "label" }, ` ${check.remedy}`)));
}
