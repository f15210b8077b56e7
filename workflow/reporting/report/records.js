// A list of records to search, sort and filter, with marked differences of texts.

const NARROW = matchMedia("(max-width: 599px)"); // fewer records, shorter texts
const CELLS = 9e7; // of the tables of all diffs of one page, which limits the delay
const MOST_CELLS = 4e6; // of one table

const atOnce = () => (NARROW.matches ? 10 : 25); // records shown, and added by the button
const longest = () => (NARROW.matches ? 300 : 700); // characters before the rest is folded
const grouped = (number) => number.toLocaleString("en");

// Words of a text, each with the whitespace after it.
function words(text) {
  const found = [];
  for (const part of text.match(/\s+|[\p{L}\p{N}\p{M}]+|[^]/gu) || []) {
    if (found.length && !part.trim()) found[found.length - 1] += part;
    else found.push(part);
  }
  return found;
}

// Word diff by the longest common subsequence: pieces [what, text], with what "same", "ins" (not in
// the reference) or "del" (missing from the prediction). If the texts share too little, the
// prediction is one "ins". Null if the table needs more than `cells`.
function differences(expected, prediction, cells) {
  const [a, b] = [words(expected), words(prediction)];
  const numbers = new Map(); // of words, which compare faster than texts
  const [is, js] = [a, b].map((side) => Uint32Array.from(side, (word) => {
    const bare = word.trim();
    if (!numbers.has(bare)) numbers.set(bare, numbers.size);
    return numbers.get(bare);
  }));
  let start = 0;
  while (start < Math.min(a.length, b.length) && is[start] === js[start]) start++;
  let [aEnd, bEnd] = [a.length, b.length];
  for (; Math.min(aEnd, bEnd) > start && is[aEnd - 1] === js[bEnd - 1]; aEnd--) bEnd--;
  const wide = bEnd - start + 1;
  if ((aEnd - start + 1) * wide > cells) return null;
  const lengths = new Uint32Array((aEnd - start + 1) * wide); // of the common subsequence from there on
  for (let i = aEnd - 1; i >= start; i--) {
    for (let j = bEnd - 1, at = (i - start) * wide + j - start; j >= start; j--, at--) {
      lengths[at] = is[i] === js[j]
        ? lengths[at + wide + 1] + 1 : Math.max(lengths[at + wide], lengths[at + 1]);
    }
  }
  const shared = start + lengths[0] + a.length - aEnd;
  if (4 * shared < a.length + b.length) return [["ins", prediction]];
  const pieces = b.slice(0, start).map((word) => ["same", word]);
  for (let i = start, j = start; i < aEnd || j < bEnd;) {
    const at = (i - start) * wide + j - start;
    if (i < aEnd && j < bEnd && is[i] === js[j]) {
      pieces.push(["same", b[j++]]);
      i++;
    } else if (j >= bEnd || (i < aEnd && lengths[at + wide] >= lengths[at + 1])) {
      pieces.push(["del", a[i++]]);
    } else pieces.push(["ins", b[j++]]);
  }
  return joined([...pieces, ...b.slice(bEnd).map((word) => ["same", word])]);
}

// Merges neighbors of a kind; whitespace after marked words is not marked.
function joined(pieces) {
  const found = [];
  const put = (what, text) => {
    if (found.at(-1)?.[0] === what) found.at(-1)[1] += text;
    else if (text) found.push([what, text]);
  };
  pieces.forEach(([what, text], i) => {
    const bare = what === "same" || pieces[i + 1]?.[0] === what ? text : text.trimEnd();
    put(what, bare);
    put("same", text.slice(bare.length));
  });
  return found;
}

function beginning(pieces, most) {
  const found = [];
  for (const [what, text] of pieces) {
    if (most <= 0) break;
    found.push([what, text.slice(0, most).replace(/[\ud800-\udbff]$/, "")]); // no lone surrogate
    most -= text.length;
  }
  return found;
}

// Each text in its own direction, the rest in the page's.
function putPieces(where, pieces) {
  const room = element("bdi", where, null, { dir: "auto" });
  const put = (shown) => room.replaceChildren(...shown.map(
    ([what, text]) => (what === "same" ? text : element(what, null, text))));
  const length = pieces.reduce((sum, [, text]) => sum + text.length, 0);
  if (length <= longest()) {
    put(pieces);
    return;
  }
  const begun = beginning(pieces, longest());
  put([...begun, ["same", "…"]]);
  const marked = pieces.slice(begun.length).some(([what]) => what !== "same");
  const button = element("button", where,
    `show all ${grouped(length)} characters${marked ? " (more differences)" : ""}`);
  button.addEventListener("click", () => {
    put(pieces);
    button.remove();
  });
}

