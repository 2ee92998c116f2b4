/** The pictures that a person searches by. They stay in this tab: an address names one by its hash, and cannot hold it. */

const MAX_BYTES = 8 * 1024 * 1024;  // what a query may carry

/** @type {Map<string, {bytes: Uint8Array, url: string}>} */
const pictures = new Map();

/**
 * Keep a picture for questions.
 * @param {Blob} file
 * @returns {Promise<string>} Its key.
 * @throws {RangeError} It is empty or too large.
 */
export async function addPicture(file) {
  if (!file.size) throw new RangeError("That picture is empty.");
  if (file.size > MAX_BYTES) throw new RangeError("That picture is over 8 MiB. Make it smaller: 500 pixels are enough.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const key = await hashOf(bytes);
  if (!pictures.has(key)) pictures.set(key, { bytes, url: URL.createObjectURL(file) });
  return key;
}

/** @param {Uint8Array<ArrayBuffer>} bytes */
async function hashOf(bytes) {
  if (!window.isSecureContext) return `${bytes.length}-${bytes.reduce((sum, byte) => (sum * 31 + byte) % 4_294_967_291, 7)}`;  // no WebCrypto over plain HTTP
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bytes of a picture, if this tab has it. @param {string} key */
export function pictureBytes(key) {
  return pictures.get(key)?.bytes;
}

/** An address for `<img>`, if this tab has the picture. @param {string} key */
export function pictureUrl(key) {
  return pictures.get(key)?.url;
}

/** The first picture among dropped or pasted things. @param {DataTransfer | null} data */
export function pictureIn(data) {
  return [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
}
