"use strict";
// Each figure as an SVG file in the colours of paper, and the unrounded numbers behind it as CSV; nothing leaves the page.
(() => {
  const inks = JSON.parse(document.getElementById("inks").textContent);
  const save = (name, kind, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const vector = (figure) => {
    const drawn = figure.querySelector("svg.wide").cloneNode(true);
    drawn.removeAttribute("style");
    drawn.removeAttribute("class");
    drawn.setAttribute("font-family", "sans-serif");
    const text = new XMLSerializer().serializeToString(drawn);
    return text.replace(/var\(--(\w+)\)/g, (whole, name) => inks[name] || whole);
  };
  // A text that a spreadsheet would take for a formula begins with a quote, as spreadsheets themselves mark text.
  const cell = (value) => {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const plain = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const table = (rows) => rows.map((row) => row.map(cell).join(",") + "\n").join("");
  for (const behind of document.querySelectorAll("script.behind")) {
    const figure = behind.closest("figure");
    const name = behind.dataset.name;
    const home = document.createElement("p");
    home.className = "downloads";
    const kinds = {
      SVG: () => save(`${name}.svg`, "image/svg+xml", vector(figure)),
      CSV: () => save(`${name}.csv`, "text/csv", table(JSON.parse(behind.textContent))),
    };
    for (const [kind, make] of Object.entries(kinds)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = kind;
      button.setAttribute("aria-label", `Download ${kind === "SVG" ? "the figure" : "its numbers"} as ${kind}: ${name}`);
      button.addEventListener("click", make);
      home.append(button);
    }
    figure.append(home);
  }
})();