function row(list, name) {
  element("dt", list, name);
  return element("dd", list);
}

function putText(where, text) {
  if (text) putPieces(where, [["same", text]]);
  else element("span", where, "(empty)", { class: "small" });
}

function putPrediction(where, expected, { text, score, compared }, named, cells) {
  const differ = compared && expected !== null && expected !== text && text;
  const pieces = differ ? differences(expected, text, cells) : null;
  if (pieces) putPieces(where, pieces);
  else putText(where, text);
  const notes = [
    ...(score === null ? [] : [`${named} ${score.toFixed(2)}`]),
    ...(differ && !pieces ? ["too long for a diff"] : []),
    ...(pieces?.every(([what]) => what === "same") ? ["differs in whitespace only"] : []),
  ];
  if (notes.length) where.append(" ", element("span", null, notes.join(" · "), { class: "small" }));
}

function drawItem(list, item, { prompt_label, score }, cells) {
  const { place, prompt, expected, predictions, facts, tags } = item;
  const article = element("article", list);
  const head = element("h3", article);
  for (const tag of tags) element("b", head, tag, { class: "tag" });
  head.append([`eval[${place}]`, ...facts].join(" · "));
  const parts = element("dl", article);
  putText(row(parts, prompt_label), prompt);
  if (expected !== null) putText(row(parts, "reference"), expected);
  for (const one of predictions) putPrediction(row(parts, one.by), expected, one, score, cells);
}

function select(parent, label, options) {
  const made = element("select", parent, null, { "aria-label": label });
  options.forEach((name, i) => element("option", made, name, { value: i }));
  return made;
}

function orders(numbers, tags) {
  const by = (i, sign) => (a, b) => {
    const [x, y] = [a.numbers[i], b.numbers[i]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x - y);
  };
  const tagged = (item) => (item.tags.includes(tags[0]) ? 0 : 1);
  return [
    ...(tags.length ? [[`${tags[0]} first`, (a, b) => tagged(a) - tagged(b)]] : []),
    ...numbers.flatMap((name, i) => [
      [`${name}, lowest first`, by(i, 1)], [`${name}, highest first`, by(i, -1)],
    ]),
    ["file order", (a, b) => a.place - b.place],
  ];
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function explainMarks(box, items) {
  if (!items.some(({ expected, predictions }) => expected !== null
    && predictions.some(({ text, compared }) => compared && text !== expected))) return;
  const line = element("p", box, null, { class: "note" });
  line.append(element("ins", null, "underlined"), ": not in the reference; ",
    element("del", null, "struck through"), ": missing from the prediction");
}

function counted(shown, found, all) {
  const records = `record${found === 1 ? "" : "s"}`;
  if (!found) return all ? `No matches in ${grouped(all)} records.` : "No records.";
  return `${grouped(shown)} of ${grouped(found)} ${records} shown`
    + (found < all ? `, ${grouped(all)} in total` : "");
}

async function drawItems(box) {
  const content = await unpacked(box.querySelector("script").textContent.trim());
  const { items, numbers, begin } = content;
  const tags = Object.keys(content.tags);
  const controls = element("div", box, null, { class: "controls" });
  const search = element("input", controls, null,
    { type: "search", placeholder: "search", "aria-label": "search" });
  const ways = orders(numbers, tags);
  const order = select(controls, "sort by", ways.map(([name]) => name));
  order.value = Math.max(0, ways.findIndex(([name]) => name === begin));
  const chosen = tags.length ? select(controls, "filter by tag", ["all", ...tags]) : null;
  const count = element("p", box, "", { class: "note", role: "status" });
  explainMarks(box, items);
  const list = element("div", box);
  const more = element("button", box);
  const holds = (item, wanted) => {
    const { prompt, expected, predictions, facts } = item;
    item.text ??= [prompt, expected ?? "", ...predictions.map(({ text }) => text), ...facts]
      .join("\n").toLowerCase(); // cached at the first search
    return item.text.includes(wanted);
  };
  let found = [];
  let shown = 0;
  const showMore = () => {
    const next = found.slice(shown, shown + atOnce());
    const predictions = next.reduce((sum, item) => sum + item.predictions.length, 0);
    const cells = Math.min(MOST_CELLS, CELLS / predictions);
    for (const item of next) drawItem(list, item, content, cells);
    shown += next.length;
    more.hidden = shown >= found.length;
    more.textContent = `show ${Math.min(atOnce(), found.length - shown)} more`;
    count.textContent = counted(shown, found.length, items.length);
  };
  const show = () => {
    const wanted = search.value.toLowerCase();
    const tag = chosen ? tags[chosen.value - 1] : undefined;
    found = items.filter((item) =>
      (!tag || item.tags.includes(tag)) && (!wanted || holds(item, wanted)));
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
