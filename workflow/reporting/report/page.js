"use strict";
// The first part of the page's script; charts.js and records.js follow. Texts are only ever set as
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

// Replaces a broken chart or list by an error, so that the others are still shown.
function insteadOf(box, text, error) {
  console.error(error);
  box.replaceChildren(element("p", null, `${text} (${error.message})`, { class: "note" }));
}

addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details:has(.plot)")) folded.open = true;
});
addEventListener("DOMContentLoaded", () => {
  for (const plot of document.querySelectorAll(".plot")) {
    try {
      drawChart(plot, JSON.parse(plot.querySelector("script").textContent));
    } catch (error) {
      insteadOf(plot, "this chart cannot be drawn", error);
    }
  }
  for (const box of document.querySelectorAll(".items")) {
    drawItems(box).catch((error) => insteadOf(box, "the records cannot be listed", error));
  }
});
