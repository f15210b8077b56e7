// Charts in SVG, drawn for the width that there is.

const COLORS = 6;

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((size) => size >= rough * 0.7);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push(i * step);
  }
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const m of [1, 2, 5]) found.push(m * 10 ** power);
  }
  const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  return inside.length > 7 ? inside.filter((v) => /^1/.test(v.toExponential())) : inside;
}

function readable(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size !== 0 && size < 1e-4) return value.toExponential(1).replace(".0e", "e");
  return String(+value.toPrecision(size >= 1000 ? 5 : 4));
}

function extent(values, given) {
  let [low, high] = given || [Math.min(...values), Math.max(...values)];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  return [low, high];
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function frame(chart, width, log) {
  const series = chart.series.filter((one) => one.points.length);
  const xs = series.flatMap((one) => one.points.map((p) => p[0]));
  const ys = series.flatMap((one) => [...one.points.map((p) => p[1]), ...one.low_high.flat()]);
  const bars = series.some((one) => one.style === "bars");
  const shown = log ? ys.filter((y) => y > 0) : bars ? [0, ...ys] : ys;
  const [left, right] = extent(xs, chart.x_range);
  let [low, high] = extent(shown, chart.y_range);
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  if (!chart.y_range) {
    const room = (high - low) * 0.05;
    [low, high] = [bars ? low : low - room, high + room];
  }
  const height = Math.round(Math.min(240, Math.max(180, width * 0.55)));
  const box = { left: 46, right: width - 10, top: 8, bottom: height - 34 };
  const place = (value) => (log ? Math.log10(Math.max(value, 1e-300)) : value);
  return {
    series, box, height, log, low, high, left, right,
    x: (v) => box.left + ((v - left) / (right - left)) * (box.right - box.left),
    y: (v) => box.bottom - ((place(v) - low) / (high - low)) * (box.bottom - box.top),
  };
}

function drawAxes(drawing, chart, f, width) {
  const values = f.log ? logTicks(10 ** f.low, 10 ** f.high) : ticks(f.low, f.high, 4);
  for (const value of values) {
    const y = f.y(value);
    element("svg:line", drawing, null,
      { class: "grid", x1: f.box.left, x2: f.box.right, y1: y, y2: y });
    element("svg:text", drawing, readable(value),
      { x: f.box.left - 6, y: y + 4, "text-anchor": "end" });
  }
  for (const value of ticks(f.left, f.right, width / 90)) {
    element("svg:text", drawing, readable(value),
      { x: f.x(value), y: f.box.bottom + 15, "text-anchor": "middle" });
  }
  element("svg:text", drawing, chart.x,
    { x: (f.box.left + f.box.right) / 2, y: f.height - 4, "text-anchor": "middle" });
}

function drawSeries(drawing, one, color, f) {
  const points = one.points
    .filter((p) => !f.log || p[1] > 0)
    .map(([x, y]) => [f.x(x), f.y(y)]);
  if (one.style === "bars") {
    const step = one.points.length > 1 ? one.points[1][0] - one.points[0][0] : f.right - f.left;
    for (const [x, y] of one.points) {
      const at = { x: f.x(x), width: Math.max(1, f.x(x + step) - f.x(x) - 1), y: f.y(y) };
      element("svg:rect", drawing, null,
        { class: `bar f${color}`, height: Math.max(0, f.box.bottom - at.y), ...at });
    }
    return;
  }
  if (one.low_high.length) {
    const side = (which) => one.points.map((p, i) => [f.x(p[0]), f.y(one.low_high[i][which])]);
    const around = path([...side(0), ...side(1).reverse()]);
    element("svg:path", drawing, null, { class: `band f${color}`, d: `${around}Z` });
  }
  const style = one.style === "guide" ? "guide" : `stroke s${color} ${one.style}`;
  element("svg:path", drawing, null, { class: style, d: path(points) });
  if (one.style === "dots" || points.length === 1) {
    for (const [cx, cy] of points) {
      element("svg:circle", drawing, null, { class: `f${color}`, cx, cy, r: 3 });
    }
  }
}

function nearest(points, x) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] <= x) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? low : high;
}

