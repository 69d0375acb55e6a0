// A file of the user's, read in pieces that the server takes.

import { look } from "./server.js";

const MOST_BYTES = 16384;

export async function readFile(file, model, add, tell) {
  const bytes = new Uint8Array(await file.slice(0, MOST_BYTES).arrayBuffer());
  const size = model.most_tokens; // a token has at least a byte
  for (let start = 0; start < bytes.length; ) {
    let end = Math.min(start + size, bytes.length);
    while (end < bytes.length && end > start + 1 && (bytes[end] & 0xc0) === 0x80) end--; // not within a character
    const text = new TextDecoder().decode(bytes.subarray(start, end));
    for (const token of (await look({ text })).tokens) add(token);
    start = end;
    tell(start / bytes.length);
  }
}
