// The net as a row of layers, each with slices of its volume under it.

import { slice } from "./pixels.js";

const size = (shape) => shape.join("×");
let columns = new Map();

function element(kind, text, name) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

// explain(layer, at) is called when a value is clicked or chosen by keys; at: [y, x, channel] or [feature].
export function build(place, net, explain) {
  columns = new Map();
  const nested = net.rows.some(({ layer }) => layer.includes("."));
  place.replaceChildren(
    ...net.rows.map((row) => {
      const column = element("div", "", "layer");
      column.setAttribute("role", "listitem");
      column.title = `${row.layer}: ${row.text}`;
      const path = row.layer.split(".");
      const name = path.pop();
      if (nested) column.append(element("span", path.join("."), "inside"));
      if (path.length) column.classList.add("within");
      const count = row.parameters ? `${row.parameters.toLocaleString("en")} par.` : "";
      column.append(element("b", name), element("span", size(row.shape)), element("span", count));
      const tiles = document.createElement("div");
      column.append(tiles);
      columns.set(row.layer, { tiles, explain: (at) => explain(row.layer, at) });
      return column;
    }),
  );
}

export function show(frame) {
  const shown = new Set(frame.layers.map(({ layer }) => layer));
  for (const [name, { tiles }] of columns) if (!shown.has(name)) tiles.replaceChildren();
  for (const layer of frame.layers) {
    const column = columns.get(layer.layer);
    if (!column) continue;
    const [count, height, width] = layer.size;
    while (column.tiles.childElementCount > count) column.tiles.lastChild.remove();
    while (column.tiles.childElementCount < count) column.tiles.append(tile(column));
    for (let number = 0; number < count; number++) {
      const canvas = column.tiles.children[number];
      slice(canvas, layer.values.subarray(number * height * width, (number + 1) * height * width), height, width);
      canvas.place = { layer, number, kind: frame.kind };
      canvas.setAttribute("aria-label", `${frame.kind} of ${layer.layer}, slice ${number}`);
    }
  }
}

function tile(column) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "button");
  canvas.tabIndex = 0;
  let at = [0, 0];
  const ask = (y, x) => {
    const { layer, number, kind } = canvas.place;
    if (kind !== "activations") return;
    const step = layer.step;
    column.explain(layer.shape.length === 3 ? [y * step, x * step, number] : [number]);
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = Math.max(canvas.width / box.width, canvas.height / box.height);
    const inside = (offset, length, extent) =>
      Math.max(0, Math.min(extent - 1, Math.floor((offset - length / 2) * scale + extent / 2)));
    at = [
      inside(event.clientY - box.top, box.height, canvas.height),
      inside(event.clientX - box.left, box.width, canvas.width),
    ];
    ask(...at);
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    if (move) {
      const bound = (value, extent) => Math.max(0, Math.min(extent - 1, value));
      at = [bound(at[0] + move[0], canvas.height), bound(at[1] + move[1], canvas.width)];
    }
    ask(...at);
  });
  return canvas;
}
