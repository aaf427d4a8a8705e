// The confusion matrix, the scales of weights and updates, and the test images.

import { bars } from "./bars.js";
import { image } from "./pixels.js";

function cell(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

export function confusion(table, { matrix, classes }) {
  const head = document.createElement("tr");
  head.append(cell("th", "is \\ taken for"), ...classes.map((name) => Object.assign(cell("th", name), { scope: "col" })));
  const lines = matrix.map((row, right) => {
    const line = document.createElement("tr");
    const total = row.reduce((sum, count) => sum + count, 0) || 1;
    line.append(Object.assign(cell("th", classes[right]), { scope: "row" }));
    row.forEach((count, taken) => {
      const entry = cell("td", count || "");
      const color = right === taken ? "var(--good)" : "var(--bad)";
      entry.style.background = `color-mix(in srgb, ${color} ${Math.round(70 * Math.sqrt(count / total))}%, transparent)`;
      entry.title = `${count} of class ${classes[right]} taken for ${classes[taken]}`;
      line.append(entry);
    });
    return line;
  });
  table.replaceChildren(head, ...lines);
}

// Numbers that are not finite come as text: "nan", "inf" or "-inf".
const shown = (value, format) => (typeof value === "string" ? value : format(value));

export function scales(body, rows) {
  body.replaceChildren(
    ...rows.map(({ name, weight, update }) => {
      const line = document.createElement("tr");
      const share = update / weight; // NaN without a meaning: 0 / 0, or of text
      line.append(
        cell("td", name),
        cell("td", shown(weight, (value) => value.toPrecision(3))),
        cell("td", shown(update, (value) => value.toExponential(1))),
        cell("td", Number.isFinite(share) ? share.toExponential(1) : ""),
      );
      return line;
    }),
  );
}

// chosen(index) is called for a click on an image.
export function examples(places, frame, classes, chosen) {
  const parts = { right: [], wrong: [] };
  frame.shown.forEach(({ index, truth, right, best }, number) => {
    const entry = document.createElement("button");
    entry.className = "example";
    entry.setAttribute("role", "listitem");
    entry.setAttribute("aria-label", `test image ${index}, a ${classes[truth]}, taken for ${classes[best[0][0]]}; show it`);
    const canvas = document.createElement("canvas");
    const scores = document.createElement("div");
    image(canvas, frame.images[number]);
    bars(scores, best, classes, truth);
    entry.append(canvas, scores);
    entry.addEventListener("click", () => chosen(index));
    parts[right ? "right" : "wrong"].push(entry);
  });
  for (const [name, entries] of Object.entries(parts)) places[name].replaceChildren(...entries);
}
