"use strict";
const inert = (text) => /^[=+\-@\t\r]/.test(text) ? "'" + text : text;  // no formula for a spreadsheet
const quoted = (text) => /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
document.getElementById("save").addEventListener("click", () => {
  const main = document.querySelector("main");
  const lines = [main.dataset.header];
  let known = 0;
  for (const choice of document.querySelectorAll("select")) {
    lines.push([choice.dataset.name, choice.value, choice.dataset.id].map(inert).map(quoted).join(","));
    known += choice.value !== "";
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  document.getElementById("said").textContent = known + " of " + (lines.length - 1) + " items have a label.";
});
