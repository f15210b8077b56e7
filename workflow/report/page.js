"use strict";
// The beginning of the page's script; charts.js and records.js follow it. Texts are only ever set as
// text, never as HTML.

function element(name, parent, text, attributes = {}) {
  const drawn = name.startsWith("svg:");
  const made = drawn
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined && text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
addEventListener("DOMContentLoaded", () => {
  for (const plot of document.querySelectorAll(".plot")) {
    drawChart(plot, JSON.parse(plot.querySelector("script").textContent));
  }
  for (const box of document.querySelectorAll(".items")) {
    drawItems(box).catch((error) => {
      element("p", box, `This browser cannot unpack the records (${error.message}).`,
        { class: "note" });
    });
  }
});
