// Requests to the server. Each returns the result, or throws an error with the message to show.

export class Refused extends Error {
  constructor(refusal) {
    super(refusal.error);
    this.layer = refusal.layer;
  }
}

async function post(path, type, body) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": type }, body });
  if (answer.ok) return (await answer.json()).done;
  const text = await answer.text();
  let refusal = { error: text };
  try {
    refusal = JSON.parse(text);
  } catch {}
  throw new Refused(refusal);
}

export const command = (name, more = {}) => post("command", "application/json", JSON.stringify({ do: name, ...more }));
export const send = (path, bytes) => post(path, "application/octet-stream", bytes);

// A frame: the length of a JSON header, the header, then the bytes of the layers' slices and of the images.
export async function frame(name) {
  const answer = await fetch(`frame/${name}`);
  if (!answer.ok) throw new Refused({ error: await answer.text() });
  const data = await answer.arrayBuffer();
  const length = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let at = 4 + length;
  const take = (shape, kind) => {
    const values = new kind(data, at, shape.reduce((product, size) => product * size, 1));
    at += values.length;
    return values;
  };
  for (const layer of head.layers) layer.values = take(layer.size, Int8Array);
  head.images = head.images.map((shape) => ({ shape, values: take(shape, Uint8Array) }));
  return head;
}

// Runs one call at a time; of the calls made meanwhile only the last one runs.
export function newest(work) {
  let busy = false;
  let waiting = null;
  return async function run(...given) {
    if (busy) {
      waiting = given;
      return;
    }
    busy = true;
    try {
      await work(...given);
    } finally {
      busy = false;
      if (waiting) {
        const next = waiting;
        waiting = null;
        run(...next);
      }
    }
  };
}