function followPointer(drawing, read, chart, f) {
  const cross = element("svg:line", drawing, null,
    { class: "cross", y1: f.box.top, y2: f.box.bottom, visibility: "hidden" });
  const named = f.series.filter((one) => one.style !== "guide");
  const bars = named.some((one) => one.style === "bars");
  const xs = [...new Set(named.flatMap((one) => one.points.map((p) => p[0])))]
    .sort((a, b) => a - b).map((x) => [x]);
  drawing.addEventListener("pointermove", (event) => {
    const area = drawing.getBoundingClientRect();
    const share = (event.clientX - area.left - f.box.left) / (f.box.right - f.box.left);
    const wanted = f.left + Math.min(1, Math.max(0, share)) * (f.right - f.left);
    const at = bars ? xs.findLast(([x]) => x <= wanted)?.[0] ?? xs[0][0] : xs[nearest(xs, wanted)][0];
    cross.setAttribute("x1", f.x(at));
    cross.setAttribute("x2", f.x(at));
    cross.setAttribute("visibility", "visible");
    const said = named.map((one) => {
      const i = nearest(one.points, at);
      const [x, y] = one.points[i];
      if (Math.abs(f.x(x) - f.x(at)) > 4) return null;
      const around = one.low_high.length
        ? ` (${one.low_high[i].map(readable).join(" to ")})` : "";
      const raw = one.style === "faint" && named.some((o) => o !== one && o.name === one.name);
      return `${one.name}${raw ? " as logged" : ""} ${readable(y)}${around}`;
    });
    read.textContent = [`${chart.x} ${readable(at)}`, ...said.filter(Boolean)].join(" · ");
  });
  drawing.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    read.textContent = "";
  });
}

function drawChart(plot, chart) {
  const positive = chart.series.flatMap((one) => one.points.map((p) => p[1])).filter((y) => y > 0);
  const wide = chart.log && Math.max(...positive) > 30 * Math.min(...positive);
  let log = wide;
  const named = chart.series.filter((one) => one.style !== "guide" && one.points.length);
  if (!named.length) {
    element("p", plot, "nothing to draw yet", { class: "note" });
    return;
  }
  const colors = new Map();
  for (const one of named) if (!colors.has(one.name)) colors.set(one.name, colors.size % COLORS);
  if (colors.size > 1) {
    const legend = element("div", plot, null, { class: "legend" });
    for (const [name, color] of colors) {
      const entry = element("span", legend);
      element("i", entry, null, { class: `f${color}` });
      entry.append(name);
    }
  }
  const room = element("div", plot);
  const read = element("div", plot, "", { class: "read", role: "status" });
  const draw = () => {
    const width = Math.max(240, Math.floor(room.clientWidth));
    const f = frame(chart, width, log);
    const label = `${named.map((one) => one.name).join(", ")} by ${chart.x}`;
    const drawing = element("svg:svg", null, null,
      { viewBox: `0 0 ${width} ${f.height}`, role: "img", "aria-label": label });
    drawAxes(drawing, chart, f, width);
    for (const one of f.series) drawSeries(drawing, one, colors.get(one.name) ?? 0, f);
    followPointer(drawing, read, chart, f);
    room.replaceChildren(drawing);
  };
  if (wide) {
    const button = element("button", plot, "linear");
    button.addEventListener("click", () => {
      log = !log;
      button.textContent = log ? "linear" : "log";
      draw();
    });
  }
  draw();
  let drawnFor = room.clientWidth;
  new ResizeObserver(() => {
    if (room.clientWidth === drawnFor) return;
    drawnFor = room.clientWidth;
    draw();
  }).observe(room);
}
