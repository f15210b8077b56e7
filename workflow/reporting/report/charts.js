// Charts in SVG, drawn for the available width.

const COLORS = 6;

const SMALL = 1e-300; // smaller absolute values count as 0
const GREAT = 1e300; // greater ones are drawn as this, so that computations stay finite

function tame(value) {
  return Math.abs(value) < SMALL ? 0 : Math.min(GREAT, Math.max(-GREAT, value));
}

function extremes(values) { // for more values than a call can have arguments
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)],
    [Infinity, -Infinity]);
}

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

// low, high: powers of ten.
function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const m of [1, 2, 5]) found.push([power, m * 10 ** power]);
  }
  const inside = found.filter(([, value]) =>
    Math.log10(value) >= low - 1e-3 && Math.log10(value) <= high + 1e-3);
  const every = Math.ceil((high - low) / 7);
  const some = inside.length <= 7 ? inside
    : inside.filter(([power, value]) => value === 10 ** power && power % every === 0);
  return some.map(([, value]) => value);
}

function readable(value) {
  const size = Math.abs(value);
  if (size >= 1e9 || (size !== 0 && size < 1e-4)) {
    return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  }
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  return String(+value.toPrecision(size >= 1000 ? 5 : 4));
}

// The range of an axis, which is never empty.
function extent(values, given) {
  const [low, high] = (given || extremes(values)).map(tame);
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low > size * 1e-11) return [low, high];
  return size === 0 ? [0, 1] : [low - size / 2, low + size / 2];
}

function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function yAxis(chart, series, log) {
  const ys = series.flatMap((one) => [...one.points.map((p) => p[1]), ...one.low_high.flat()]);
  const bars = series.some((one) => one.style === "bars");
  const given = log && chart.y_range && chart.y_range[0] <= 0 ? null : chart.y_range;
  const shown = log ? ys.filter((y) => y >= SMALL) : bars ? [0, ...ys] : ys;
  let [low, high] = extent(shown, given);
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  if (!given) {
    const room = (high - low) * 0.05;
    [low, high] = [bars ? low : low - room, high + room];
  }
  return { log, low, high, marks: log ? logTicks(low, high) : ticks(low, high, 4) };
}

function frame(chart, width, log) {
  const series = chart.series.filter((one) => one.points.length);
  const [left, right] = extent(series.flatMap((one) => one.points.map((p) => p[0])), chart.x_range);
  const axis = yAxis(chart, series, log);
  const letters = Math.max(...axis.marks.map((value) => readable(value).length));
  const height = Math.round(Math.min(240, Math.max(180, width * 0.55)));
  const box = {
    left: Math.max(40, 12 + 6.5 * letters), right: width - 16, top: 8, bottom: height - 34,
  };
  const place = (value) => (log ? Math.log10(Math.max(value, SMALL)) : tame(value));
  const inside = (share, from, to) => from + Math.min(1, Math.max(0, share)) * (to - from);
  return {
    series, box, height, left, right, ...axis,
    x: (v) => inside((tame(v) - left) / (right - left), box.left, box.right),
    y: (v) => inside((place(v) - axis.low) / (axis.high - axis.low), box.bottom, box.top),
  };
}

function drawAxes(drawing, chart, f, width) {
  for (const value of f.marks) {
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
    .filter((p) => !f.log || p[1] >= SMALL)
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
  const gap = (i) => Math.abs(points[i][0] - x);
  return points.reduce((best, _, i) => (gap(i) < gap(best) ? i : best), 0);
}

function followPointer(drawing, read, chart, f) {
  const cross = element("svg:line", drawing, null,
    { class: "cross", y1: f.box.top, y2: f.box.bottom, visibility: "hidden" });
  const named = f.series.filter((one) => one.style !== "guide");
  const bars = named.some((one) => one.style === "bars");
  const xs = [...new Set(named.flatMap((one) => one.points.map((p) => p[0])))]
    .sort((a, b) => a - b).map((x) => [x]);
  const show = (event) => {
    const area = drawing.getBoundingClientRect();
    const share = (event.clientX - area.left - f.box.left) / (f.box.right - f.box.left);
    const wanted = f.left + Math.min(1, Math.max(0, share)) * (f.right - f.left);
    const at = bars ? xs.findLast(([x]) => x <= wanted)?.[0] ?? xs[0][0] : xs[nearest(xs, wanted)][0];
    cross.setAttribute("x1", f.x(at));
    cross.setAttribute("x2", f.x(at));
    cross.setAttribute("visibility", "visible");
    const texts = named.map((one) => {
      const i = nearest(one.points, at);
      const [x, y] = one.points[i];
      if (Math.abs(f.x(x) - f.x(at)) > 4) return null;
      const around = one.low_high.length
        ? ` (${one.low_high[i].map(readable).join(" to ")})` : "";
      const raw = one.style === "faint" && named.some((o) => o !== one && o.name === one.name);
      return `${one.name}${raw ? " (unsmoothed)" : ""} ${readable(y)}${around}`;
    });
    read.textContent = [`${chart.x} ${readable(at)}`, ...texts.filter(Boolean)].join(" · ");
  };
  drawing.addEventListener("pointerdown", show);
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") return; // the tapped values stay
    cross.setAttribute("visibility", "hidden");
    read.textContent = "";
  });
}

function drawLegend(plot, colors) {
  const legend = element("div", plot, null, { class: "legend" });
  for (const [name, color] of colors) {
    const entry = element("span", legend);
    element("i", entry, null, { class: `f${color}` });
    entry.append(name);
  }
}

function drawChart(plot, chart) {
  const named = chart.series.filter((one) => one.style !== "guide" && one.points.length);
  if (!named.length) {
    element("p", plot, "no data yet", { class: "note" });
    return;
  }
  const [least, most] = extremes(chart.series.flatMap((one) => one.points.map((p) => p[1]))
    .filter((y) => y >= SMALL));
  const wide = chart.log && most / 30 > least;
  let log = wide;
  const colors = new Map();
  for (const one of named) if (!colors.has(one.name)) colors.set(one.name, colors.size % COLORS);
  if (colors.size > 1) drawLegend(plot, colors);
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
    read.textContent = "";
    if (!button) return;
    button.textContent = `${log ? "linear" : "log"} scale`;
    button.title = `show on a ${button.textContent}`;
  };
  const button = wide ? element("button", plot) : null;
  button?.addEventListener("click", () => {
    log = !log;
    draw();
  });
  draw();
  new ResizeObserver(draw).observe(room);
}
