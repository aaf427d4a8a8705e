// Loss and accuracy by step.

const PARTS = ["train", "validation", "test"]; // style.css has a color of each name

// column: 1 for the loss, 2 for the accuracy. least, most: the ends of the axis.
// Without most, the axis ends at the largest value.
export function draw(canvas, curves, column, least, most) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  if (!wide) return;
  Object.assign(canvas, { width: wide * ratio, height: high * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const lines = PARTS.map((part) => [curves[part].map((point) => [point[0], point[column]]), part, 2]);
  lines.unshift([curves.readings.map((point) => [point[0], point[column]]), "train", 0.6]);
  for (const entry of lines) entry[0] = entry[0].filter(([, value]) => value !== null);
  const points = lines.flatMap(([line]) => line);
  if (!points.length) return;
  const last = Math.max(...points.map(([x]) => x), 1);
  const top = most ?? Math.max(...points.map(([, y]) => y));
  const x = (step) => 34 + ((wide - 44) * step) / last;
  const y = (value) => high - 16 - ((high - 24) * (value - least)) / (top - least || 1);
  context.font = "10px system-ui";
  context.fillStyle = color("muted");
  context.strokeStyle = color("faint");
  for (const share of [0, 0.5, 1]) {
    const value = least + share * (top - least);
    context.beginPath();
    context.moveTo(34, y(value));
    context.lineTo(wide - 10, y(value));
    context.stroke();
    context.fillText(most ? `${Math.round(100 * value)} %` : value.toFixed(2), 2, y(value) + 3);
  }
  context.fillText(`step ${last}`, wide - 60, high - 3);
  context.setLineDash([2, 3]);
  context.strokeStyle = color("muted");
  for (const [step] of curves.changes) {
    context.beginPath();
    context.moveTo(x(step), 8);
    context.lineTo(x(step), high - 16);
    context.stroke();
  }
  context.setLineDash([]);
  for (const [line, part, width] of lines) {
    context.strokeStyle = color(part);
    context.lineWidth = width;
    context.beginPath();
    line.forEach(([step, value], at) => (at ? context.lineTo(x(step), y(value)) : context.moveTo(x(step), y(value))));
    context.stroke();
  }
}

export function legend(place, curves) {
  place.replaceChildren(
    ...PARTS.filter((part) => curves[part].length).map((part) => {
      const [, loss, accuracy] = curves[part].at(-1);
      const entry = document.createElement("span");
      entry.textContent = `${part}: loss ${loss.toFixed(4)}`;
      entry.dataset.part = part;
      if (accuracy !== null) {
        entry.textContent += `, accuracy ${(100 * accuracy).toFixed(2)} %`;
        entry.dataset.accuracy = accuracy;
      }
      entry.style.color = `var(--${part})`;
      return entry;
    }),
  );
}
