/** Loads what the timeline of a video shows: chapters, events and, for a question, curves, shots and moments. */

import { call } from "../base/api.js";
import { spanOf } from "./cards.js";
import { VERDICTS, percent, secondsOf } from "../base/format.js";
import { queryOf } from "../base/questions.js";

const CURVE_POINTS = 600;  // more than the timeline has pixels to show apart
/** @typedef {import("./timeline.js").Timeline} Timeline */

/**
 * @param {import("kinodex/v1/library_service_pb").VideoJson} video @param {import("../base/questions.js").Question} question
 * @param {Timeline} timeline @param {AbortSignal} signal
 * @returns {Promise<any[]>} The video's chapters.
 */
export async function loadTimeline(video, question, timeline, signal) {
  const reference = { videoId: video.videoId, collection: video.collection };
  const outline = call("LibraryService/GetChapters", reference, signal).then(({ chapters = [] }) => {
    const bars = chapters.map((/** @type {any} */ chapter) => ({ start: secondsOf(chapter.span?.startOffset), end: secondsOf(chapter.span?.endOffset), text: chapter.title || "(nothing is said)", kind: "chapter" }));
    timeline.show({ chapters: bars.length > 1 ? bars : [] });
    return chapters;
  });
  const work = [outline, showEvents(reference, timeline, signal)];
  if (question.text) work.push(showCurve(reference, question, timeline, signal));
  const [chapters] = await Promise.all(work);
  return chapters;
}

/** @param {{videoId?: string, collection?: string}} reference @param {Timeline} timeline @param {AbortSignal} signal */
async function showEvents(reference, timeline, signal) {
  const filter = { videoIds: [reference.videoId], collections: reference.collection ? [reference.collection] : [] };
  const { events = [] } = await call("ModerationService/ListEvents", { filter, pageSize: 1000 }, signal);
  timeline.show({
    events: events.map((/** @type {any} */ event) => ({ start: secondsOf(event.span?.startOffset), end: secondsOf(event.span?.endOffset), text: `${event.label} ${percent(event.confidence)}`, kind: "event" })),
  });
}

/** @param {{videoId?: string, collection?: string}} reference @param {import("../base/questions.js").Question} question @param {Timeline} timeline @param {AbortSignal} signal */
async function showCurve(reference, question, timeline, signal) {
  /** @type {import("kinodex/v1/search_service_pb").GetSimilarityCurveResponseJson} */
  const response = await call("SearchService/GetSimilarityCurve", { query: queryOf(question), ...reference, pointCount: CURVE_POINTS }, signal);
  const strips = [
    { name: "seen", colour: "--seen", parts: seenParts(response.visualPoints ?? []) },
    { name: "said", colour: "--said", parts: wordParts(response.speechParts ?? []) },
    { name: "written", colour: "--written", parts: wordParts(response.textParts ?? []) },
  ];
  timeline.show({
    strips: strips.filter((strip) => strip.parts.length), shots: (response.shotOffsets ?? []).map(secondsOf),
    moments: (response.moments ?? []).map((moment) => {
      const [start, end] = spanOf(moment);
      const { word, kind } = VERDICTS[moment.verdict ?? ""] ?? VERDICTS.VERDICT_NO_MATCH;
      return { start, end, text: `${word} ${percent(moment.confidence)}`, kind };
    }),
  });
}

/** Pictures as parts: each lasts until halfway to its neighbours. @param {import("kinodex/v1/search_service_pb").CurvePointJson[]} points */
function seenParts(points) {
  const times = points.map((point) => secondsOf(point.offset));
  return points.map((point, index) => ({
    start: index ? (times[index - 1] + times[index]) / 2 : times[index],
    end: index + 1 < times.length ? (times[index] + times[index + 1]) / 2 : times[index] + 1,
    value: Number(point.score ?? 0),
  }));
}

/** @param {import("kinodex/v1/search_service_pb").CurvePartJson[]} parts */
function wordParts(parts) {
  return parts.map((part) => ({ start: secondsOf(part.span?.startOffset), end: secondsOf(part.span?.endOffset), value: Number(part.score ?? 0) }));
}
