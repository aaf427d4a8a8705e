// Shows how one value is computed: its window (times the filter, plus the bias, if the layer has a filter), the value,
// and the largest products or inputs.

// NaN and infinities, such as the padding of a max pool, come as text.
const exponential = (value) => (typeof value === "string" ? value : value.toExponential(1));
const short = (value) =>
  value === 0 ? "0" : typeof value === "string" || Math.abs(value) < 1e-3 ? exponential(value) : value.toFixed(3);

function text(kind, words) {
  const made = document.createElement(kind);
  made.textContent = words;
  return made;
}

function grid(rows, title) {
  const table = document.createElement("table");
  table.className = "grid";
  table.append(text("caption", title));
  for (const row of rows) {
    const line = document.createElement("tr");
    line.append(...row.map((value) => text("td", short(value))));
    table.append(line);
  }
  return table;
}

export function show(place, found) {
  const sum = document.createElement("div");
  sum.className = "sum";
  const shown = found.window.flat().length;
  const hidden = found.size - shown;
  let part = hidden ? ` (${shown} of ${found.size} values)` : "";
  if (found.channels > 1) part = ` (channel 1 of ${found.channels})`;
  sum.append(grid(found.window, `window${part}`));
  if (found.weight) {
    sum.append(text("strong", "×"), grid(found.weight, `filter${part}`), text("strong", "+"));
    if (hidden) sum.append(text("span", `${hidden} more products`), text("strong", "+"));
    sum.append(text("span", `bias ${short(found.bias)}`));
  }
  sum.append(text("strong", "="), text("span", short(found.total)));
  const terms = document.createElement("table");
  terms.append(text("caption", found.weight ? "the largest products" : "the largest inputs"));
  for (const { at, input, weight, product } of found.terms.slice(0, 6)) {
    const line = document.createElement("tr");
    const how = found.weight ? `${short(input)} × ${short(weight)} = ${short(product)}` : short(input);
    line.append(text("td", `[${at.join(", ")}]`), text("td", how));
    terms.append(line);
  }
  sum.append(terms);
  place.replaceChildren(text("p", `${found.text} (error ${exponential(found.error)}).`), sum);
  place.hidden = false;
}
