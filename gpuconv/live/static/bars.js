// The five best scores as bars, best first.

export function bars(place, best, classes, truth) {
  place.replaceChildren(
    ...best.map(([index, share], row) => {
      const entry = document.createElement("div");
      entry.className = `score${index === truth ? " right" : ""}${row ? "" : " first"}`;
      entry.setAttribute("role", "listitem");
      const name = document.createElement("span");
      name.textContent = classes[index] ?? index;
      const percent = document.createElement("span");
      percent.textContent = `${(100 * share).toFixed(1)} %`;
      const bar = document.createElement("i");
      bar.style.width = `${100 * share}%`;
      entry.append(name, percent, bar);
      return entry;
    }),
  );
}
