// A list of records to search and to sort, with the differences of texts marked.

const AT_ONCE = 25; // records shown, and added by the button
const LONG = 700; // characters of a text before the rest is folded

function words(text) {
  return text.match(/\s+|[\p{L}\p{N}\p{M}]+|[^]/gu) || [];
}

// Pieces of both texts in order: [what, text], what being "same", "ins" (answer alone) or "del".
// The longest common subsequence of words; null where the texts have little in common.
function differences(expected, answer) {
  const [a, b] = [words(expected), words(answer)];
  let start = 0;
  while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [left, right] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const wide = right.length + 1;
  if (left.length * wide > 4e6) return null;
  const longest = new Uint32Array((left.length + 1) * wide);
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      longest[i * wide + j] = left[i] === right[j]
        ? longest[(i + 1) * wide + j + 1] + 1
        : Math.max(longest[(i + 1) * wide + j], longest[i * wide + j + 1]);
    }
  }
  if (2 * (longest[0] + start + end) < 0.5 * (a.length + b.length)) return null;
  const pieces = start ? [["same", a.slice(0, start).join("")]] : [];
  for (let i = 0, j = 0; i < left.length || j < right.length;) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      pieces.push(["same", left[i++]]);
      j++;
    } else if (j >= right.length
      || (i < left.length && longest[(i + 1) * wide + j] >= longest[i * wide + j + 1])) {
      pieces.push(["del", left[i++]]);
    } else pieces.push(["ins", right[j++]]);
  }
  if (end) pieces.push(["same", a.slice(a.length - end).join("")]);
  return pieces;
}

function putDifferences(where, pieces) {
  let last = null;
  for (const [what, text] of pieces) {
    if (last && last.what === what) last.node.textContent += text;
    else if (what === "same") where.append(text);
    else last = { what, node: element(what, where, text) };
    if (what === "same") last = null;
  }
}

function putText(where, text) {
  if (text.length <= LONG) {
    where.append(text);
    return;
  }
  const shown = document.createTextNode(`${text.slice(0, LONG)}…`);
  where.append(shown);
  const button = element("button", where, `all ${text.length.toLocaleString("en")} characters`);
  button.addEventListener("click", () => {
    shown.textContent = text;
    button.remove();
  });
}

function row(list, name, put) {
  element("dt", list, name);
  const where = element("dd", list);
  put(where);
  return where;
}

function drawItem(list, item, tags) {
  const [place, prompt, expected, answers, facts, , tagged] = item;
  const article = element("article", list);
  const head = element("h3", article);
  for (const tag of tagged) element("b", head, tags[tag], { class: "tag" });
  head.append([`record ${place}`, ...facts].join(" · "));
  const parts = element("dl", article);
  row(parts, "prompt", (where) => putText(where, prompt));
  if (expected !== null) row(parts, "expected", (where) => putText(where, expected));
  for (const [by, text, score, compared] of answers) {
    const where = row(parts, by, (there) => {
      const pieces = compared && expected !== null && expected !== text
        ? differences(expected, text) : null;
      if (pieces) putDifferences(there, pieces);
      else putText(there, text === "" ? "(nothing)" : text);
    });
    if (score !== null) element("span", where, `  ${score.toFixed(2)}`, { class: "score" });
  }
}

function select(parent, label, options) {
  const made = element("select", parent, null, { "aria-label": label });
  options.forEach((name, i) => element("option", made, name, { value: i }));
  return made;
}

function orders(numbers, tags) {
  const by = (i, sign) => (a, b) => {
    const [x, y] = [a[5][i], b[5][i]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
  const tagged = (item) => (item[6].includes(0) ? 0 : 1);
  return [
    ...(tags.length ? [[`${tags[0]} first`, (a, b) => tagged(a) - tagged(b)]] : []),
    ...numbers.flatMap((name, i) => [
      [`${name}, lowest first`, by(i, 1)], [`${name}, highest first`, by(i, -1)],
    ]),
    ["as in the file", (a, b) => a[0] - b[0]],
  ];
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function drawItems(box) {
  const { items, numbers, tags, begin } = await unpacked(box.querySelector("script").textContent.trim());
  const controls = element("div", box, null, { class: "controls" });
  const search = element("input", controls, null,
    { type: "search", placeholder: "search prompts and answers", "aria-label": "search" });
  const ways = orders(numbers, tags);
  const order = select(controls, "order", ways.map(([name]) => name));
  order.value = Math.max(0, ways.findIndex(([name]) => name === begin));
  const chosen = tags.length ? select(controls, "shown", ["all", ...tags]) : null;
  const count = element("span", controls, "", { class: "note", role: "status" });
  const list = element("div", box);
  const more = element("button", box, `${AT_ONCE} more`);
  let texts = null; // of each item, made when they are first searched
  const holds = (item, wanted) => {
    texts ??= new Map(items.map((one) => [one,
      [one[1], one[2] ?? "", ...one[3].map((a) => a[1]), ...one[4]].join("\n").toLowerCase()]));
    return texts.get(item).includes(wanted);
  };
  let found = [];
  let shown = 0;
  const showMore = () => {
    for (const item of found.slice(shown, shown + AT_ONCE)) drawItem(list, item, tags);
    shown = Math.min(found.length, shown + AT_ONCE);
    more.hidden = shown >= found.length;
    count.textContent = `${found.length.toLocaleString("en")} of `
      + `${items.length.toLocaleString("en")} records`;
  };
  const show = () => {
    const wanted = search.value.toLowerCase();
    const tag = chosen ? Number(chosen.value) - 1 : -1;
    found = items.filter((item) =>
      (tag < 0 || item[6].includes(tag)) && (!wanted || holds(item, wanted)));
    found.sort(ways[order.value][1]);
    list.replaceChildren();
    shown = 0;
    showMore();
  };
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 150);
  });
  for (const control of [order, chosen]) control?.addEventListener("change", show);
  more.addEventListener("click", showMore);
  show();
}
